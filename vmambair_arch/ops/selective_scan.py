"""The public scan and the choice of its backend.

`omni_scan` is the one function that networks call. Which backend is used is decided once for each device and dtype: the
one that the environment variable `VMAMBAIR_SCAN` names, which is used as it is, or the fastest that works. On a GPU
working means tried (`self_check`), and one that fails later all the same is replaced by torch (`fallback`). What is
faster and not there, or does not work, is said once, with the line that would fix it.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, peek_interpreter_stack
from torch.autograd import forward_ad

from . import fallback, faults, reference, self_check
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
        repeatable: whether it gives the same bits in every run.
    """

    name: str
    module: str
    devices: tuple[str, ...]
    install: str
    repeatable: bool = True

    def load(self) -> ModuleType:
        return importlib.import_module(f'.{self.module}', __package__)

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot be used for `dtype` on `device`; None where it can."""
        if self.devices and device.type not in self.devices:
            return f'runs on {" and ".join(self.devices)} only'
        return self.load().unavailable(device, dtype)

    def fix(self, reason: str) -> str:
        """What a user can do about a reason of `unavailable`."""
        return next((fix for word, fix in _FIXES if word in reason), self.install)


_FIXES = (
    ('no float', 'use a network in float32'),
    ('VMAMBAIR_SCAN_ISA', 'unset VMAMBAIR_SCAN_ISA, or set it to one of these'),
    ('runs on', "name a backend of this device, or 'auto'"),
    ('compute capability', "name another backend, or 'auto'"),
)
"""By a word of the reason, where installing the backend changes nothing."""


BACKENDS: tuple[Backend, ...] = (
    # Triton before mamba-ssm is a prediction until `python -m benchmarks.gpu` has measured it: 95 us by the bytes moved
    # and 115 us by the instructions compiled, against 235 us, for a forward scan of 8 maps of 64 x 64 x 96 on an H200.
    Backend('triton', 'triton_scan', ('cuda',), 'pip install triton (on Windows: triton-windows)'),
    Backend(
        'mamba',
        'mamba_scan',
        ('cuda',),
        'MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm causal-conv1d (needs nvcc)',
        repeatable=False,  # its gradients are added up by atomic additions
    ),
    Backend('c', 'c_scan', ('cpu',), 'install gcc or clang, then reinstall: pip install --force-reinstall --no-deps .'),
    Backend('torch', 'torch_scan', (), 'pip install torch'),
)
"""Fastest first."""


TRIED_ON = ('cuda',)
"""Kinds of device whose backends are tried before use; on a CPU there is no compiler or driver of the user's in it."""
FASTER = 1.25
"""How many times faster a backend must be than an earlier one of `BACKENDS` to be preferred: timings are noisy."""


@dataclass(frozen=True)
class Choice:
    """The backend for a device and dtype, and why.

    Attributes:
        missing: faster backends that are not there, with the reason.
        verdicts: what came of trying those that are; empty where nothing had to be tried.
    """

    backend: Backend
    why: str
    missing: tuple[tuple[Backend, str], ...] = ()
    verdicts: tuple[self_check.Verdict, ...] = ()


DEPTHWISE = 'depthwise'
"""What `fallback` calls the kernels of `depthwise`; every other name there is a backend of the scan."""
_CHOICES: dict[tuple[str, torch.dtype, str], Choice] = {}
_CHOOSING = threading.RLock()


def backend_names() -> tuple[str, ...]:
    return tuple(backend.name for backend in BACKENDS)


