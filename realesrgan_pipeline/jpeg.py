"""Baseline JPEG as a function of tensors: what a decoder returns of what an encoder kept, a quality for each image.

As libjpeg does it (and so OpenCV): the tables of the standard (ITU-T T.81, annex K.1) scaled by quality to whole
numbers, chroma halved in both directions by averaging and brought back by linear interpolation, edges repeated up to
whole blocks. The entropy coding loses nothing and is left out; the pixels of the result stay floats.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
# RGB to YCbCr of JFIF (ITU-R BT.601 in full range) without its offset of 128, and back.
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Encode and decode.

    Args:
        image: (b, 3, h, w), RGB 0..1, any size from 1 x 1.
        quality: (b) from 1 to 100, need not be whole.

    Returns:
        (b, 3, h, w), 0..1.
    """
    h, w = image.shape[-2:]
    constants = _constants(image.device)
    ycbcr = _mix(constants.to_ycbcr, F.pad(image, (0, -w % 16, 0, -h % 16), mode='replicate') * 255)
    # libjpeg's rule: the tables as they stand at quality 50.
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1)
    steps = (constants.tables * factor + 0.5).floor().clamp(1, 255)
    luma = _quantize(ycbcr[:, :1] - 128, steps[:, :1], constants.dct)
    chroma = _quantize(F.avg_pool2d(ycbcr[:, 1:], 2), steps[:, 1:], constants.dct)
    chroma = F.interpolate(chroma, scale_factor=2, mode='bilinear')
    rgb = _mix(constants.to_rgb, torch.cat((luma + 128, chroma), dim=1))
    return (rgb[..., :h, :w] / 255).clamp(0, 1)


def _quantize(planes: Tensor, steps: Tensor, dct: Tensor) -> Tensor:
    """Round the DCT coefficients of 8 x 8 blocks.

    Args:
        planes: (b, c, h, w), sides multiples of 8.
        steps: (b, c or 1, 64) quantization steps, vertical frequency first.
        dct: (64, 64) the orthonormal transform of a block.

    Returns:
        (b, c, h, w).
    """
    b, c, h, w = planes.shape
    blocks = planes.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(b, c, -1, 64)
    steps = steps.unsqueeze(2)
    coefficients = (blocks @ dct.T / steps).round() * steps
    return (coefficients @ dct).view(b, c, h // 8, w // 8, 8, 8).transpose(3, 4).reshape(b, c, h, w)


def _mix(matrix: Tensor, image: Tensor) -> Tensor:
    """The channels of (b, 3, h, w) times a 3 x 3 matrix."""
    return (matrix @ image.flatten(2)).view_as(image)


class _Constants(NamedTuple):
    dct: Tensor  # (64, 64)
    tables: Tensor  # (2, 64), luma and chroma
    to_ycbcr: Tensor  # (3, 3)
    to_rgb: Tensor  # (3, 3)


@lru_cache(maxsize=4)
def _constants(device: torch.device) -> _Constants:
    frequency = torch.arange(8, dtype=torch.float64)
    row = torch.cos((2 * frequency + 1) * frequency[:, None] * math.pi / 16) / 2
    row[0] *= math.sqrt(0.5)
    tables = torch.tensor((LUMA_TABLE, CHROMA_TABLE)).flatten(1)
    constants = (torch.kron(row, row), tables, torch.tensor(TO_YCBCR), torch.tensor(TO_RGB))
    return _Constants(*(t.float().to(device) for t in constants))
