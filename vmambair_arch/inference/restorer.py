"""`Restorer`: a network that takes pictures as they come and gives them back restored, in the same form."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..archs.oss_block import OSSBlock
from ..errors import UserError, as_user_error
from ..files import check_place, check_writable
from ..host import freed_memory
from ..images.alpha import can_hold, fit_alpha, visible_colours
from ..images.colour import COLOUR_FIXES, ColourFix, fix_colour
from ..images.formats import KINDS, check_side
from ..images.image_io import (
    Image,
    decode_image,
    encode_image,
    encoding,
    format_of,
    from_array,
    from_pil,
    read_image,
    to_array,
    to_pil,
    write_image,
)
from ..images.pixels import packed, upright
from ..ops import choose, using_now
from . import graphs as cuda_graphs
from . import tiles

Back = Callable[[Image], Any]
"""Makes a restored image a picture of the kind that was given."""
Precision = Literal['fp32', 'bf16', 'fp16']
logger = logging.getLogger('vmambair_arch')
_MEASURING = threading.RLock()
"""The first picture of a network measures what a pixel costs: once, and with nobody else in the network's hooks."""
BATCH = 16
"""Most pictures that go through the network at one time."""
ROOM: dict[ColourFix, int] = {'none': 20, 'wavelet': 35, 'adain': 50}
"""Bytes for each pixel of a network's result until it is a file, by the colour fix: the peak of a picture in tiles."""
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
ADVICE = {
    torch.float16: '; use --precision fp32, or bf16',
    torch.bfloat16: '; use --precision fp32',
    torch.float32: ', in float32 as well; train it further, or use another',
}
"""What to do where a network returns NaN: by what it runs in, so that nobody is told to use what is in use."""