def choose(device: torch.device, dtype: torch.dtype, *, fresh: bool = False) -> Choice:
    """The choice of backend for tensors of `dtype` on `device`; reads `VMAMBAIR_SCAN`.

    On a GPU the first choice tries what is there, in a process of its own, which takes a minute once for this machine.

    Args:
        fresh: try again, whatever is remembered.

    Raises:
        ValueError: the variable names an unknown backend, or one that cannot be used on this device.
    """
    device, wanted = with_index(device), named_by(ENV)
    key = str(device), dtype, wanted
    with _CHOOSING:
        if fresh:
            fallback.forgive(lambda name: name != DEPTHWISE, device, dtype)
        if fresh or key not in _CHOICES:
            _CHOICES[key] = _named(device, dtype, wanted) if wanted != 'auto' else _automatic(device, dtype, fresh)
        choice = _CHOICES[key]
    failed = fallback.failure(choice.backend.name, device, dtype) if wanted == 'auto' else None
    return Choice(_backend('torch'), f"'{choice.backend.name}' failed: {failed}") if failed else choice


def settle(device: torch.device, dtype: torch.dtype, name: str, why: str) -> str | None:
    """Use the backend that somebody else chose: rank 0 for all ranks, an interrupted training for its continuation.

    Args:
        why: what `Choice.why` is to say.

    Returns:
        Why that cannot be; None where it is done.
    """
    with _CHOOSING:
        return take(_CHOICES, BACKENDS, ENV, name, device, dtype, name, why)


def take(
    choices: dict[tuple[str, torch.dtype, str], Choice],
    backends: Sequence[Backend],
    variable: str,
    guarded: str,
    device: torch.device,
    dtype: torch.dtype,
    name: str,
    why: str,
) -> str | None:
    """`settle` for whatever there are several ways to compute.

    Args:
        choices: by device, dtype and what the variable says; what is taken is noted here.
        variable: of the environment, by which a user names a way.
        guarded: the name by which `fallback` knows what fails.
    """
    device, wanted = with_index(device), named_by(variable)
    if wanted != 'auto':
        return None if wanted == name else f'{variable}={wanted} is set'
    backend = next((b for b in backends if b.name == name), None)
    reason = f"there is no backend '{name}'" if backend is None else backend.unavailable(device, dtype)
    if backend is None or reason:
        return reason
    key = str(device), dtype, wanted
    known = choices.get(key, Choice(backend, why))
    verdict = next((v for v in known.verdicts if v.name == name), None)
    if verdict and verdict.outcome not in ('right', 'not checked'):
        return f"'{name}' {verdict.outcome} here ({verdict.reason})"
    choices[key] = Choice(backend, why, known.missing, known.verdicts)
    if name != 'torch':  # which is what a failing one falls back to
        fallback.guard(guarded, device, dtype)
    return None


def forget() -> None:
    """Choose anew at the next use; verdicts on disk stay."""
    with _CHOOSING:
        _CHOICES.clear()
        fallback.forget(lambda name: name != DEPTHWISE)


def named_by(variable: str) -> str:
    """The way that a variable of the environment names; 'auto' where it names none."""
    return os.environ.get(variable, '').strip().lower() or 'auto'


def with_index(device: torch.device) -> torch.device:
    """Two GPUs of a machine may differ."""
    if device.type != 'cuda' or device.index is not None:
        return device
    return torch.device('cuda', torch.cuda.current_device() if torch.cuda.is_available() else 0)


def _backend(name: str) -> Backend:
    return next(backend for backend in BACKENDS if backend.name == name)


def _named(device: torch.device, dtype: torch.dtype, wanted: str) -> Choice:
    if wanted not in backend_names():
        raise ValueError(f"{ENV}={wanted} is not a backend; use 'auto' or one of {', '.join(backend_names())}")
    backend = _backend(wanted)
    if why_not := backend.unavailable(device, dtype):
        raise ValueError(f'{ENV}={wanted} cannot be used: {why_not}. Fix: {backend.fix(why_not)}')
    return Choice(backend, f'{ENV}={wanted}')


