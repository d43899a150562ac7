"""Run a network over an image in tiles that overlap and are blended there, in bounded memory.

Along each axis neighbours share `overlap` pixels, over which the weight of one rises along half a cosine while the
other's falls by the same amount: the weights of all tiles sum to one everywhere. In two dimensions weights multiply.
The image and the result stay on the CPU; only a tile is on the device.
"""

from __future__ import annotations

import gc
import logging
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..errors import UserError, signals_held
from ..host import freed_memory
from ..ops.faults import is_out_of_memory, is_too_large


class NotFiniteError(UserError):
    """NaN or infinity, where no picture can be made of it.

    Args:
        where: the message but for what it is.
        advice: what to do, where that is known.
    """

    def __init__(self, where: str, advice: str = '', *, exit_code: int = 3) -> None:
        super().__init__(f'{where} NaN or infinite values{advice}', exit_code=exit_code)
        self.where = where


ALIGN = 8
"""Tiles start at multiples of the network's coarsest pixel, so that they are sampled on the grid of the whole image."""
MIN_TILE = 32
PROBE = 64
"""Side of the image on which the cost of a pixel is measured; borders make it come out a little high."""
MOST_ELEMENTS = 2**31 - 1
"""Elements of a tensor on a GPU: several operators of torch and cuDNN count with 32 bits there."""
CPU_BUDGET = 2 * 2**30
"""Most working memory of the network on a CPU, in bytes: larger tiles are no faster there, and a limit that does not
depend on the machine gives the same result on all of them."""
CGROUP = Path('/sys/fs/cgroup')
"""Where a container says what it may use."""

Network = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]
logger = logging.getLogger('vmambair_arch')


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """The fewest, about equal, spans [start, stop) of at most `tile` pixels, each sharing `overlap` with the next.

    Args:
        length: pixels of the axis, >= 1.
        tile: at least 3 * overlap, so that no more than two spans meet in a pixel, and overlap + ALIGN.
        overlap: pixels, >= 0.
    """
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - overlap) / _down(tile - overlap))
    step = _down(math.ceil((length - overlap) / count) + ALIGN - 1)
    return [(i * step, min(length, (i + 1) * step + overlap)) for i in range(count)]


def weights(length: int, head: int, tail: int) -> Tensor:
    """(length,) weights of a tile that fades in over its first `head` pixels and out over its last `tail`."""
    result = torch.ones(length)
    result[:head] = _ramp(head)
    result[length - tail :] = 1 - _ramp(tail)
    return result


