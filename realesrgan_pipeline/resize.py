"""Two ways to resize: the interpolations that the degradation draws from, and MATLAB's bicubic of the SR benchmarks."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def resize(image: Tensor, mode: str, *, size: tuple[int, int] | None = None, factor: float | None = None) -> Tensor:
    """Interpolate to a size or by a factor, without antialiasing where the mode has none: Real-ESRGAN's resize.

    Args:
        image: (b, c, h, w).
        mode: 'area', 'bilinear' or 'bicubic'.
        size: height and width of the result; or
        factor: what the height and width are multiplied by (rounded down, at least 1).

    Returns:
        (b, c, h', w'); bicubic may leave 0..1.
    """
    if factor is not None:
        smallest = min(image.shape[-2:])
        if smallest * factor >= 1:
            # The grid of samples follows the factor itself, not the rounded sizes.
            return F.interpolate(image, scale_factor=factor, mode=mode)
        height, width = (max(1, math.floor(n * factor)) for n in image.shape[-2:])
        size = height, width
    return F.interpolate(image, size=size, mode=mode)


def imresize(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """MATLAB's `imresize(image, scale)` of an 8-bit image: bicubic, antialiased where it shrinks.

    MATLAB resizes one dimension after the other, the height first, and a uint8 image is uint8 after each: without the
    rounding in between, pixels of the benchmarks' low-resolution images come out different.

    Args:
        image: (h, w) or (h, w, c).
        scale: factor on both sides; 1/4 gives a quarter of the height and width (rounded up).

    Returns:
        The resized image, the same number of dimensions.
    """
    for axis in (0, 1):
        weights = _bicubic_weights(image.shape[axis], scale)
        resized = np.moveaxis(np.tensordot(weights, image.astype(np.float64), axes=(1, axis)), 0, axis)
        # MATLAB rounds a half up; the values here are not negative after the clip.
        image = np.floor(resized.clip(0, 255) + 0.5).astype(np.uint8)
    return image


@lru_cache(maxsize=8)
def _bicubic_weights(length: int, scale: float) -> NDArray[np.float64]:
    """The matrix (ceil(length * scale), length) that resizes a row: Keys' cubic (a = -1/2), widened by 1/scale where it
    shrinks, over a row that is mirrored with its edge repeated."""
    size = math.ceil(length * scale)
    width = 4 / min(scale, 1)
    centre = (np.arange(size) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(int)
    place = first[:, None] + np.arange(math.ceil(width) + 2)
    distance = np.abs(centre[:, None] - place) * min(scale, 1)
    cubic = np.where(
        distance <= 1,
        (1.5 * distance - 2.5) * distance**2 + 1,
        np.where(distance <= 2, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2, 0),
    )
    cubic /= cubic.sum(1, keepdims=True)
    mirrored = place % (2 * length)
    mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
    weights = np.zeros((size, length))
    np.add.at(weights, (np.arange(size)[:, None], mirrored), cubic)
    return weights