def _automatic(device: torch.device, dtype: torch.dtype, fresh: bool) -> Choice:
    missing, there = [], []
    for backend in BACKENDS:
        if backend.devices and device.type not in backend.devices:
            continue
        if why_not := backend.unavailable(device, dtype):
            missing.append((backend, why_not))
        else:
            there.append(backend)
    if not there:
        raise ValueError(f'no scan backend for {dtype} on {device}')
    verdicts: tuple[self_check.Verdict, ...] = ()
    if device.type in TRIED_ON and len(there) > 1:
        # torch's own operators are what is left: a difference in the last bits is noted, and no reason against them.
        candidates = [self_check.Candidate(b.name, f'.{b.module}', b.repeatable and b.name != 'torch') for b in there]
        verdicts = self_check.check(device, dtype, candidates, fresh=fresh)
    backend, why = best(there, verdicts)
    faster = tuple((b, reason) for b, reason in missing if BACKENDS.index(b) < BACKENDS.index(backend))
    choice = Choice(backend, why, faster, verdicts)
    _say(choice, device, dtype)
    if device.type in TRIED_ON and backend.name != 'torch':
        fallback.guard(backend.name, device, dtype)
    return choice


def best(there: Sequence[Backend], verdicts: Sequence[self_check.Verdict]) -> tuple[Backend, str]:
    """The backend to use of those that are there, in the order of `BACKENDS`, and why."""
    if not verdicts:
        return there[0], 'the fastest that works here'
    by_name = {backend.name: backend for backend in there}
    right = [verdict for verdict in verdicts if verdict.right]
    if right:
        first, fastest = right[0], min(right, key=lambda verdict: verdict.total_ms)
        if fastest.total_ms * FASTER < first.total_ms:
            times = first.total_ms / max(fastest.total_ms, 1e-6)
            return by_name[fastest.name], f"{times:.1f} times as fast as '{first.name}' here"
        return by_name[first.name], 'the first that is right here'
    unknown = [verdict for verdict in verdicts if verdict.outcome == 'not checked']
    # What could not be tried is used as untried software is; torch's own operators are the last to suspect.
    if len(unknown) == len(verdicts):
        return by_name[unknown[0].name], 'nothing could be tried'
    return by_name['torch'], 'none of those that were tried is right here'