class Restorer:
    """Restores pictures of any size. Several threads may share one.

    Example:
        >>> import numpy as np
        >>> restorer = Restorer.from_pretrained(task='derain', device='cpu')
        >>> restorer(np.zeros((48, 64, 3), np.uint8)).shape
        (48, 64, 3)
        >>> restorer('rainy.jpg', 'clean.png')  # doctest: +SKIP

    Args:
        model: a network of this package, (b, 3, h, w) -> (b, 3, h * scale, w * scale), RGB in 0..1, its weights in
            float32; it is moved to `device` and set to evaluation mode. torch.compile's is as good; of DataParallel's
            and DistributedDataParallel's the network within is taken.
        device: 'cpu', 'cuda', 'cuda:1', …; default: a GPU where there is one, torchrun's where it started us. 'mps',
            Apple's, runs by torch's operators, in float32 alone.
        precision: 'bf16' and 'fp16' run under autocast; the state of the scans stays float32.
        tile: largest side of a tile in input pixels; 0: always whole; None: whole where memory allows, else the
            largest tile that fits. Memory that runs out all the same halves the tile.
        overlap: input pixels that neighbouring tiles share. More than the default gained nothing on real photographs,
            where tiles of 256 were 51 dB from the whole or better (`benchmarks.tiles`).
        self_ensemble: average over the eight flips and quarter turns, in eight times the time; over the picture and its
            mirror image alone, in twice the time, where the network knows upright pictures only.
        outscale: final size over input size where it is not the network's scale (bicubic, antialiased).
        alpha: 'resize' interpolates transparency to the new size, 'restore' runs it through the network.
        colour_fix: 'adain' or 'wavelet' gives results the colours of their inputs, see `images.colour`; None: what the
            network's file asks for, 'wavelet' for `realsr`.
        graphs: on a GPU, start all launches of a shape of tile that comes again at one time, see `inference.graphs`;
            `VMAMBAIR_GRAPHS=0` in the environment leaves it out as well.

    Raises:
        UserError: an argument out of its range, a network for other than three channels or with weights in another type
            than float32, no such device.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str | torch.device | None = None,
        precision: Precision = 'fp32',
        tile: int | None = None,
        overlap: int = 32,
        self_ensemble: bool = False,
        outscale: float | None = None,
        alpha: Literal['resize', 'restore'] = 'resize',
        colour_fix: ColourFix | None = None,
        graphs: bool = True,
    ) -> None:
        model = _without_replicas(model)
        if other := next(
            (p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32), 0
        ):
            raise UserError(
                f'the weights of the network are {str(other).removeprefix("torch.")}; give it as network.float(), and '
                "say precision='bf16' or 'fp16' to compute in half precision"
            )
        config = getattr(model, 'config', {})
        if (config.get('inp_channels', 3), config.get('out_channels', 3)) != (3, 3):
            raise UserError(f'the network is for {config["inp_channels"]} channels; only RGB networks restore pictures')
        if precision not in DTYPES:
            raise UserError(f"precision '{precision}' is not one of {', '.join(DTYPES)}")
        for name, value in {'tile': tile, 'overlap': overlap}.items():
            if not (isinstance(value, Integral) and not isinstance(value, bool)) and (name, value) != ('tile', None):
                raise UserError(f'the {name} must be a whole number of pixels, got {value!r}')
        if tile and tile < tiles.MIN_TILE:
            raise UserError(
                f'a tile of {tile} pixels is too small; use {tiles.MIN_TILE} or more, or 0 for whole images'
            )
        if overlap < 0:
            raise UserError(f'the overlap must be 0 or more pixels, got {overlap}')
        if outscale is not None and (not isinstance(outscale, Real) or outscale is True or not 0 < outscale <= 16):
            raise UserError(f'the output scale must be a number above 0 and at most 16, got {outscale!r}')
        if alpha not in ('resize', 'restore'):
            raise UserError(f"alpha '{alpha}' is not one of resize, restore")
        if colour_fix is None:
            colour_fix = getattr(model, 'colour_fix', 'none')
        if colour_fix not in COLOUR_FIXES:
            raise UserError(f"colour_fix '{colour_fix}' is not one of {', '.join(COLOUR_FIXES)}")
        self.device = find_device(device)
        if self.device.type == 'mps' and precision != 'fp32':
            raise UserError(f"precision '{precision}' is not for Apple's GPU: the scan runs there in float32; use fp32")
        self.model = model.to(self.device).eval()
        self.scale: int = config.get('scale', 1)
        self.dtype = DTYPES[precision]
        self.tile = tile
        self.overlap = overlap
        self.self_ensemble = self_ensemble
        self.outscale = outscale
        self.alpha = alpha
        self.colour_fix = colour_fix
        self._graphs: cuda_graphs.Graphs | None = None
        if graphs and self.device.type == 'cuda' and cuda_graphs.wanted():
            self._graphs = cuda_graphs.Graphs()
        self._parts: list[Mapping[str, Tensor | None]] | None = None
        self._bytes_per_pixel: float | None = None
        self._elements_per_pixel: float | None = None
        self._blocks = _count_blocks(self.model) * self._passes()
        if self.device.type == 'cpu' and self.dtype == torch.float16:
            logger.warning('fp16 on a CPU is several times slower than fp32; use --precision fp32, or bf16')

    def __repr__(self) -> str:
        network = getattr(self.model, 'arch', type(self.model).__name__)
        size = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        settings = ', '.join(f'{k}={v!r}' for k, v in self.settings(False).items() if v not in (None, False))
        return f'Restorer({network} x{self.scale}, {size:.2f} M parameters, device={str(self.device)!r}, {settings})'

    def settings(self, network: bool = True) -> dict[str, Any]:
        """What decides the result, in JSON's types: the arguments, and the network by its checksum."""
        names = {dtype: name for name, dtype in DTYPES.items()}
        found: dict[str, Any] = {'network': self._network_checksum()} if network else {}
        return found | {
            'precision': names[self.dtype],
            'tile': self.tile,
            'overlap': self.overlap,
            'self_ensemble': self.self_ensemble,
            'outscale': self.outscale,
            'alpha': self.alpha,
            'colour_fix': self.colour_fix,
        }

    def _network_checksum(self) -> str:
        """Taken anew each time: weights may have changed, in ways that no counter sees."""
        import hashlib

        from ..checkpoints.load import digest

        network = getattr(self.model, '_orig_mod', self.model)  # torch.compile's is the same one
        config = json.dumps(getattr(network, 'config', {}), sort_keys=True)
        known = f'{digest(network.state_dict())} {type(network).__name__} {config}'
        return hashlib.sha256(known.encode()).hexdigest()

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, task: str = 'derain', denoise: float | None = None, **options: Any
    ) -> Restorer:
        """A restorer from a checkpoint.

        Args:
            source: a file, a folder, an https:// address, 'user/repo' or 'user/repo:file' on the Hub, or the name of a
                checkpoint that comes with the package; default: the package's own for the task.
            task: 'derain'; 'sr' for four times the size of a clean picture, 'realsr' of one with noise, blur or JPEG
                blocks; of no effect where there is a source.
            denoise: 0 to 1, for 'realsr' alone: how much of it there is in a network between it and 'sr', which leaves
                noise as it is; default: 1.
            options: as for `Restorer`.

        Raises:
            UserError: no such checkpoint, a damaged one, or one of another network.
        """
        from ..checkpoints.find import checkpoint_for
        from ..checkpoints.interpolate import interpolate
        from ..checkpoints.load import load_model

        if denoise is None:
            return cls(load_model(checkpoint_for(task) if source is None else source), **options)
        if source is not None or task != 'realsr':
            raise UserError("the denoise strength is for the task 'realsr' alone; for others: vmambair interpolate")
        if not 0 <= denoise <= 1:
            raise UserError(f'the denoise strength must be 0 to 1, got {denoise:g}')
        return cls(interpolate(checkpoint_for('sr'), checkpoint_for('realsr'), denoise)[0], **options)

    def __call__(self, picture: Any, output: Any = None, *, progress: tiles.Progress | None = None) -> Any:
        """Restore a picture, or a list of them; the result is of the kind of the input.

        Args:
            picture: one of
                an array (h, w) or (h, w, c), RGB order, uint8, uint16 or floating point in 0..1;
                a tensor (c, h, w) or (b, c, h, w), RGB, uint8 or floating point in 0..1, on any device;
                a Pillow image;
                the path of an image file, which needs `output`;
                the bytes of an image file, or a binary file object, which gives a BytesIO of the same format;
                a list or tuple of these, which gives a list.
                c = 1 is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
            output: a path to write to, whose suffix says the format, or a binary file object, written to in the format
                of the input, PNG for arrays and tensors; returned in place of the result. A file that is there is
                replaced, but for one that is restored. For a list or batch: a list of as many.
            progress: called with what is done and the total, in blocks of the network; of a list or batch, in pictures.

        Raises:
            UserError: nothing that could be restored, a file that cannot be read; before the network runs, an output
                that cannot be written, or cannot hold the result.
        """
        if isinstance(picture, (list, tuple)):
            return self._restore_list(picture, output, progress)
        if _is_batch(picture):
            _check_tensor(picture, batch=True)
            if output is None and not len(picture):
                return picture.new_empty(0, picture.shape[1], *self._result_size(*picture.shape[2:]))
            results = self._restore_list(picture.unbind(), output, progress)
            return torch.stack(results) if output is None else results
        if output is not None:
            return self._restore_into(picture, output, progress)
        image, back = self._open(picture)
        return back(self.restore(image, progress=progress))

    @torch.inference_mode()
    def restore(self, image: Image, *, progress: tiles.Progress | None = None) -> Image:
        """Restore a decoded image with its alpha; depth, profile and the rest stay as they are.

        Raises:
            UserError: there is no memory for the result, or the network returns NaN.
        """
        self.check_room(image)
        return self._finish(image, self._run(visible_colours(image), progress))

    def restore_many(self, pictures: Iterable[Any]) -> Iterator[Any]:
        """Restore pictures as they come, in their order; neighbours of one size go through the network together.

        Args:
            pictures: each of a kind that a call takes but a path or a batch, or an `Image`; read no further ahead than
                a batch. Each result is of the kind of its picture.

        Raises:
            UserError: as a call does; what was read before has been returned by then.
        """
        waiting: list[tuple[Image, Back]] = []
        try:
            for picture in pictures:
                image, back = self._open(picture)
                if waiting and (
                    image.rgb.shape != waiting[0][0].rgb.shape or len(waiting) == self._batch(*image.rgb.shape[:2])
                ):
                    full, waiting = waiting, []
                    yield from self._restore_batch(full)
                waiting.append((image, back))
        except Exception:
            yield from self._restore_batch(waiting)
            raise
        yield from self._restore_batch(waiting)

    def _restore_batch(self, opened: list[tuple[Image, Back]]) -> list[Any]:
        with torch.inference_mode():
            done = self._run_batch([visible_colours(image) for image, _ in opened])
            restored = [self._finish(image, rgb) for (image, _), rgb in zip(opened, done, strict=True)]
        return [back(image) for (_, back), image in zip(opened, restored, strict=True)]

    def _finish(self, image: Image, rgb: np.ndarray) -> Image:
        alpha = image.alpha
        if alpha is not None:
            if self.alpha == 'restore':
                alpha = self._run(np.repeat(alpha[..., None], 3, axis=2), None).mean(axis=2)
            else:
                alpha = _resize(torch.from_numpy(packed(alpha))[None], rgb.shape[:2])[0].numpy()
        return replace(image, rgb=rgb, alpha=alpha)

    def _open(self, picture: Any) -> tuple[Image, Back]:
        """One picture as an image, and what makes a restored image one of the picture's kind."""
        if isinstance(picture, Image):
            return picture, lambda restored: restored
        if isinstance(picture, (str, Path)):
            raise UserError(f"{picture}: say where the result goes: restorer(path, 'restored.png')")
        if isinstance(picture, np.ndarray):
            kind, last = picture.dtype, picture.shape[2:]
            return from_array(picture), lambda restored: _array(restored, kind, last)
        if isinstance(picture, PIL.Image.Image):
            return from_pil(upright(picture)), to_pil
        if isinstance(picture, Tensor):
            device, dtype = picture.device, picture.dtype
            return from_array(_channels_last(picture)), lambda restored: _channels_first(restored, device, dtype)
        if isinstance(picture, (bytes, bytearray, memoryview)):
            return self._decoded(decode_image(bytes(picture)), 'image', bytes)
        if hasattr(picture, 'read'):
            data = picture.read()
            if not isinstance(data, bytes):
                raise UserError(f'{_name_of(picture)}: must be opened in binary mode')
            name = _name_of(picture)
            return self._decoded(decode_image(data, name=name), name, io.BytesIO)
        what = type(picture).__name__
        raise UserError(f'cannot restore a {what}; give an array, a tensor, a Pillow image, a path, bytes or a file')

    def _restore_into(self, picture: Any, output: str | Path | IO[bytes], progress: tiles.Progress | None) -> Any:
        _check_output(output, _paths([picture]))
        image = read_image(picture) if isinstance(picture, (str, Path)) else self._open(picture)[0]
        if isinstance(output, (str, Path)):
            image = self.fitting(image, format_of(output), output)
            write_image(output, self.restore(image, progress=progress))
            return Path(output)
        image, back = self._decoded(image, _name_of(output), bytes)
        output.write(back(self.restore(image, progress=progress)))
        return output

    def check_room(self, image: Image, name: object = 'the picture') -> None:
        """Refuse a picture whose result there is no memory for, before the network runs on it for hours.

        Raises:
            UserError: there is not.
        """
        height, width = (side * self.scale for side in image.rgb.shape[:2])
        need, free = height * width * ROOM[self.colour_fix], tiles.free_system_memory()
        if free is not None and need > (free := free + freed_memory()):
            raise UserError(
                f'{name}: what the network makes of it ({width}x{height} pixels) takes {need / 2**30:.1f} GiB, and '
                f'{free / 2**30:.1f} are free here; free some, or cut it into parts'
            )

    def _decoded(self, image: Image, name: str, made: Callable[[bytes], Any]) -> tuple[Image, Back]:
        """The image as its own format can hold its result, and what makes bytes of the result and `made` of those."""
        kind = _kind(image)

        def back(restored: Image) -> Any:
            with encoding(name, kind):
                return made(encode_image(restored, kind))

        return self.fitting(image, kind, name), back

    def fitting(self, image: Image, format: str, name: object) -> Image:
        """The image without an alpha that hides nothing where a format has no place for it.

        Raises:
            UserError: its result cannot be written in that format, or there is no memory for it.
        """
        self.check_room(image, name)
        check_side(format, max(self._result_size(*image.rgb.shape[:2])), name)
        return fit_alpha(image, format, name)

    def _restore_list(self, pictures: Sequence[Any], outputs: Any, progress: tiles.Progress | None) -> list[Any]:
        if outputs is not None and (not isinstance(outputs, (list, tuple)) or len(outputs) != len(pictures)):
            raise UserError(f'{len(pictures)} pictures need a list of as many outputs')
        taken = _paths(pictures)
        for place in outputs or ():
            if place is not None and not _is_batch(place):  # a list for a batch is looked at in its turn
                _check_output(place, taken)
                taken |= _paths([place])
        if outputs is None and not any(map(_is_batch, pictures)):
            results = self.restore_many(pictures)
        else:
            places = [None] * len(pictures) if outputs is None else outputs
            results = (self(picture, place) for picture, place in zip(pictures, places, strict=True))
        done: list[Any] = []
        for result in results:
            done.append(result)
            if progress:
                progress(len(done), len(pictures))
        return done

    def network(self, x: Tensor) -> Tensor:
        """The network as it is run on a tile: (b, 3, h, w) -> (b, 3, h * scale, w * scale), float32."""
        return self._ensemble(self._once, x)

    def _measured(self, x: Tensor) -> Tensor:
        """`network` by ordinary launches: a CUDA graph has its memory already, and shows no operator."""
        return self._ensemble(self._plain, x)

    def _ensemble(self, once: tiles.Network, x: Tensor) -> Tensor:
        if not self.self_ensemble:
            return once(x)
        upright = getattr(self.model, 'upright', False)
        total = torch.zeros(())
        for flip in (False, True):
            for turns in range(1 if upright else 4):
                y = torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
                y = torch.rot90(once(y), -turns, (-2, -1))
                y = y.flip(-1) if flip else y
                total = total.to(y.device) + y
        return total / (2 if upright else 8)

    def _plain(self, x: Tensor) -> Tensor:
        # Weights that autocast keeps in another dtype would be gone when a graph reads them.
        keep = self._graphs is None
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=keep):
            return self.model(x).float()

    def _unheard(self, x: Tensor) -> Tensor:
        """`_plain` for a recording: no block of it is done."""
        token = _on_block.set(None)
        try:
            return self._plain(x)
        finally:
            _on_block.reset(token)

    def _once(self, x: Tensor) -> Tensor:
        """One pass, by a CUDA graph where there is one."""
        if self._graphs is None or torch.is_grad_enabled():
            return self._plain(x)
        state = using_now(), self.dtype, self._addresses()
        return self._graphs(self._plain, x, state, silently=self._unheard)

    def _addresses(self) -> tuple[int, ...]:
        """Where the weights are: a graph reads them there."""
        if self._parts is None:
            self._parts = [part for m in self.model.modules() for part in (m._parameters, m._buffers) if part]
        return tuple(t.data_ptr() for part in self._parts for t in part.values() if t is not None)

    def _passes(self) -> int:
        return 1 if not self.self_ensemble else 2 if getattr(self.model, 'upright', False) else 8

    def _run(self, rgb: np.ndarray, progress: tiles.Progress | None) -> np.ndarray:
        """(h, w, 3) -> (h * outscale, w * outscale, 3) in 0..1."""
        height, width = rgb.shape[:2]
        image = torch.from_numpy(packed(rgb)).permute(2, 0, 1)
        tile = self.tile_for(height, width)
        with _counting(progress, self._blocks, _count_tiles(height, width, tile, self.overlap)) as count:
            try:
                restored = tiles.run_in_tiles(
                    self.network,
                    image,
                    scale=self.scale,
                    tile=tile,
                    overlap=self.overlap,
                    device=self.device,
                    progress=count,
                )
            except tiles.NotFiniteError as error:
                raise tiles.NotFiniteError(error.where, ADVICE[self.dtype], exit_code=2) from None
        if self.colour_fix == 'adain':  # the last bits of means and deviations depend on the order in memory
            restored, image = restored.contiguous(), image.contiguous()
        return self._finished(restored, image)

    def _finished(self, restored: Tensor, source: Tensor) -> np.ndarray:
        """What the network made of `source` (3, h, w), in its colours and at the size that was asked for."""
        height, width = source.shape[-2:]
        restored = fix_colour(restored, source, self.colour_fix)
        size = self._result_size(height, width)
        if size == tuple(restored.shape[-2:]):
            return np.ascontiguousarray(restored.clamp_(0, 1).permute(1, 2, 0).numpy())
        result = np.empty((*size, len(restored)), np.float32)
        for number, channel in enumerate(restored):  # one by one: pictures are large
            result[..., number] = _resize(channel[None].contiguous(), size)[0].clamp_(0, 1).numpy()
        return result

    def _result_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result of a picture of that size."""
        scale = self.outscale or self.scale
        return _scaled(height, scale), _scaled(width, scale)

    def _run_batch(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`_run` of pictures of one size, together where they fit."""
        if len(pictures) > 1:
            stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
            try:
                restored = self.network(stacked.to(self.device)).to('cpu', torch.float32)
                if restored.isfinite().all():
                    return [self._finished(*pair) for pair in zip(restored, stacked, strict=True)]
            except (RuntimeError, MemoryError) as error:
                if not tiles.wants_smaller_tiles(error):
                    raise
        return [self._run(picture, None) for picture in pictures]

    def _batch(self, height: int, width: int) -> int:
        """How many pictures of a size go through the network at one time."""
        if self.tile and self.tile < max(height, width):
            return 1
        pixels = height * width
        if pixels * BATCH <= tiles.PROBE**2:
            return BATCH
        return max(1, min(BATCH, int(self._most_pixels() / pixels)))

    def _cost(self) -> float:
        """Bytes of working memory for an input pixel."""
        with _MEASURING, torch.inference_mode():
            if self._bytes_per_pixel is None:
                self._bytes_per_pixel = tiles.memory_per_pixel(self._measured, self.device)
            return self._bytes_per_pixel

    def _most_pixels(self) -> float:
        """Input pixels that can go through the network at one time."""
        held = self._graphs.held if self._graphs else 0  # which counts as free, for nothing runs in it now
        pixels = max(tiles.free_memory(self.device) - held, 0) / self._cost()
        if self.device.type == 'cpu':
            return pixels
        with _MEASURING, torch.inference_mode():
            if self._elements_per_pixel is None:
                self._elements_per_pixel = tiles.elements_per_pixel(self._measured, self.device)
        return min(pixels, tiles.MOST_ELEMENTS / self._elements_per_pixel)

    def workers(self, pixels: int) -> int:
        """How many images of so many pixels may be restored at one time: on a CPU one a thread, as memory allows."""
        count = torch.get_num_threads() if self.device.type == 'cpu' else 1
        side = math.isqrt(max(pixels - 1, 0)) + 1
        while count > 1 and self.tile_for(count * side, side) is not None:
            count -= 1
        return count

    def tile_for(self, height: int, width: int) -> int | None:
        """The largest side of a tile for an image of that size, in input pixels; None: whole."""
        if self.tile is not None:
            return self.tile or None
        if height * width <= tiles.PROBE**2:
            return None
        return tiles.tile_that_fits(height, width, self._most_pixels())


