"""CUDA graphs of a network, one for each shape of tile: hundreds of launches become one.

A network on small tiles keeps the host busier than the GPU. A CUDA graph keeps the launches of one forward pass and
starts them together, on inputs and outputs at fixed addresses. Nothing relies on it: the first pass of a shape is an
ordinary one, so that kernels are compiled and shapes seen once cost nothing; the second is ordinary as well and is then
recorded; the third runs both ways and the results are compared; only then is the recording used. Where one cannot be
made or is wrong, a warning says so, once, and everything is as it was.

`VMAMBAIR_GRAPHS=0` in the environment, or `Restorer(graphs=False)`, leaves them out.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops import faults
from . import tiles

ENV = 'VMAMBAIR_GRAPHS'
MOST_GRAPHS = 4
"""Recordings that are kept: an image in tiles has up to four shapes of them."""
MOST_PIXELS = 2**18
"""Largest shape that is recorded, in b * h * w: on more the GPU is busier than the host, and memory is dear."""
SHARE_OF_MEMORY = 4
"""All recordings together hold at most this part of the memory that was free."""
PATIENCE = 64
"""A recording makes room for another shape once so many passes went by without it."""
KNOWN_SHAPES = 64
"""Shapes that are remembered as seen."""
TOLERANCE = 1e-4
"""Largest deviation from the ordinary pass over the range of its result: the kernels are the same in both."""

Run = Callable[[Tensor], Tensor]
logger = logging.getLogger('vmambair_arch')


class Recording(Protocol):
    """The launches of one pass over one shape.

    Attributes:
        size: bytes of the device's memory that it holds.
    """

    size: int

    def replay(self, x: Tensor) -> Tensor:
        """The result for x, in memory of its own."""

    def close(self) -> None:
        """Give the memory back; not to be used afterwards."""


Record = Callable[[Run, Tensor], Recording]


def wanted() -> bool:
    """Whether the environment leaves graphs on."""
    return os.environ.get(ENV, '').strip().lower() not in ('0', 'off', 'no', 'false')


@dataclass
class _Shape:
    """What is known of one shape.

    Attributes:
        seen: passes over it.
        last: number of the last one, counted over all shapes.
        busy: a thread is about to record it or to compare its recording.
        refused: it takes too much memory.
    """

    pixels: int
    seen: int = 0
    last: int = 0
    recording: Recording | None = None
    proven: bool = False
    busy: bool = False
    refused: bool = False


class Graphs:
    """Runs passes over tensors, by recordings where that is possible. Several threads may share one.

    Args:
        record: (run, x) makes the recording of run(x) for tensors like x.
        room: (device) -> bytes that recordings may hold together.
        most: recordings that are kept.
        most_pixels: largest shape that is recorded.
        patience: passes without a recording after which it makes room.

    Attributes:
        off: why nothing is recorded any more; empty where it is.
    """

    def __init__(
        self,
        record: Record | None = None,
        room: Callable[[torch.device], int] | None = None,
        *,
        most: int = MOST_GRAPHS,
        most_pixels: int = MOST_PIXELS,
        patience: int = PATIENCE,
    ) -> None:
        self.off = ''
        self._arguments = record, room
        self._limits: dict[str, Any] = {'most': most, 'most_pixels': most_pixels, 'patience': patience}
        self._record = record or CudaRecording
        self._room = room or _room
        self._lock = threading.RLock()
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()
        self._state: Hashable = None
        self._passes = 0
        self._shortages = 0

    def __reduce__(self) -> Any:
        """A copy starts with no recordings: they are of the addresses of another network."""
        return partial(Graphs, *self._arguments, **self._limits), ()

    @property
    def held(self) -> int:
        """Bytes of the device's memory that recordings hold."""
        with self._lock:
            return sum(shape.recording.size for shape in self._shapes.values() if shape.recording)

    @property
    def count(self) -> int:
        """Recordings that are kept."""
        with self._lock:
            return sum(shape.recording is not None for shape in self._shapes.values())

    def __call__(self, run: Run, x: Tensor, state: Hashable = None, *, silently: Run | None = None) -> Tensor:
        """run(x), or the same by a recording.

        Args:
            run: the pass; the result depends on x and `state` alone.
            x: on the device.
            state: what else is at a fixed address in a recording, as the parameters of a network: all are dropped where
                it is another one than at the call before.
            silently: what is recorded, where that is not `run`.

        Raises:
            RuntimeError: what the pass raises; the device is lost.
        """
        step, shape = self._next(x, state)
        if shape is None or step == 'run':
            return self._run(run, x)
        if step == 'replay':
            y = self._replay(shape, x)
            return self._run(run, x) if y is None else y
        try:
            y = self._run(run, x)
            if step == 'record':
                self._make(shape, silently or run, x)
            else:
                self._compare(shape, x, y)
        finally:
            shape.busy = False
        return y

    def release(self) -> None:
        """Drop all recordings; shapes are seen for the first time again."""
        with self._lock:
            for shape in self._shapes.values():
                _close(shape)
            self._shapes.clear()

    def _next(self, x: Tensor, state: Hashable) -> tuple[str, _Shape | None]:
        """What to do with x: 'run', 'record', 'compare' or 'replay'; the last two with a recording."""
        pixels = x.numel() // max(x.shape[1], 1)
        with self._lock:
            if state != self._state:
                self.release()
                self._state = state
            if self.off or pixels > self._limits['most_pixels']:
                return 'run', None
            self._passes += 1
            key = tuple(x.shape), x.stride(), x.dtype, x.device
            shape = self._shapes.setdefault(key, _Shape(pixels))
            self._shapes.move_to_end(key)
            shape.seen += 1
            shape.last = self._passes
            self._forget_shapes()
            if shape.busy or shape.refused:
                return 'run', shape
            if shape.recording:
                shape.busy = not shape.proven
                return ('replay' if shape.proven else 'compare'), shape
            if shape.seen == 1 or not self._has_place():
                return 'run', shape
            shape.busy = True
            return 'record', shape

    def _forget_shapes(self) -> None:
        """The shape that was seen longest ago, where there are too many; those with a recording stay."""
        if len(self._shapes) > KNOWN_SHAPES:
            plain = (key for key, shape in self._shapes.items() if not shape.recording and not shape.busy)
            oldest = next(plain, None)
            if oldest is not None:
                del self._shapes[oldest]

    def _has_place(self) -> bool:
        """Whether one more may be recorded; the one that was used longest ago makes room for it after a while."""
        kept = [shape for shape in self._shapes.values() if shape.recording]
        busy = sum(shape.busy and not shape.recording for shape in self._shapes.values())
        if len(kept) + busy < self._limits['most']:
            return True
        stalest = min(kept, key=lambda shape: shape.last, default=None)
        if stalest is None or stalest.busy or self._passes - stalest.last < self._limits['patience']:
            return False
        _close(stalest)
        stalest.seen = 0
        return True

    def _run(self, run: Run, x: Tensor) -> Tensor:
        """The ordinary pass; where memory runs out, without what recordings hold."""
        try:
            return run(x)
        except (RuntimeError, MemoryError) as error:
            if not faults.is_out_of_memory(error) or not self.count:
                raise
        # Outside the except clause: the exception keeps the tensors of the failed attempt alive.
        self._out_of_memory()
        return run(x)

    def _out_of_memory(self) -> None:
        """Recordings are the first to go, and the second time they do not come back."""
        with self._lock:
            self._shortages += 1
            if self._shortages > 1:
                self.off = 'memory is short'
                logger.info('CUDA graphs are left out from here on: memory is short')
            self.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _make(self, shape: _Shape, run: Run, x: Tensor) -> None:
        """Record a shape. The result of this pass is there already, whatever comes of it."""
        with self._lock:
            if self.off:
                return
            failed = None
            try:
                recording = self._record(run, x)
            except Exception as error:
                _raise_if_lost(error)
                failed = error.with_traceback(None)  # which would keep the tensors of the attempt alive
            if failed is None:
                if self.held + recording.size <= self._room(x.device):
                    shape.recording, shape.proven = recording, False
                else:
                    recording.close()
                    shape.refused = True
            elif faults.is_out_of_memory(failed):
                self._out_of_memory()
            else:
                self._fail(f'recording failed: {faults.one_line(failed)}')

    def _compare(self, shape: _Shape, x: Tensor, exact: Tensor) -> None:
        """Use a recording from now on if it gives what the ordinary pass gave, else none any more."""
        y = self._replay(shape, x)
        if y is None:
            return
        if fault := _difference(y, exact):
            self._fail(f'the result {fault}')
        else:
            shape.proven = True

    def _replay(self, shape: _Shape, x: Tensor) -> Tensor | None:
        """The result by a recording; None where there is none any more."""
        with self._lock:
            if shape.recording is None:
                return None
            try:
                return shape.recording.replay(x)
            except Exception as error:
                _raise_if_lost(error)
                failed = error.with_traceback(None)
            if faults.is_out_of_memory(failed):
                self._out_of_memory()
            else:
                self._fail(f'a recording failed: {faults.one_line(failed)}')
        return None

    def _fail(self, why: str) -> None:
        """Drop all, for good, with one warning."""
        with self._lock:
            self.release()
            if not self.off:
                self.off = why
                logger.warning(
                    'CUDA graphs are left out: %s. Results are those of ordinary launches, which small tiles wait for. '
                    'To keep this warning away: %s=0', why, ENV,
                )  # fmt: skip


