"""mamba-ssm's CUDA kernel as a backend, used where somebody has built it.

Building it needs nvcc, and since its release 2.3 MAMBA_KEEP_CUDA_BUILD=TRUE in the environment: without that it imports
and has no kernel.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from . import fallback, torch_scan
from .reference import ScanInputs

LARGEST_STATE = 256
"""The largest N that the kernel takes."""


@lru_cache(maxsize=1)
def _kernel() -> tuple[Callable | None, str]:
    """mamba-ssm's `selective_scan_fn`, or None and why it cannot be used; imported on first use only."""
    try:
        from mamba_ssm.ops import selective_scan_interface
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        # Builds without the compiled extension set the name to None, or leave its import to the first call.
        there = getattr(selective_scan_interface, 'selective_scan_cuda', None)
        if there is None and importlib.util.find_spec('selective_scan_cuda') is None:
            return None, 'it was built without its kernel selective_scan_cuda'
    except Exception as error:  # a broken build raises anything from ImportError to RuntimeError
        return None, f'{type(error).__name__}: {error}'
    return selective_scan_fn, ''


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot be used for tensors of `dtype` on `device`; None where it can."""
    if device.type != 'cuda':
        return 'runs on CUDA devices only'
    if dtype == torch.float64:
        return 'no float64'
    kernel, why = _kernel()
    return None if kernel else f'mamba-ssm cannot be used ({why})'


def omni_scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    """Arguments as in `vmambair_arch.ops.omni_scan`; the K directions are K groups of mamba-ssm's kernel."""
    x = inputs.x

    def by_torch() -> Tensor:
        return torch_scan.omni_scan(inputs, directions)

    return fallback.run('mamba', x.device, x.dtype, lambda: _scan(inputs, directions), by_torch)


def _scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    kernel, why = _kernel()
    if kernel is None:
        raise RuntimeError(f'mamba-ssm cannot be used ({why})')
    if inputs.A.shape[-1] > LARGEST_STATE:
        raise ValueError(f"mamba-ssm's kernel takes states of {LARGEST_STATE} numbers, not of {inputs.A.shape[-1]}")
    x = inputs.x
    with torch.autocast(x.device.type, enabled=False):
        full = ScanInputs(*(t.float() for t in inputs))
        us, delta, B, C, orders = torch_scan.sequences(full, directions)
        b, K, L, d = us.shape
        channels_first = [t.permute(0, 1, 3, 2).contiguous() for t in (us, delta, B, C)]
        u, delta, B, C = channels_first
        # delta arrives after softplus: the kernel is told to leave it alone.
        y = kernel(u.view(b, K * d, L), delta.view(b, K * d, L), full.A.reshape(K * d, -1), B, C, full.D.reshape(-1))
        y = torch_scan.merge(y.view(b, K, d, L).transpose(2, 3), orders)
    return y.view(x.shape).to(x.dtype)
