"""Give a result the colours of its input, from which a network may drift."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ColourFix = Literal['none', 'adain', 'wavelet']
COLOUR_FIXES: tuple[ColourFix, ...] = ('none', 'adain', 'wavelet')
LEVELS = 5
"""Of the wavelet: details finer than 2 ** LEVELS pixels are the result's, what is coarser is the input's."""


def fix_colour(result: Tensor, source: Tensor, how: ColourFix) -> Tensor:
    """A result with the colours of its source.

    Args:
        result: (c, H, W), 0..1.
        source: (c, h, w), 0..1, of any size; it is brought to that of the result.
        how: 'adain' gives every channel the mean and deviation of the source's (AdaIN, equation 8), 'wavelet' takes all
            that is coarser than 32 pixels from the source (an undecimated wavelet of the kernel 1 2 1).

    Returns:
        (c, H, W), 0..1.
    """
    if how == 'none':
        return result
    if how == 'adain':
        mean, std = result.mean((-2, -1), keepdim=True), result.std((-2, -1), keepdim=True, correction=0)
        wanted, spread = source.mean((-2, -1), keepdim=True), source.std((-2, -1), keepdim=True, correction=0)
        return ((result - mean) / std.clamp_min(1e-5) * spread + wanted).clamp(0, 1)
    size = (result.shape[-2], result.shape[-1])
    if tuple(source.shape[-2:]) != size:
        source = F.interpolate(source[None], size, mode='bicubic', antialias=True)[0].clamp(0, 1)
    return (result - _coarse(result) + _coarse(source)).clamp(0, 1)


def _coarse(image: Tensor) -> Tensor:
    """(c, h, w) without its details: LEVELS blurs by 1 2 1, each twice as wide as the one before."""
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype) / 4
    kernel = (kernel[:, None] * kernel).expand(image.shape[0], 1, 3, 3)
    for level in range(LEVELS):
        step = 2**level
        padded = F.pad(image[None], (step,) * 4, mode='replicate')
        image = F.conv2d(padded, kernel, groups=image.shape[0], dilation=step)[0]
    return image