def _close(shape: _Shape) -> None:
    recording, shape.recording, shape.proven = shape.recording, None, False
    if recording is not None:
        recording.close()


def _raise_if_lost(error: Exception) -> None:
    if faults.is_lost(error):
        raise RuntimeError(
            f'{error}\nA CUDA graph may have done this: start again with {ENV}=0 in the environment, and please report '
            'it'
        ) from error


def _difference(got: Tensor, exact: Tensor) -> str:
    """How a result is not the one it should be; empty where it is."""
    if got.shape != exact.shape or got.dtype != exact.dtype:
        return f'is {tuple(got.shape)} {got.dtype}, not {tuple(exact.shape)} {exact.dtype}'
    finite = exact.isfinite()
    if not torch.equal(got.isfinite(), finite):
        return 'has other NaN or infinite values'
    if not finite.any():
        return ''
    got, exact = got[finite].double(), exact[finite].double()
    off = (got - exact).abs().max().item() / max(exact.abs().max().item(), 1e-30)
    return '' if off <= TOLERANCE else f'is off by {off:.1e} of its range'


def _room(device: torch.device) -> int:
    return tiles.free_memory(device) // SHARE_OF_MEMORY


# --- the calls of CUDA -----------------------------------------------------------------------------------------------

_RECORDING = threading.Lock()
"""One capture at a time in a process."""