def run_in_tiles(
    network: Network,
    image: Tensor,
    *,
    scale: int = 1,
    tile: int | None = None,
    overlap: int = 32,
    device: torch.device | str = 'cpu',
    progress: Progress | None = None,
) -> Tensor:
    """Restore an image whole where `tile` allows it, else in tiles; out of memory, start over with half the tile.

    Args:
        network: (1, c, h, w) on `device` -> (1, c, h * scale, w * scale).
        image: (c, h, w) float32 on the CPU, in any order in memory.
        scale: output size over input size.
        tile: largest side of a tile in input pixels; None: whole.
        overlap: input pixels that neighbours share; at most a third of the tile is used.
        device: where the network runs.
        progress: called with the number of tiles done and their total.

    Returns:
        (c, h * scale, w * scale) float32 on the CPU, every pixel from this run; in memory the channels are last.

    Raises:
        UserError: not even the smallest tile fits into memory.
        RuntimeError: the result does not.
        NotFiniteError: NaN or infinity in the image, or in what the network returned.
    """
    tile = max(image.shape[-2:]) if tile is None else tile
    if tile < MIN_TILE and tile < max(image.shape[-2:]):
        raise UserError(f'a tile of {tile} pixels is too small; use {MIN_TILE} or more')
    channels, height, width = image.shape
    # Before the network, which is not to blame where there is no room for it, and smaller tiles would not help.
    result = torch.empty(height * scale, width * scale, channels).permute(2, 0, 1)
    while True:
        try:
            _run_in_tiles(network, image, result, scale, tile, min(overlap, tile // 3), torch.device(device), progress)
            return result
        except (RuntimeError, MemoryError) as error:
            if not wants_smaller_tiles(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else 'MemoryError'
            what = 'out of memory' if is_out_of_memory(error) else 'too large for an operator'
        # Outside the except clause: the exception keeps the frames, and so the tensors, of the failed attempt alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tile = min(tile, max(image.shape[-2:])) // 2
        if tile < MIN_TILE:
            raise UserError(f'{what} even with tiles of {2 * tile} pixels ({reason}); free some, or use a CPU')
        logger.warning('%s: starting this image over with tiles of %d pixels', what, tile)


def _run_in_tiles(
    network: Network,
    image: Tensor,
    result: Tensor,
    scale: int,
    tile: int,
    overlap: int,
    device: torch.device,
    progress: Progress | None,
) -> None:
    height, width = image.shape[-2:]
    rows, columns = spans(height, tile, overlap), spans(width, tile, overlap)
    total = len(rows) * len(columns)
    if total > 1:
        result.zero_()
    for done, ((top, bottom), (left, right)) in enumerate((r, c) for r in rows for c in columns):
        part = image[None, :, top:bottom, left:right].contiguous().to(device)
        restored = network(part)[0].to('cpu', torch.float32)
        del part
        if not restored.isfinite().all():
            raise NotFiniteError('the network returned' if image.isfinite().all() else 'the image has')
        if total == 1:
            result.copy_(restored)
        else:
            vertical = weights((bottom - top) * scale, overlap * scale * (top > 0), overlap * scale * (bottom < height))
            across = weights((right - left) * scale, overlap * scale * (left > 0), overlap * scale * (right < width))
            weight = vertical[:, None] * across
            result[:, top * scale : bottom * scale, left * scale : right * scale] += restored * weight
        if progress:
            progress(done + 1, total)


def wants_smaller_tiles(error: BaseException) -> bool:
    """Whether memory ran out, or a tensor has more elements than an operator can count."""
    return is_out_of_memory(error) or is_too_large(error)


def tile_that_fits(height: int, width: int, pixels: float) -> int | None:
    """The largest tile of at most `pixels` pixels; None where the whole image has no more."""
    if height * width <= pixels:
        return None
    return max(MIN_TILE, _down(math.isqrt(int(pixels))))


def memory_per_pixel(network: Network, device: torch.device) -> float:
    """Bytes of working memory that the network takes for each input pixel, measured on PROBE x PROBE noise.

    At least those of the picture, for networks that hand it on.
    """
    image = torch.rand(1, 3, PROBE, PROBE, device=device)
    if image.is_cuda:
        network(image)  # kernels are compiled and chosen
    with signals_held():  # an exception while a tensor is given back would be swallowed
        return max(peak_memory(network, image), image.nbytes) / PROBE**2


def elements_per_pixel(network: Network, device: torch.device) -> float:
    """Elements of the largest tensor in the network for each input pixel, found on PROBE x PROBE noise."""
    image = torch.rand(1, 3, PROBE, PROBE, device=device)
    with _Widest() as widest:
        network(image)
    return max(widest.elements, image.numel()) / PROBE**2


def peak_memory(network: Network, image: Tensor) -> int:
    """Bytes of working memory that the network takes for `image` (b, c, h, w), its output included."""
    if image.is_cuda:
        torch.cuda.reset_peak_memory_stats(image.device)
        before = torch.cuda.memory_allocated(image.device)
        network(image)
        return torch.cuda.max_memory_allocated(image.device) - before
    with _PeakMemory() as memory:
        network(image)
    return memory.peak


class _Widest(TorchDispatchMode):
    """The most elements of a tensor that any operator returns while it is on."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


class _PeakMemory(TorchDispatchMode):
    """Most bytes that the tensors made while it is on hold at one time: what CUDA counts itself, for the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.used = self.peak = 0
        self.alive: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, a second of the start of a program, to keep it away from what follows."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Views of parameters hold nothing of their own.
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive and storage._cdata not in given:
                    self.alive.add(storage._cdata)
                    self.used += storage.nbytes()
                    self.peak = max(self.peak, self.used)
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, address: int, size: int) -> None:
        self.alive.discard(address)
        self.used -= size


def free_memory(device: torch.device) -> int:
    """Bytes that may be used on `device`: 80 % of what is free on a GPU, half and at most CPU_BUDGET on a CPU."""
    if device.type == 'cuda':
        unused, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.8 * (unused + cached))
    free = free_system_memory()
    # What this process freed and keeps it can use again: a picture must not change what fits after it.
    return CPU_BUDGET if free is None else min(CPU_BUDGET, (free + freed_memory()) // 2)


def free_system_memory() -> int | None:
    """Bytes that the system, or the container that we are in, can still give; None where nobody says."""
    found = []
    try:
        for line in Path('/proc/meminfo').read_text().splitlines():
            if line.startswith('MemAvailable:'):
                found.append(int(line.split()[1]) * 1024)
        limit, used, statistics = (
            (CGROUP / name).read_text().strip() for name in ('memory.max', 'memory.current', 'memory.stat')
        )
        if limit != 'max':
            # Files that were read count as used, and make room as soon as it is wanted.
            files = int(dict(line.split() for line in statistics.splitlines()).get('inactive_file', 0))
            found.append(int(limit) - int(used) + files)
    except OSError:
        pass  # not Linux, or no container
    return min(found, default=None)


def _ramp(n: int) -> Tensor:
    return 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(n) + 0.5) / max(n, 1))


def _down(n: int) -> int:
    return max(ALIGN, n // ALIGN * ALIGN)
