"""The omni selective scan on GPUs: the kernels of `triton_kernels.py`, as a torch operator with a gradient.

Triton comes with torch on Linux, for CUDA and for ROCm: nothing is to be built. The operator is
`torch.ops.vmambair.triton_scan`, one like any other for autograd, torch.compile, torch.export and fake tensors. x and
x_dbl are read in the dtype they have; the state is float32.

With TRITON_INTERPRET=1 in the environment before this module is imported, the kernels run on CPU tensors, slowly.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import fallback, torch_scan
from .reference import ScanInputs
from .scan_operator import define, empty_results

CHUNK_PIXELS = 4
"""Pixels of a chunk (`T` in the kernels): they are loaded together and their states live in registers."""
STATES_OF_A_LANE = 8
"""Up to so many, the kernel of the gradients keeps the states of a whole chunk in registers. With more it works on
`PIECE_PIXELS` pixels at a time, and walks to the second piece of a chunk from the states at the border of the chunk:
a quarter more instructions for a chunk, and 411 instead of 507 that go by memory or the exchange of lanes (96 channels,
compute capability 9.0), for no pixel moves registers out to memory and back."""
PIECE_PIXELS = 2
GRADIENT_INSTRUCTIONS = {1: 640, 2: 740, 4: 1020, 8: 1340, 16: 2650}
"""Instructions of the gradients for a chunk, by the states of a lane, as compiled for compute capability 9.0."""
SEGMENT_CHUNKS = (16, 8, 4)
"""Chunks of a segment, the first that gives programs enough. Segments run side by side, chunks one after the other;
twice as many segments are twice as many states to hand on."""
PROGRAMS = 8
"""Programs, of one warp each, that a multiprocessor should have at least: it hides the latency of one by the others."""
ONE_SEGMENT = 128
"""A sequence of at most so many pixels, as a channel scan of 48 or 96 channels is, is one segment and so one launch: a
chunk takes less than a microsecond, a launch several."""
MULTIPROCESSORS = 108
"""Where a scan is planned for a GPU that is not there (of an A100)."""
TILE = 512
"""States (channels x N) that one warp holds: 16 for each of 32 lanes."""
CARRY_SEGMENTS, CARRY_LANES = 16, 128
"""Segments and states that a program of the carry reads at once; 4 states a lane are one 16-byte load."""
NOTABLE_WAIT = 1.0
"""Seconds in which Triton compiles one kernel or so: the first that takes as long is explained."""
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
OLDEST_CAPABILITY = (7, 0)

logger = logging.getLogger('vmambair_arch')
_explained = False


@cache
def _load() -> tuple[ModuleType | None, str]:
    """The kernels, or None and why they cannot be used; imported on first use only."""
    try:
        from . import triton_kernels
    except Exception as error:  # a Triton that does not fit its torch raises anything
        return None, f'Triton cannot be imported ({type(error).__name__}: {error})'
    return triton_kernels, ''


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot be used for tensors of `dtype` on `device`; None where it can."""
    if device.type != 'cuda' and not (device.type == 'cpu' and INTERPRETED):
        return 'runs on CUDA and ROCm devices only'
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f'no {str(dtype).removeprefix("torch.")}'
    kernels, why = _load()
    if kernels is None:
        return why
    if device.type == 'cuda' and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_CAPABILITY:
            return 'Triton wants compute capability {}.{}, this GPU has {}.{}'.format(*OLDEST_CAPABILITY, *capability)
    return None


def omni_scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    """Arguments as in `vmambair_arch.ops.omni_scan`."""
    # The backward pass takes states that were not kept as a reason to compute them again.
    return _scan(inputs, directions)


