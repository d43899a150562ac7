"""`Restorer`: a network that takes pictures as they come and gives them back restored, in the same form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, as_user_error
from ..images.image_io import Image, from_array, from_pil, read_image, to_array, to_pil, write_image
from ..images.pixels import upright
from ..ops import choose
from . import tiles

Picture = TypeVar('Picture', np.ndarray, Tensor, PIL.Image.Image)
Precision = Literal['fp32', 'bf16', 'fp16']
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class Restorer:
    """Restores pictures of any size.

    Example:
        >>> import numpy as np
        >>> restorer = Restorer.from_pretrained(task='derain', device='cpu')
        >>> restorer(np.zeros((48, 64, 3), np.uint8)).shape
        (48, 64, 3)

    Args:
        model: a network of this package, (b, 3, h, w) -> (b, 3, h * scale, w * scale), RGB in 0..1; it is moved to
            `device` and set to evaluation mode.
        device: 'cpu', 'cuda', 'cuda:1', …; default: a GPU where there is one, torchrun's where it started us.
        precision: 'bf16' and 'fp16' run under autocast; the state of the scans stays float32.
        tile: largest side of a tile in input pixels; 0: always whole; None: whole where memory allows, else the
            largest tile that fits. Memory that runs out all the same halves the tile.
        overlap: input pixels that neighbouring tiles share. More than the default gained nothing on real photographs,
            where tiles of 256 were 51 dB from the whole or better (`benchmarks.tiles`).
        self_ensemble: average over the eight flips and quarter turns, in eight times the time; over the picture and its
            mirror image alone, in twice the time, where the network knows upright pictures only.
        outscale: final size over input size where it is not the network's scale (bicubic, antialiased).
        alpha: 'resize' interpolates transparency to the new size, 'restore' runs it through the network.

    Raises:
        UserError: an argument out of its range, a network for other than three channels, no such device.
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
    ) -> None:
        config = getattr(model, 'config', {})
        if (config.get('inp_channels', 3), config.get('out_channels', 3)) != (3, 3):
            raise UserError(f'the network is for {config["inp_channels"]} channels; only RGB networks restore pictures')
        if precision not in DTYPES:
            raise UserError(f"precision '{precision}' is not one of {', '.join(DTYPES)}")
        if tile and tile < tiles.MIN_TILE:
            raise UserError(
                f'a tile of {tile} pixels is too small; use {tiles.MIN_TILE} or more, or 0 for whole images'
            )
        if overlap < 0:
            raise UserError(f'the overlap must be 0 or more pixels, got {overlap}')
        if outscale is not None and not 0 < outscale <= 16:
            raise UserError(f'the output scale must be above 0 and at most 16, got {outscale:g}')
        if alpha not in ('resize', 'restore'):
            raise UserError(f"alpha '{alpha}' is not one of resize, restore")
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.scale: int = config.get('scale', 1)
        self.dtype = DTYPES[precision]
        self.tile = tile
        self.overlap = overlap
        self.self_ensemble = self_ensemble
        self.outscale = outscale
        self.alpha = alpha
        self._bytes_per_pixel: float | None = None

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, *, task: str = 'derain', **options: Any) -> Restorer:
        """A restorer from a checkpoint.

        Args:
            source: a file, an https:// address, or the name of a checkpoint that comes with the package; default: the
                package's own for the task.
            task: 'derain', or 'sr' for four times the size; of no effect where there is a source.
            options: as for `Restorer`.

        Raises:
            UserError: no such checkpoint, a damaged one, or one of another network.
        """
        from ..checkpoints.find import checkpoint_for
        from ..checkpoints.load import load_model

        return cls(load_model(checkpoint_for(task) if source is None else source), **options)

    def __call__(
        self, picture: Picture | str | Path, output: str | Path | None = None, *, progress: tiles.Progress | None = None
    ) -> Picture | Path:
        """Restore a picture; the result is of the kind of the input.

        Args:
            picture: one of
                an array (h, w) or (h, w, c), RGB order, uint8, uint16 or floating point in 0..1;
                a tensor (c, h, w) or (b, c, h, w), RGB, uint8 or floating point in 0..1, on any device;
                a Pillow image;
                the path of an image file, which needs `output`, the path to write to.
                c = 1 is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
            progress: called with the number of tiles done and their total.

        Raises:
            UserError: nothing that could be restored, a file that cannot be read or written.
        """
        if isinstance(picture, (str, Path)):
            if output is None:
                raise UserError(f"{picture}: say where the result goes: restorer(path, 'restored.png')")
            write_image(output, self.restore(read_image(picture), progress=progress))
            return Path(output)
        if isinstance(picture, np.ndarray):
            restored = to_array(self.restore(from_array(picture), progress=progress), picture.dtype)
            return restored.reshape(*restored.shape[:2], *picture.shape[2:])
        if isinstance(picture, Tensor):
            return self._restore_tensor(picture, progress)
        if isinstance(picture, PIL.Image.Image):
            return to_pil(self.restore(from_pil(upright(picture)), progress=progress))
        raise UserError(f'cannot restore a {type(picture).__name__}; give an array, a tensor, a Pillow image or a path')

    @torch.inference_mode()
    def restore(self, image: Image, *, progress: tiles.Progress | None = None) -> Image:
        """Restore a decoded image with its alpha; depth, profile and the rest stay as they are."""
        rgb = self._run(image.rgb, progress)
        alpha = image.alpha
        if alpha is not None:
            if self.alpha == 'restore':
                alpha = self._run(np.repeat(alpha[..., None], 3, axis=2), None).mean(axis=2)
            else:
                alpha = _resize(torch.from_numpy(alpha)[None], rgb.shape[:2])[0].numpy()
        return replace(image, rgb=rgb, alpha=alpha)

    def network(self, x: Tensor) -> Tensor:
        """The network as it is run on a tile: (b, 3, h, w) -> (b, 3, h * scale, w * scale), float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if not self.self_ensemble:
                return self.model(x).float()
            upright = getattr(self.model, 'upright', False)
            total = None
            for flip in (False, True):
                for turns in range(1 if upright else 4):
                    y = torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
                    y = torch.rot90(self.model(y).float(), -turns, (-2, -1))
                    y = y.flip(-1) if flip else y
                    total = y if total is None else total + y
            return total / (2 if upright else 8)

    def _run(self, rgb: np.ndarray, progress: tiles.Progress | None) -> np.ndarray:
        """(h, w, 3) -> (h * outscale, w * outscale, 3) in 0..1."""
        height, width = rgb.shape[:2]
        image = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
        restored = tiles.restore(
            self.network,
            image,
            scale=self.scale,
            tile=self._tile(height, width),
            overlap=self.overlap,
            device=self.device,
            progress=progress,
        )
        if self.outscale is not None:
            restored = _resize(restored, (_scaled(height, self.outscale), _scaled(width, self.outscale)))
        return np.ascontiguousarray(restored.clamp_(0, 1).permute(1, 2, 0).numpy())

    def _tile(self, height: int, width: int) -> int | None:
        """The largest side of a tile for an image; None: whole."""
        if self.tile is not None:
            return self.tile or None
        if height * width <= tiles.PROBE**2:
            return None
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = tiles.memory_per_pixel(self.network, self.device)
        return tiles.tile_that_fits(height, width, tiles.free_memory(self.device) / self._bytes_per_pixel)

    def _restore_tensor(self, picture: Tensor, progress: tiles.Progress | None) -> Tensor:
        if picture.ndim not in (3, 4):
            raise UserError(f'a tensor must be (c, h, w) or (b, c, h, w), got {tuple(picture.shape)}')
        levels = 255 if picture.dtype == torch.uint8 else 1
        if levels == 1 and not picture.is_floating_point():
            raise UserError(f'a tensor must be uint8 or floating point in 0..1, got {picture.dtype}')
        restored = []
        for one in picture.detach().reshape(-1, *picture.shape[-3:]):
            array = (one.cpu().float() / levels).permute(1, 2, 0).numpy()
            result = to_array(self.restore(from_array(array), progress=progress))
            restored.append(torch.from_numpy(result.reshape(*result.shape[:2], -1)).permute(2, 0, 1))
        stacked = torch.stack(restored) * levels
        if levels == 255:
            stacked = stacked.round()
        return stacked.reshape(*picture.shape[:-2], *stacked.shape[-2:]).to(picture.device, picture.dtype)


def find_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; default: a GPU where there is one, torchrun's where it started us.

    Raises:
        UserError: it is not there, or not for the scan that `VMAMBAIR_SCAN` asks for.
    """
    if device is None:
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UserError(f"device '{device}' is not there ({str(error).splitlines()[0]}); use cpu") from None
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
