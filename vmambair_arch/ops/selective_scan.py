"""The public scan and the choice of its backend.

`omni_scan` is the one function that networks call. Which backend serves it is decided once for each kind of device
and dtype: the fastest that works there, or the one that the environment variable `VMAMBAIR_SCAN` names. A faster
backend that is missing is said once, with the line that would install it.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .reference import PLANE_DIRECTIONS

ENV = 'VMAMBAIR_SCAN'
logger = logging.getLogger('vmambair_arch')


@dataclass(frozen=True)
class Backend:
    """One way to run the scan.

    Attributes:
        name: what `VMAMBAIR_SCAN` and the `backend` argument call it.
        module: the module in this folder with `unavailable(device, dtype)` and `omni_scan(...)`.
        devices: device types on which it is a candidate, fastest backend first in `BACKENDS`.
        install: the line that makes it available.
    """

    name: str
    module: str
    devices: tuple[str, ...]
    install: str

    def load(self) -> ModuleType:
        return importlib.import_module(f'.{self.module}', __package__)

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot serve `dtype` on `device`; None where it can."""
        if self.devices and device.type not in self.devices:
            return f'runs on {" and ".join(self.devices)} only'
        return self.load().unavailable(device, dtype)


BACKENDS = (
    # Triton before mamba-ssm is a prediction until `python -m benchmarks.gpu` has measured it: 95 us by the bytes moved
    # and 115 us by the instructions compiled, against 235 us, for a forward scan of 8 maps of 64 x 64 x 96 on an H200.
    Backend('triton', 'triton_scan', ('cuda',), 'pip install triton (on Windows: triton-windows)'),
    Backend('mamba', 'mamba_scan', ('cuda',), 'pip install --no-build-isolation mamba-ssm causal-conv1d'),
    Backend('c', 'c_scan', ('cpu',), 'install gcc or clang, then reinstall: pip install --force-reinstall --no-deps .'),
    Backend('torch', 'torch_scan', (), 'pip install torch'),
)
"""Fastest first."""


@dataclass(frozen=True)
class Choice:
    """The backend that serves a device and dtype, why, and the faster ones that are not there with the reason."""

    backend: Backend
    why: str
    missing: tuple[tuple[Backend, str], ...] = ()


def backend_names() -> tuple[str, ...]:
    return tuple(backend.name for backend in BACKENDS)


def choose(device: torch.device, dtype: torch.dtype) -> Choice:
    """The choice of backend for tensors of `dtype` on `device`; reads `VMAMBAIR_SCAN`.

    Raises:
        ValueError: the variable names an unknown backend, or one that cannot serve this device.
    """
    return _choose(device.type, dtype, os.environ.get(ENV, '').strip().lower() or 'auto')


@cache
def _choose(device_type: str, dtype: torch.dtype, wanted: str) -> Choice:
    device = torch.device(device_type)
    if wanted != 'auto':
        for backend in BACKENDS:
            if backend.name == wanted:
                why_not = backend.unavailable(device, dtype)
                if why_not:
                    raise ValueError(f'{ENV}={wanted} cannot be used: {why_not}; to install it: {backend.install}')
                return Choice(backend, f'{ENV}={wanted}')
        raise ValueError(f"{ENV}={wanted} is no backend; use 'auto' or one of {', '.join(backend_names())}")
    missing = []
    for backend in BACKENDS:
        if backend.devices and device_type not in backend.devices:
            continue
        why_not = backend.unavailable(device, dtype)
        if why_not is None:
            choice = Choice(backend, 'the fastest that works here', tuple(missing))
            _say(choice, device, dtype)
            return choice
        missing.append((backend, why_not))
    raise ValueError(f'no scan backend for {dtype} on {device_type}')