def _without_replicas(model: nn.Module) -> nn.Module:
    """The network within a wrapper that runs copies of it, whose attributes such a wrapper hides."""
    while isinstance(model, (nn.parallel.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def _is_batch(picture: Any) -> bool:
    return isinstance(picture, (list, tuple)) or (isinstance(picture, Tensor) and picture.ndim == 4)


def _paths(pictures: Iterable[Any]) -> set[Path]:
    """Where those are that are files."""
    return {Path(picture).resolve() for picture in pictures if isinstance(picture, (str, Path))}


def _check_output(output: Any, taken: set[Path]) -> None:
    """Find out what is wrong with an output before the network runs.

    Raises:
        UserError: nothing can be written there, or it is one of the files that are `taken`, as inputs are.
    """
    if isinstance(output, (str, Path)):
        path = Path(output)
        format_of(path)
        check_place(path)
        if path.resolve() in taken:
            raise UserError(f'{path}: is an input, or the output of another picture; name another one')
        check_writable(path.parent)
    elif not hasattr(output, 'write'):
        raise UserError(f'the output must be a path or a file, got {type(output).__name__}')
    elif isinstance(getattr(output, 'file', output), io.TextIOBase):  # a temporary file has another within
        raise UserError(f'{_name_of(output)}: must be opened in binary mode')


def _channels_last(picture: Tensor) -> np.ndarray:
    """(c, h, w) uint8 or floating point -> (h, w, c) float32."""
    _check_tensor(picture)
    levels = 255 if picture.dtype == torch.uint8 else 1
    return (picture.detach().cpu().float() / levels).permute(1, 2, 0).numpy()


def _check_tensor(picture: Tensor, *, batch: bool = False) -> None:
    """Refuse a tensor that is no picture.

    Args:
        batch: it is several, or none.

    Raises:
        UserError: what is wrong with it.
    """
    sides = picture.shape[1:] if batch else picture.shape
    if len(sides) != 3 or 0 in sides or sides[0] > 4:
        raise UserError(f'a tensor must be (c, h, w), or (b, c, h, w) for a batch, got {tuple(picture.shape)}')
    if picture.dtype != torch.uint8 and not picture.is_floating_point():
        raise UserError(f'a tensor must be uint8 or floating point in 0..1, got {picture.dtype}')
    if picture.layout != torch.strided or picture.is_meta:
        kind = 'on meta' if picture.is_meta else str(picture.layout).removeprefix('torch.')
        raise UserError(f'a tensor must be a dense one that holds its numbers, got one that is {kind}')


def _channels_first(image: Image, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An image as a tensor (c, h, w) of that type, with whole levels where it is uint8."""
    array = to_array(image)
    tensor = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
    if dtype == torch.uint8:
        tensor = (tensor * 255).round()
    return tensor.contiguous().to(device, dtype)


def _array(image: Image, kind: np.dtype[Any], last: tuple[int, ...]) -> np.ndarray:
    """An image as an array of that type and those dimensions after height and width: () where it had two."""
    array = to_array(image, kind)
    return array.reshape(*array.shape[:2], *last)


def _kind(image: Image) -> str:
    """The format that an image is written in where nobody says."""
    kind = image.format if image.format in KINDS else 'PNG'
    return kind if kind is not None and can_hold(kind, image) else 'PNG'


def _name_of(file: object) -> str:
    name = getattr(file, 'name', None)
    return name if isinstance(name, str) else type(file).__name__


_on_block: ContextVar[Callable[[], None] | None] = ContextVar('on_block', default=None)
"""Called after every block of a network that runs in this thread."""


def _say_block(*_: object) -> None:
    if (say := _on_block.get()) is not None:
        say()


def _count_blocks(model: nn.Module) -> int:
    """The number of blocks that say when they are done, at least 1; they are made to say it."""
    blocks = [module for module in model.modules() if isinstance(module, OSSBlock)]
    for block in blocks:
        if _say_block not in block._forward_hooks.values():
            block.register_forward_hook(_say_block)
    return max(1, len(blocks))


def _count_tiles(height: int, width: int, tile: int | None, overlap: int) -> int:
    tile = tile or max(height, width)
    overlap = min(overlap, tile // 3)
    return len(tiles.spans(height, tile, overlap)) * len(tiles.spans(width, tile, overlap))


@contextmanager
def _counting(progress: tiles.Progress | None, blocks: int, count: int) -> Iterator[tiles.Progress | None]:
    """A progress for tiles that tells `progress` of every block within them as well."""
    if progress is None:
        yield None
        return
    done, total, within = 0, count, 0

    def block() -> None:
        nonlocal within
        within = min(within + 1, blocks - 1)  # the last is said with the tile
        progress(done * blocks + within, total * blocks)

    def tile(now: int, of: int) -> None:
        nonlocal done, total, within
        done, total, within = now, of, 0
        progress(done * blocks, total * blocks)

    token = _on_block.set(block)
    try:
        yield tile
    finally:
        _on_block.reset(token)


def find_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; default: a GPU where there is one, torchrun's where it started us.

    Raises:
        UserError: it is not there, or not for the scan that `VMAMBAIR_SCAN` asks for.
    """
    if device is None:
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(device)
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError('it holds no numbers')
    except Exception as error:  # torch without CUDA asserts, and other kinds of devices want modules that are not there
        # What torch says of a device that it was not built for goes on for a page.
        reason = str(error).partition('\n')[0].partition('. ')[0]
        raise UserError(f"device '{device}' is not there ({reason}); use cpu") from None
    with as_user_error():
        choose(device, torch.float32)
    return device


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """(c, h, w) -> (c, *size), bicubic; values stay in 0..1."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None], tuple(size), mode='bicubic', antialias=True)[0].clamp(0, 1)
