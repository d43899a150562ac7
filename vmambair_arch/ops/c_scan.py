"""The omni selective scan on CPUs: the fused C kernel of `csrc/`, as a torch operator with a gradient.

The library (see `c_library`) is handed pointers and strides, and registered as `torch.ops.vmambair.c_scan`, which makes
it an operator like any other for autograd, autocast, torch.compile, torch.export and fake tensors.

float32 and bfloat16 are read as they are, float16 through a float32 copy; the state is float32. Outputs and gradients
have the same bits for any number of threads where there are at most four directions, as in all networks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from functools import lru_cache

import torch
from torch import Tensor

from . import c_library
from .reference import ScanInputs
from .scan_operator import define, empty_results

PIXELS_BETWEEN_STATES = 32
"""`CHUNK_PIXELS` in csrc/scan.h: the state before every so many pixels is kept for the backward pass."""
LANES = 16
"""The widest vector; channels are dealt out to threads in multiples of it."""
BACKWARD_CHANNELS = 96
"""Channels whose gradients of B, C, dt are summed in one go. Constant: the order of sums must not depend on threads."""
PIECES_PER_THREAD = 4
"""Pieces of the forward pass that each thread gets where there are enough channels: a thread whose core is busy with
something else leaves most of its share to the others."""
ELEMENTS_PER_THREAD = 1 << 17
"""State updates (20 us) below which another thread costs more than it brings."""


class _Problem(ctypes.Structure):
    """`scan_problem` of csrc/scan.h."""

    _fields_ = (
        *((name, c_int64) for name in ('b', 'h', 'w', 'd', 'N', 'R', 'K')),
        ('directions', POINTER(c_int64)),
        ('x', c_void_p),
        ('x_dbl', c_void_p),
        ('x_stride', c_int64 * 3),
        ('x_dbl_stride', c_int64 * 3),
        *((name, c_void_p) for name in ('dt_weight', 'dt_bias', 'A', 'D', 'states')),
        *((name, c_int32) for name in ('x_bf16', 'x_dbl_bf16', 'threads')),
    )


@lru_cache(maxsize=1)
def _functions() -> ctypes.CDLL:
    library = c_library.library()
    pointers = POINTER(c_void_p)
    library.vmambair_decay.argtypes = [c_void_p, c_float, c_void_p, c_int64, c_int64]
    library.vmambair_decay.restype = None
    library.vmambair_scan_forward.argtypes = [POINTER(_Problem), pointers, c_int64, c_int64, c_void_p]
    library.vmambair_scan_backward.argtypes = [
        POINTER(_Problem), c_void_p, pointers, c_int64, pointers, c_int64, *[c_void_p] * 7,
    ]  # fmt: skip
    return library


def decay(t: Tensor, scale: float, out: Tensor, times: int = 1) -> None:
    """out = 2 ** (t * scale), the exponential of the kernel alone, on one thread: what bounds the speed of the scan.

    t and out are contiguous float32 of a multiple of 64 elements. `times`: how often it is computed, in one call.
    """
    if t.numel() % 64 or out.numel() != t.numel() or not (t.is_contiguous() and out.is_contiguous()):
        raise ValueError(f'decay wants contiguous tensors of a multiple of 64 elements, got {t.numel()}, {out.numel()}')
    _functions().vmambair_decay(t.data_ptr(), scale, out.data_ptr(), t.numel(), times)


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot be used for tensors of `dtype` on `device`; None where it can."""
    if device.type != 'cpu':
        return 'runs on CPUs only'
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f'no {str(dtype).removeprefix("torch.")}'
    return c_library.why_not()


def omni_scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    """Arguments as in `vmambair_arch.ops.omni_scan`."""
    x, x_dbl, *parameters = inputs
    readable = ScanInputs(_readable(x), _readable(x_dbl), *(t.float() for t in parameters))
    return _scan(readable, directions).to(x.dtype)


def _readable(t: Tensor) -> Tensor:
    return t if t.dtype in (torch.float32, torch.bfloat16) else t.float()


# --- what the operators do -------------------------------------------------------------------------------------------


def _as_the_kernel_reads(inputs: ScanInputs) -> ScanInputs:
    """Channels side by side in the maps, which may have any strides otherwise; contiguous parameters."""
    x, x_dbl, *parameters = inputs
    return ScanInputs(_last_dim_together(x), _last_dim_together(x_dbl), *(t.contiguous() for t in parameters))