def _say(choice: Choice, device: torch.device, dtype: torch.dtype) -> None:
    """One warning where the slow torch version serves although a kernel exists for this device."""
    if choice.backend.name == 'torch' and choice.missing:
        backend, why = choice.missing[0]
        only_dtype = backend.unavailable(device, torch.float32) is None
        fix = 'use a network in float32' if only_dtype else backend.install
        logger.warning(
            'selective scan on %s: the plain torch version serves, many times slower than a kernel. %s: %s. Fix: %s',
            device.type, backend.name, why, fix,
        )  # fmt: skip


def omni_scan(
    x: Tensor,
    x_dbl: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    directions: Sequence[int] = PLANE_DIRECTIONS,
    *,
    backend: str | None = None,
) -> Tensor:
    """Omni selective scan (VmambaIR, section 3.3): read a map in K directions, add what they read.

    For each direction k, with the pixels taken in the order `reference.scan_order(directions[k], h, w)`:

        dt, B, C = x_dbl[..., k]                          R, N and N numbers a pixel
        delta    = softplus(dt_weight[k] dt + dt_bias[k])
        h_t      = exp(delta_t A[k]) h_{t-1} + delta_t B_t x_t
        y_t      = <C_t, h_t> + D[k] x_t

    The state h is float32 (float64 for float64 input) whatever the dtype of x and under any autocast.
    A sequence is a map of height 1 read in directions (0, 2).

    Args:
        x: (b, h, w, d), floating point.
        x_dbl: (b, h, w, K * (R + 2N)), for each direction dt, B and C of every pixel: x projected by `x_proj`. The
            projection is pointwise, so it is taken once on the map as it lies.
        dt_weight: (K, d, R).
        dt_bias: (K, d).
        A: (K, d, N), negative.
        D: (K, d).
        directions: K of the four codes of `reference.scan_order`.
        backend: a name of `BACKENDS` or 'reference'; default: `choose`.

    Returns:
        y: (b, h, w, d), dtype of x.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    _check(x, x_dbl, dt_weight, dt_bias, A, D, directions)
    directions = tuple(directions)
    name = _loaded(x.device.type, x.dtype, backend)
    return _LOADED[name](x, x_dbl, dt_weight, dt_bias, A, D, directions)


_LOADED: dict[str, Callable[..., Tensor]] = {'reference': reference.omni_scan}
"""The `omni_scan` of every backend that has served."""


@torch.compiler.assume_constant_result
def _loaded(device_type: str, dtype: torch.dtype, name: str | None) -> str:
    """The name of the backend to use, which is in `_LOADED` afterwards.

    torch.compile runs this while it traces, for it cannot follow an import.
    """
    if name is None:
        name = choose(torch.device(device_type), dtype).backend.name
    if name not in _LOADED:
        backend = next((b for b in BACKENDS if b.name == name), None)
        if backend is None:
            raise ValueError(f"backend '{name}' is not one of reference, {', '.join(backend_names())}")
        _LOADED[name] = backend.load().omni_scan
    return name


def _check(
    x: Tensor, x_dbl: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, directions: Sequence[int]
) -> None:
    if x.ndim != 4:
        raise ValueError(f'x must be (b, h, w, d), got {tuple(x.shape)}')
    if dt_weight.ndim != 3 or A.ndim != 3:
        raise ValueError(f'dt_weight must be (K, d, R) and A (K, d, N), got {tuple(dt_weight.shape)}, {tuple(A.shape)}')
    K, d, R = dt_weight.shape
    N = A.shape[-1]
    expected = {
        'directions': (len(directions), K),
        'x channels': (x.shape[-1], d),
        'x_dbl': (tuple(x_dbl.shape), (*x.shape[:3], K * (R + 2 * N))),
        'dt_bias': (tuple(dt_bias.shape), (K, d)),
        'A': (tuple(A.shape), (K, d, N)),
        'D': (tuple(D.shape), (K, d)),
    }
    for name, (got, wanted) in expected.items():
        if got != wanted:
            raise ValueError(f'{name}: expected {wanted}, got {got}')
    if any(k not in PLANE_DIRECTIONS for k in directions):
        raise ValueError(f'directions must be codes 0 to 3, got {tuple(directions)}')