@lru_cache(maxsize=16)
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device: cuBLAS keeps a workspace for every stream that it has met."""
    return torch.cuda.Stream(device)


@contextmanager
def _stream_kept(device: torch.device) -> Iterator[None]:
    """The current stream is the same afterwards: a capture that fails would leave us on its own."""
    before = torch.cuda.current_stream(device)
    try:
        yield
    finally:
        torch.cuda.set_stream(before)


class CudaRecording:
    """A CUDA graph of run(x), with an input and an output of its own.

    Args:
        run: the pass, whose kernels are compiled by an earlier one.
        x: on the device.

    Raises:
        RuntimeError: something in the pass cannot be captured, as what waits for the device; memory ran out.
    """

    size: int

    def __init__(self, run: Run, x: Tensor) -> None:
        device = x.device
        # What is at a fixed address is an ordinary tensor: it is written to in and out of inference mode.
        with _RECORDING, torch.cuda.device(device), _stream_kept(device), torch.inference_mode(False), torch.no_grad():
            self._x = x.clone()
            stream, current = _stream(device), torch.cuda.current_stream(device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                run(self._x)  # libraries set up what they keep for a stream
            current.wait_stream(stream)
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved(device)
            self._graph = torch.cuda.CUDAGraph()
            self._y = self._capture(run, stream)
            self.size = max(0, torch.cuda.memory_reserved(device) - before)
            self._done = torch.cuda.Event()

    def _capture(self, run: Run, stream: torch.cuda.Stream) -> Tensor:
        fault = None
        try:
            # What other threads do on streams of their own meanwhile is theirs.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode='thread_local'):
                try:
                    return run(self._x)
                except Exception as error:
                    fault = error
                    raise
        except Exception:
            # The end of a capture that failed fails too, and knows nothing of the reason.
            if fault is not None:
                raise fault from None
            raise

    def replay(self, x: Tensor) -> Tensor:
        with torch.cuda.device(self._x.device):
            stream = torch.cuda.current_stream(self._x.device)
            stream.wait_event(self._done)  # where the last one ran on another stream
            self._x.copy_(x)
            self._graph.replay()
            y = self._y.clone()
            self._done.record(stream)
        return y

    def close(self) -> None:
        self._done.synchronize()
        self._graph.reset()
        del self._x, self._y