def _say(choice: Choice, device: torch.device, dtype: torch.dtype) -> None:
    """One warning where a faster backend exists for this device and is not used, with what would change that."""
    name, kind = choice.backend.name, str(dtype).removeprefix('torch.')
    slow = ', many times slower than a kernel' if name == 'torch' else ''
    order = [b.name for b in BACKENDS]
    for verdict in choice.verdicts:
        if not verdict.right and order.index(verdict.name) <= order.index(name):
            what = f'{verdict.name} {verdict.outcome}: {verdict.reason}'
            cure = faults.fix(verdict.reason) or 'report it with what `vmambair doctor` says'
            after = '; then `vmambair doctor` tries again' if verdict.outcome != 'not checked' else ''
            logger.warning(
                "selective scan on %s in %s: '%s' is used%s. %s. Fix: %s%s", device, kind, name, slow, what, cure, after
            )
            return
    if name == 'torch' and choice.missing:
        backend, why = choice.missing[0]
        logger.warning(
            "selective scan on %s in %s: 'torch' is used%s. %s: %s. Fix: %s",
            device, kind, slow, backend.name, why, backend.fix(why),
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
        ValueError: shapes that do not fit together, an unknown backend, 'loop' with a torch that cannot keep it.
        RuntimeError: a backend that was named has no derivative of the kind that is being taken.
    """
    _check(inputs, directions)
    device = inputs.x.device
    where = device.type if device.index is None else f'{device.type}:{device.index}'
    name = in_use(where, inputs.dtype, backend)
    if name in (*KERNELS, _EXPORT_ONLY.name) and is_transformed():
        name = _without_kernel(name, backend)
    return _scan_of(name)(inputs, tuple(directions))


Scan = Callable[[ScanInputs, Sequence[int]], Tensor]

_LOADED: dict[str, Scan] = {'reference': reference.omni_scan}
"""The `omni_scan` of every backend that was used."""

_EXPORT_ONLY = Backend('loop', 'loop_scan', (), "pip install -U 'torch>=2.9'")
"""Never chosen: for graphs that leave Python, by name."""

_USING: ContextVar[str | Scan | None] = ContextVar('vmambair_scan_using', default=None)


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
    if isinstance(backend, str):
        _load(backend)
    token = _USING.set(backend)
    try:
        yield
    finally:
        _USING.reset(token)


Function = TypeVar('Function', bound=Callable[..., object])


def constant_result(function: Function) -> Function:
    """What `torch.compiler.assume_constant_result` does, which imports a compiler of a second for it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def left_to_torch() -> bool:
    """Whether we are inside a `using` block of anything but the C kernels."""
    return _USING.get() not in (None, 'c')


def using_now() -> str | None:
    """The backend, or a name of the function, of the `using` block that we are in; None outside of any."""
    backend = _USING.get()
    return backend if backend is None or isinstance(backend, str) else f'function {id(backend)}'


def _scan_of(name: str) -> Scan:
    """The scan of a name that `in_use` gave: of a backend, or the function of the `using` block that we are in."""
    scan = _LOADED.get(name) or _USING.get()
    assert callable(scan)
    return scan


KERNELS = ('triton', 'mamba', 'c')
"""Backends that are operators with a backward function, and nothing that another kind of derivative could use."""
_TRANSFORMS = (TransformType.Grad, TransformType.Jvp)


@constant_result
def is_transformed() -> bool:
    """Whether derivatives are taken in another way than by `backward`: in forward mode, or by torch.func.

    An operator with a backward function is a constant to the one, in silence, and an error to the other. What only
    maps over a batch (vmap) is served by operators.
    """
    if forward_ad._current_level >= 0:
        return True
    return peek_interpreter_stack() is not None and any(i.key() in _TRANSFORMS for i in get_interpreter_stack())


def _without_kernel(name: str, asked: str | None) -> str:
    """What scans in place of a kernel that has no such derivative: torch, unless the kernel was named."""
    if asked or using_now() or named_by(ENV) != 'auto':
        raise RuntimeError(
            f"{name} has no derivative in forward mode or by torch.func; use omni_scan(..., backend='torch'), "
            f"using('torch') or {ENV}=torch where one is needed"
        )
    _load('torch')
    return 'torch'


@constant_result
def in_use(device: str, dtype: torch.dtype, name: str | None = None) -> str:
    """The name of the backend that scans tensors of `dtype` on a device ('cpu', 'cuda:1'); its scan is loaded then.

    torch.compile runs this while it traces, for it cannot follow an import.

    Raises:
        ValueError: a backend that was named is unknown, or cannot be used for this dtype.
    """
    name = name or using_now()
    if name is None:
        name = choose(torch.device(device), dtype).backend.name
        _load(name)
    elif not callable(_USING.get()) or name != using_now():
        _load(name)
        _refuse(name, dtype)
    return name


def _refuse(name: str, dtype: torch.dtype) -> None:
    """Raise where a backend that was named would compute in another dtype than it is asked for."""
    if dtype == torch.float64 and name in KERNELS:
        backend = _backend(name)
        reason = f'no {str(dtype).removeprefix("torch.")}'
        raise ValueError(f"backend '{name}' cannot be used: {reason}. Fix: {backend.fix(reason)}, or backend 'torch'")


def _load(name: str) -> None:
    if name not in _LOADED:
        backend = next((b for b in (*BACKENDS, _EXPORT_ONLY) if b.name == name), None)
        if backend is None:
            raise ValueError(f"backend '{name}' is not one of reference, loop, {', '.join(backend_names())}")
        if backend is _EXPORT_ONLY and (reason := backend.unavailable(torch.device('cpu'), torch.float32)):
            raise ValueError(f"backend '{name}' cannot be used: {reason}. Fix: {backend.fix(reason)}")
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
