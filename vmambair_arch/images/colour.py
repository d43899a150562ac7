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
        result: (c, H, W), 0..1, in any order in memory; 'wavelet' writes into it.
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
    for into, wanted in zip(result, source, strict=True):  # channel by channel: pictures are large
        one, wanted = into.contiguous(), wanted.contiguous()
        if wanted.shape != size:
            wanted = F.interpolate(wanted[None, None], size, mode='bicubic', antialias=True)[0, 0].clamp_(0, 1)
        torch.add(one, _coarse(wanted - one), out=into)
    return result.clamp_(0, 1)


def _coarse(channel: Tensor) -> Tensor:
    """(h, w) without its details: LEVELS blurs by 1 2 1, each twice as wide as the one before."""
    for level in range(LEVELS):
        step = 2**level
        for axis in (0, 1):
            length = channel.shape[axis]
            ends = (0, 0, step, step) if axis == 0 else (step, step, 0, 0)
            padded = F.pad(channel[None, None], ends, mode='replicate')[0, 0]
            sides = padded.narrow(axis, 0, length) + padded.narrow(axis, 2 * step, length)
            channel = sides.add_(channel, alpha=2).div_(4)
    return channel