def _problem(inputs: ScanInputs, states: Tensor, directions: Sequence[int]) -> _Problem:
    """Pointers into tensors as the kernel reads them, which the caller keeps alive."""
    x, x_dbl, dt_weight, dt_bias, A, D = inputs
    (b, h, w, d), (K, _, R), N = x.shape, dt_weight.shape, A.shape[-1]
    work = x.numel() * K * N
    return _Problem(
        b, h, w, d, N, R, K, (c_int64 * K)(*directions), x.data_ptr(), x_dbl.data_ptr(),
        (c_int64 * 3)(*x.stride()[:3]), (c_int64 * 3)(*x_dbl.stride()[:3]),
        dt_weight.data_ptr(), dt_bias.data_ptr(), A.data_ptr(), D.data_ptr(), states.data_ptr() or None,
        x.dtype == torch.bfloat16, x_dbl.dtype == torch.bfloat16,
        max(1, min(torch.get_num_threads(), work // ELEMENTS_PER_THREAD)),
    )  # fmt: skip


def _last_dim_together(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    return (c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def _parts(problem: _Problem) -> int:
    """Pieces of an image that threads take, by direction: one, one for two directions, or one for each direction."""
    pairs = -(-problem.K // 2)
    if problem.threads == 1 or problem.b >= 2 * problem.threads:
        return 1
    return problem.K if problem.b * pairs < 2 * problem.threads and problem.K <= 4 else pairs


def _forward_channels(problem: _Problem) -> int:
    """Channels of a piece of the forward pass, where none depends on another: all, or fewer to keep threads busy."""
    pieces, blocks = problem.b * _parts(problem), -(-problem.d // LANES)
    groups = 1 if problem.threads == 1 else max(1, min(blocks, -(-PIECES_PER_THREAD * problem.threads // pieces)))
    return -(-blocks // groups) * LANES


def _check(failed: int) -> None:
    if failed:
        raise MemoryError('the scan kernel got no memory for its scratch')


def _arrays(result: Tensor, count: int) -> list[Tensor]:
    """float32 arrays of the shape of `result` to add into; the first is `result` itself where its dtype allows."""
    own = result.dtype == torch.float32
    return [result] * own + [result.new_empty(result.shape, dtype=torch.float32) for _ in range(count - own)]


def _forward(inputs: ScanInputs, directions: Sequence[int], keep_states: bool) -> tuple[Tensor, Tensor]:
    inputs = _as_the_kernel_reads(inputs)
    y, states = empty_results(inputs.x, _states_shape(inputs, directions), keep_states)
    if not y.numel():
        return y, states
    problem = _problem(inputs, states, directions)
    parts = _parts(problem)
    sums = _arrays(y, max(parts, 2))
    _check(
        _functions().vmambair_scan_forward(problem, _pointers(sums), parts, _forward_channels(problem), y.data_ptr())
    )
    return y, states


def _states_shape(inputs: ScanInputs, directions: Sequence[int]) -> tuple[int, ...]:
    b, h, w, d = inputs.x.shape
    kept = (h * w + PIXELS_BETWEEN_STATES - 1) // PIXELS_BETWEEN_STATES
    return b, len(directions), kept, inputs.A.shape[-1], d


def _backward(grad_y: Tensor, inputs: ScanInputs, states: Tensor, directions: Sequence[int]) -> ScanInputs:
    inputs = _as_the_kernel_reads(inputs)
    grads = ScanInputs(*(t.new_empty(t.shape) for t in inputs))
    if not inputs.x.numel():
        return ScanInputs(*(grad.zero_() for grad in grads))
    if not states.numel():
        states = _forward(inputs, directions, True)[1]
    problem = _problem(inputs, states, directions)
    grad_y = grad_y.float().contiguous()
    parts, groups = _parts(problem), -(-problem.d // BACKWARD_CHANNELS)
    sums, partial = _arrays(grads.x, max(parts, 2)), _arrays(grads.x_dbl, groups)
    per_image = inputs.x.new_empty(problem.b, problem.K, problem.N + problem.R + 2, problem.d, dtype=torch.float32)
    _check(
        _functions().vmambair_scan_backward(
            problem, grad_y.data_ptr(), _pointers(sums), parts, _pointers(partial), BACKWARD_CHANNELS,
            per_image.data_ptr(), *(grad.data_ptr() for grad in grads),
        )
    )  # fmt: skip
    return grads


_scan = define('c_scan', ['CPU'], _forward, _backward, _states_shape)
