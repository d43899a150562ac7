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
from .scan_operator import define

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
    return _operator(inputs, directions)


def _forward(inputs: ScanInputs, directions: Sequence[int], keep_states: bool) -> tuple[Tensor, Tensor]:
    x = inputs.x

    def kernel() -> Tensor:
        with torch.no_grad():
            return _scan(inputs, directions)

    def by_torch() -> Tensor:
        with torch.no_grad():
            return torch_scan.omni_scan(inputs, directions)

    y = fallback.run('mamba', x.device, inputs.dtype, kernel, by_torch)
    return y.contiguous(), x.new_empty(_states_shape(inputs, directions), dtype=torch.float32)


def _backward(grad_y: Tensor, inputs: ScanInputs, states: Tensor, directions: Sequence[int]) -> ScanInputs:
    """The gradients, for which the forward pass is computed again: what the kernel keeps is its own business."""

    def gradients(scan: Callable[[ScanInputs, Sequence[int]], Tensor]) -> ScanInputs:
        with torch.inference_mode(False), torch.enable_grad():
            leaves = ScanInputs(*(t.detach().clone().requires_grad_() for t in inputs))
            y = scan(leaves, directions)
            grads = torch.autograd.grad(y, list(leaves), grad_y.to(y.dtype))
        return ScanInputs(*(grad.contiguous() for grad in grads))

    return fallback.run(
        'mamba', inputs.x.device, inputs.dtype, lambda: gradients(_scan), lambda: gradients(torch_scan.omni_scan)
    )


def _states_shape(inputs: ScanInputs, directions: Sequence[int]) -> tuple[int, ...]:
    return (0,)


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


# On CPUs with a stand-in for the kernel only.
_operator = define('mamba_scan', ['CUDA', 'CPU'], _forward, _backward, _states_shape)
