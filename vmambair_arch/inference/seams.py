"""How far tiles are from the whole: the network sees all of what it is given, so a tile is not quite a crop of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import UserError
from ..images.alpha import visible_colours
from ..images.image_io import Image
from . import tiles
from .restorer import Restorer

CROP = 512


@dataclass(frozen=True)
class Seams:
    """Tiled against whole on the middle of a picture.

    Attributes:
        psnr: in dB on RGB; infinite where the two are equal.
        largest: difference in one value, of 0..1.
        height, width: of the crop.
        tile, overlap: in input pixels.
    """

    psnr: float
    largest: float
    height: int
    width: int
    tile: int
    overlap: int

    def __str__(self) -> str:
        return (
            f'tiles of {self.tile} with overlap {self.overlap} against the whole on a crop of '
            f'{self.width}x{self.height}: {self.psnr:.2f} dB, largest difference {self.largest * 255:.1f}/255'
        )


@torch.inference_mode()
def measure_seams(restorer: Restorer, image: Image, *, tile: int | None = None, crop: int | None = None) -> Seams:
    """Restore the middle of a picture whole and in tiles, and compare.

    Args:
        restorer: its network, device and overlap are used.
        tile: default: one that makes two tiles along the longer side of the crop.
        crop: largest side of the part that is compared, whole as well, so it has to fit into memory. Default: 512, or
            for a `tile` two of them beside each other and half of one high, which is no more pixels than one.

    Raises:
        UserError: the picture is too small to have two tiles.
    """
    full = image.rgb.shape[:2]
    if tile is not None and crop is None:
        sides = [max(tiles.MIN_TILE, tile // 2), 2 * tile - min(restorer.overlap, tile // 3)]
        height, width = map(min, full, sides if full[1] >= full[0] else sides[::-1])
    else:
        height, width = (min(side, crop or CROP) for side in full)
    if tile is None:
        tile = max(tiles.MIN_TILE, (max(height, width) + restorer.overlap + 1) // 2)
        tile += -tile % tiles.ALIGN
    if max(height, width) <= tile:
        raise UserError(f'the picture of {width}x{height} pixels is one tile of {tile}: there are no seams to measure')
    top, left = ((full - side) // 2 for full, side in zip(full, (height, width), strict=True))
    part = torch.from_numpy(visible_colours(image)[top : top + height, left : left + width].transpose(2, 0, 1).copy())

    whole, tiled = (
        tiles.run_in_tiles(
            restorer.network, part, scale=restorer.scale, tile=size, overlap=restorer.overlap, device=restorer.device
        ).clamp_(0, 1)
        for size in (None, tile)
    )
    difference = (whole - tiled).double()
    error = difference.square().mean().item()
    return Seams(
        psnr=-10 * math.log10(error) if error else math.inf,
        largest=difference.abs().max().item(),
        height=height,
        width=width,
        tile=tile,
        overlap=min(restorer.overlap, tile // 3),
    )
