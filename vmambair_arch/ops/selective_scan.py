"""The public scan and the choice of its backend.

`omni_scan` is the one function that networks call. Which backend serves it is decided once for each kind of device
and dtype: the fastest that works there, or the one that the environment variable `VMAMBAIR_SCAN` names. A faster
backend that is missing is said once, with the line that would install it.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .reference import PLANE_DIRECTIONS, ScanInputs

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
    inputs: ScanInputs, directions: Sequence[int] = PLANE_DIRECTIONS, *, backend: str | None = None
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
        inputs: the map x, what it is projected to, and the parameters. The projection is pointwise, so it is taken once
            on the map as it lies.
        directions: K of the four codes of `reference.scan_order`.
        backend: a name of `BACKENDS`, 'reference' or 'loop'; default: what `using` says, or `choose`.

    Returns:
        y: (b, h, w, d), dtype of x.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    _check(inputs, directions)
    name = in_use(inputs.x.device.type, inputs.x.dtype, backend)
    return _LOADED[name](inputs, tuple(directions))


Scan = Callable[[ScanInputs, Sequence[int]], Tensor]

_LOADED: dict[str, Scan] = {'reference': reference.omni_scan}
"""The `omni_scan` of every backend that was used."""

_EXPORT_ONLY = Backend('loop', 'loop_scan', (), 'pip install torch')
"""Never chosen: for graphs that leave Python, by name."""

_USING: ContextVar[str | None] = ContextVar('vmambair_scan_using', default=None)


@contextmanager
def using(backend: str | Scan) -> Iterator[None]:
    """Scan with one backend inside the `with` block, in this thread, whatever would have been chosen.

    What is fused with the C kernels' help (`depthwise`) is left to torch unless the backend is 'c'. A network that
    torch.compile has compiled already keeps the backend it was compiled with.

    Args:
        backend: a name of `BACKENDS`, 'reference', 'loop' (a loop that torch.export can keep), or a function of the
            inputs and the directions that is called in place of a scan.

    Raises:
        ValueError: an unknown name.
    """
    name = backend if isinstance(backend, str) else f'function {id(backend)}'
    if isinstance(backend, str):
        _load(name)
    else:
        _LOADED[name] = backend
    token = _USING.set(name)
    try:
        yield
    finally:
        _USING.reset(token)
        if not isinstance(backend, str):
            del _LOADED[name]


def in_use(device_type: str, dtype: torch.dtype, name: str | None = None) -> str:
    """The name of the backend that scans tensors of `dtype` on this kind of device; its scan is loaded afterwards.

    torch.compile runs this while it traces, for it cannot follow an import.
    """
    name = name or _USING.get() or choose(torch.device(device_type), dtype).backend.name
    _load(name)
    return name


# What `torch.compiler.assume_constant_result` does, which imports a compiler of a second for it.
in_use._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(name: str) -> None:
    if name not in _LOADED:
        backend = next((b for b in (*BACKENDS, _EXPORT_ONLY) if b.name == name), None)
        if backend is None:
            raise ValueError(f"backend '{name}' is not one of reference, loop, {', '.join(backend_names())}")
        _LOADED[name] = backend.load().omni_scan


def _check(inputs: ScanInputs, directions: Sequence[int]) -> None:
    x, x_dbl, dt_weight, dt_bias, A, D = inputs
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