# --- what the operators do -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """Sizes of one call, and how its work is cut."""

    b: int
    h: int
    w: int
    d: int
    N: int
    R: int
    directions: tuple[int, ...]
    multiprocessors: int = 0

    @classmethod
    def of(cls, inputs: ScanInputs, directions: Sequence[int]) -> _Problem:
        b, h, w, d = inputs.x.shape
        N, R = inputs.A.shape[-1], inputs.dt_weight.shape[-1]
        return cls(b, h, w, d, N, R, tuple(directions), _multiprocessors(inputs.x.device))

    @property
    def K(self) -> int:  # noqa: N802 the glossary's letter
        return len(self.directions)

    @cached_property
    def chunks(self) -> int:
        """Chunks of a segment: the most of `SEGMENT_CHUNKS` that leave every multiprocessor its programs.

        By arithmetic alone, for sizes may be symbols.
        """
        if self.h == 1 and self.w <= ONE_SEGMENT:
            return _at_least_one(_cut(self.w, CHUNK_PIXELS))
        wanted = _at_least_one(PROGRAMS * self.multiprocessors)
        chunks: Any = SEGMENT_CHUNKS[-1]
        for more, fewer in itertools.pairwise(SEGMENT_CHUNKS):
            segments = _cut(self.h * self.w, more * CHUNK_PIXELS)
            programs = self.blocks(self.tile()) * segments * self.b * self.K
            chunks += (more - fewer) * torch.sym_min(programs // wanted, 1)
        return chunks

    @cached_property
    def segments(self) -> int:
        return _cut(self.h * self.w, self.chunks * CHUNK_PIXELS)

    @cached_property
    def axes(self) -> int:
        """Buffers that directions add into.

        Where every other half of the directions runs along the axes of the first, and where that leaves programs
        enough, half as many: one program walks both ways. The bytes moved are the same.
        """
        half = self.K // 2
        paired = self.K % 2 == 0 and all(
            a % 2 == b % 2 for a, b in zip(self.directions[:half], self.directions[half:], strict=True)
        )
        programs = self.blocks(self.tile()) * self.segments * self.b * half
        # Two buffers want another launch, which one segment is there to save.
        enough = self.segments == 1 or programs >= PROGRAMS * self.multiprocessors
        return half if paired and enough else self.K

    @property
    def states_shape(self) -> tuple[int, ...]:
        return self.b, self.K, self.segments, self.N, self.d

    def sizes(self) -> dict[str, int]:
        """Compile-time arguments of every kernel."""
        codes = sum(direction << 2 * k for k, direction in enumerate(self.directions))
        return {'CODES': codes, 'K': self.K, 'd': self.d, 'N': self.N}

    def scan_sizes(self) -> dict[str, int]:
        """Compile-time arguments of the kernels that walk over pixels, but for the tile."""
        padded = {'NP': _power_of_two(self.N), 'RP': _power_of_two(self.R)}
        return {**self.sizes(), 'R': self.R, **padded, 'T': CHUNK_PIXELS}

    def carry_sizes(self) -> dict[str, int]:
        """Compile-time arguments of the carry."""
        groups = _power_of_two(_cut(self.segments, CARRY_SEGMENTS))
        return {**self.sizes(), 'GROUPS': groups, 'T': CARRY_SEGMENTS, 'Q': CARRY_LANES}

    def tile(self) -> dict[str, int]:
        """Channels (P in registers, Q in lanes) of the kernels that sum over states only: lanes are channels."""
        return {'P': 1, 'Q': min(32, _power_of_two(self.d), _at_least_one(TILE // _power_of_two(self.N)))}

    def gradient_tile(self) -> dict[str, int]:
        """Channels of the kernel that sums over states and over channels: both share the lanes.

        Of the tiles that fit, the one that takes the fewest instructions for all channels: 48 of them are three of
        16, not two of 32 whose last half idles, and 24 with 8 states are one of 32.
        """
        room, d = _at_least_one(TILE // _power_of_two(self.N)), _power_of_two(self.d)
        Q = min(8, d, room)
        P = min(
            (P for P in (4, 2, 1) if P == 1 or min(d, room) >= P * Q),
            key=lambda P: _cut(self.d, P * Q) * GRADIENT_INSTRUCTIONS[self._states_of_a_lane(P, Q)],
        )
        pieces = CHUNK_PIXELS // PIECE_PIXELS if self._states_of_a_lane(P, Q) > STATES_OF_A_LANE else 1
        return {'P': P, 'Q': Q, 'T': CHUNK_PIXELS // pieces, 'PIECES': pieces}

    def _states_of_a_lane(self, P: int, Q: int) -> int:
        return min(_at_least_one(P * Q * _power_of_two(self.N) // 32), max(GRADIENT_INSTRUCTIONS))

    def blocks(self, tile: dict[str, int]) -> int:
        return _cut(self.d, tile['P'] * tile['Q'])


def _cut(size: int, piece: int) -> int:
    """Pieces of `size`."""
    return (size + piece - 1) // piece


def _power_of_two(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def _at_least_one(n: int) -> int:
    return max(n, 1)


def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; 0 of a CPU, which runs one program after the other."""
    if device.type != 'cuda':
        return 0
    if not torch.cuda.is_available():
        return MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _kernels() -> ModuleType:
    kernels, why = _load()
    if kernels is None:
        raise RuntimeError(why)
    return kernels


def _on_device_of(t: Tensor) -> torch.cuda.device | nullcontext:
    """Triton launches on the current device, whichever its arguments are on."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()


ONE_WARP = {'num_warps': 1, 'num_stages': 1, 'enable_fp_fusion': True}
"""Launch options; a multiplication and an addition become one instruction, which newer Tritons do on request only."""
TWO_OF_A_LANE = {'waves_per_eu': 2}
"""On ROCm: at most half of the registers, so that two programs share a lane and one works while the other waits. With
384 or 192 channels the gradients would take 272 and 260 of 512; what goes to memory instead does so once a direction.

CUDA has no more than 255, and of these kernels some of 1800 instructions, about 20, go by memory in each piece of a
chunk. Tiles without them were compiled: they take a third more instructions for all channels, or write twice as many
partial sums of dx_dbl."""


def gradient_options(is_rocm: bool) -> dict[str, Any]:
    """Launch options of the kernel of the gradients."""
    return ONE_WARP | TWO_OF_A_LANE if is_rocm else ONE_WARP


def _carry(problem: _Problem, added: Tensor, delta_sum: Tensor, A: Tensor, against: bool) -> Tensor:
    """The state before every segment, in scan order or against it: (b, K, segments, N, d)."""
    before = torch.empty_like(added)
    _kernels().carry_kernel[(_cut(problem.N * problem.d, CARRY_LANES) * problem.b * problem.K,)](
        added, delta_sum, A, before, problem.segments, AGAINST=against, **problem.carry_sizes(), **ONE_WARP
    )
    return before


def _segment_states(problem: _Problem, inputs: ScanInputs) -> Tensor:
    """The state before every segment: (b, K, segments, N, d), float32."""
    x, x_dbl, dt_weight, dt_bias, A, _ = inputs
    if problem.segments == 1:
        return x.new_zeros(problem.states_shape, dtype=torch.float32)
    added = x.new_empty(problem.states_shape, dtype=torch.float32)
    delta_sum = added.new_empty(*added.shape[:3], problem.d)
    tile = problem.tile()
    _kernels().local_states_kernel[(problem.blocks(tile) * problem.segments * problem.b * problem.K,)](
        x, x_dbl, dt_weight, dt_bias, A, added, delta_sum, problem.h, problem.w,
        problem.segments, problem.chunks, problem.d,
        **problem.scan_sizes(), **tile, **ONE_WARP,
    )  # fmt: skip
    return _carry(problem, added, delta_sum, A, against=False)


def _forward(inputs: ScanInputs, directions: Sequence[int], keep_states: bool) -> tuple[Tensor, Tensor]:
    inputs = ScanInputs(*(t.contiguous() for t in inputs))
    x, x_dbl, dt_weight, dt_bias, A, D = inputs
    problem = _Problem.of(inputs, directions)
    if not x.numel():
        return empty_results(x, problem.states_shape, keep_states)
    with _on_device_of(x):
        sums = x.new_empty(problem.axes, *x.shape, dtype=torch.float32)
        empty = problem.segments == 1 and not keep_states
        before = sums if empty else _segment_states(problem, inputs)
        tile = problem.tile()
        _kernels().outputs_kernel[(problem.blocks(tile) * problem.segments * problem.b * problem.axes,)](
            x, x_dbl, dt_weight, dt_bias, A, D, before, sums,
            problem.h, problem.w, problem.segments, problem.chunks, problem.b, problem.d,
            AXES=problem.axes, EMPTY=empty, **problem.scan_sizes(), **tile, **ONE_WARP,
        )  # fmt: skip
    return _total(sums, x), before if keep_states else before.new_empty(0)


def _total(partial: Tensor, like: Tensor) -> Tensor:
    """Add partial results (n, *) in a fixed order; the dtype of `like`."""
    return (partial[0] if len(partial) == 1 else partial.sum(0)).to(like.dtype)


def _states_shape(inputs: ScanInputs, directions: Sequence[int]) -> tuple[int, ...]:
    return _Problem.of(inputs, directions).states_shape


def _backward(grad_y: Tensor, inputs: ScanInputs, states: Tensor, directions: Sequence[int]) -> ScanInputs:
    inputs = ScanInputs(*(t.contiguous() for t in inputs))
    x, x_dbl, dt_weight, dt_bias, A, D = inputs
    grad_y = grad_y.contiguous()
    problem = _Problem.of(inputs, directions)
    if not x.numel():
        return ScanInputs(*(torch.zeros_like(t) for t in inputs))

    def partial(*shape: int) -> Tensor:
        return x.new_empty(*shape, dtype=torch.float32)

    with _on_device_of(x):
        before = states if states.numel() else _segment_states(problem, inputs)
        segments, chunks, sizes = problem.segments, problem.chunks, problem.scan_sizes()
        b, K, d = problem.b, problem.K, problem.d
        borders, handed = partial(b, K, segments, chunks, problem.N, d), partial(*problem.states_shape)
        delta_sum = partial(b, K, segments, d)
        tile = problem.tile()
        _kernels().chunk_states_kernel[(problem.blocks(tile) * segments * b * K,)](
            x, x_dbl, grad_y, dt_weight, dt_bias, A, before, borders, handed, delta_sum,
            problem.h, problem.w, segments, chunks, d, **sizes, **tile, **ONE_WARP,
        )  # fmt: skip
        received = _carry(problem, handed, delta_sum, A, against=True)
        tile = problem.gradient_tile()
        blocks = problem.blocks(tile)
        sums = (
            partial(problem.axes, *x.shape),
            partial(blocks, *x_dbl.shape),
            *(partial(b * segments, *t.shape) for t in (dt_weight, dt_bias, A, D)),
        )
        _kernels().gradients_kernel[(blocks * segments * b * problem.axes,)](
            x, x_dbl, grad_y, dt_weight, dt_bias, A, D, borders, received, *sums,
            problem.h, problem.w, segments, chunks, b, d, AXES=problem.axes, **(sizes | tile),
            **gradient_options(torch.version.hip is not None),
        )  # fmt: skip
    return ScanInputs(*(_total(gradient, t) for gradient, t in zip(sums, inputs, strict=True)))


def backward_bytes(inputs: ScanInputs, directions: Sequence[int]) -> int:
    """Bytes that the gradients of one scan take while they are computed, states and results left out."""
    problem = _Problem.of(inputs, directions)
    states = math.prod(problem.states_shape)
    sums = problem.axes * inputs.x.numel() + problem.blocks(problem.gradient_tile()) * inputs.x_dbl.numel()
    sums += problem.b * problem.segments * sum(t.numel() for t in inputs[2:])
    # Borders of chunks; what segments hand on and receive; their sums of delta.
    return 4 * (states * (problem.chunks + 2) + states // problem.N + sums)


# --- what the operators do where the kernels fail --------------------------------------------------------------------


@contextmanager
def _explaining() -> Iterator[None]:
    """Say once why the first call of a network takes long."""
    global _explained
    start = time.monotonic()
    yield
    if not _explained and not INTERPRETED and time.monotonic() - start > NOTABLE_WAIT:
        _explained = True
        logger.warning(
            'Triton compiles the kernels of the scan, a second or so for each and once for each width of a network '
            '(about 20 to restore, 45 to train); it keeps them in %s',
            os.environ.get('TRITON_CACHE_DIR') or '~/.triton/cache',
        )


def _safe_forward(inputs: ScanInputs, directions: Sequence[int], keep_states: bool) -> tuple[Tensor, Tensor]:
    """`_forward`, or torch's results with states that nobody will read: the backward pass goes to torch as well."""

    def kernels() -> tuple[Tensor, Tensor]:
        with _explaining():
            return _forward(inputs, directions, keep_states)

    def by_torch() -> tuple[Tensor, Tensor]:
        shape = _states_shape(inputs, directions) if keep_states else (0,)
        with torch.no_grad():
            return torch_scan.omni_scan(inputs, directions).contiguous(), inputs.x.new_zeros(shape, dtype=torch.float32)

    return fallback.run('triton', inputs.x.device, inputs.dtype, kernels, by_torch)


def _safe_backward(grad_y: Tensor, inputs: ScanInputs, states: Tensor, directions: Sequence[int]) -> ScanInputs:
    """`_backward`, or torch's gradients, for which the forward pass is computed again."""

    def kernels() -> ScanInputs:
        with _explaining():
            return _backward(grad_y, inputs, states, directions)

    def by_torch() -> ScanInputs:
        with torch.inference_mode(False), torch.enable_grad():
            leaves = ScanInputs(*(t.detach().clone().requires_grad_() for t in inputs))
            y = torch_scan.omni_scan(leaves, directions)
            grads = torch.autograd.grad(y, list(leaves), grad_y.to(y.dtype))
        return ScanInputs(*(grad.contiguous() for grad in grads))

    return fallback.run('triton', inputs.x.device, inputs.dtype, kernels, by_torch)


# On CPUs in Triton's interpreter only.
_scan = define('triton_scan', ['CUDA', 'CPU'], _safe_forward, _safe_backward, _states_shape)
