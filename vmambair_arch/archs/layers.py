"""Layers on channels-last maps.

Inside the networks a feature map is a contiguous tensor (b, h, w, c): a 1x1 convolution is then one matrix product,
LayerNorm over channels needs no reshape, and the scan reads it as it lies. A 3x3 convolution sees the same memory as
a (b, c, h, w) tensor in torch's channels_last format, so nothing is copied on the way in or out.

Parameters keep the names and shapes of the authors' release (1x1 convolutions are stored as such), so that their
checkpoints load.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import linear, linear_add, linear_silu


def to_channels_last(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h, w, c), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def to_channels_first(x: Tensor) -> Tensor:
    """(b, h, w, c) -> (b, c, h, w) view of the same memory: torch's channels_last format."""
    return x.permute(0, 3, 1, 2)


def conv(x: Tensor, layer: nn.Module) -> Tensor:
    """Apply a module that wants (b, c, h, w) to a map (b, h, w, c)."""
    return to_channels_last(layer(to_channels_first(x)))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of a map (b, h, w, c) by a weight (o, c, 1, 1) or (o, c)."""
    return linear(x, weight.flatten(1), bias)


def pointwise_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """silu of `pointwise`."""
    return linear_silu(x, weight.flatten(1), bias)


def pointwise_add(x: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor) -> Tensor:
    """skip (b, h, w, o) plus `pointwise`."""
    return linear_add(x, weight.flatten(1), bias, skip)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (b, c, h, w) on the right and the bottom to multiples of `multiple`.

    By reflection, or by repeating the border along an axis that is shorter than its pad.
    """
    h, w = x.shape[-2:]
    # In whole numbers above zero alone: of a size that it does not know, torch.compile takes the remainder of no other.
    right, below = ((multiple - size % multiple) % multiple for size in (w, h))
    for size, pad in ((w, (0, right, 0, 0)), (h, (0, 0, 0, below))):
        if any(pad):
            x = F.pad(x, pad, mode='reflect' if max(pad) < size else 'replicate')
    return x


class _Parameters(nn.Module):
    """Holds a weight and perhaps a bias, (dim,) each, and does nothing."""

    weight: nn.Parameter
    bias: nn.Parameter


class LayerNorm(nn.Module):
    """LayerNorm over the channels of every pixel of (..., c): biased variance, eps 1e-5.

    Args:
        dim: channels.
        bias_free: Restormer's form without mean and bias, x / sqrt(var(x) + eps) * weight.
    """

    eps = 1e-5

    def __init__(self, dim: int, bias_free: bool = False) -> None:
        super().__init__()
        self.bias_free = bias_free
        # The release keeps the parameters one level down, in `body`.
        self.body = _Parameters()
        self.body.weight = nn.Parameter(torch.ones(dim))
        if not bias_free:
            self.body.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.body.weight
        if self.bias_free:
            wide = x.float() if x.dtype == torch.float16 else x  # whose square float16 cannot hold from 256 on
            return (wide * torch.rsqrt(wide.var(-1, keepdim=True, unbiased=False) + self.eps)).to(x.dtype) * weight
        bias = self.body.bias
        if x.dtype == torch.float32 and weight.dtype == torch.float16:  # what the network cannot hold before it
            return F.layer_norm(x, list(weight.shape), weight.float(), bias.float(), self.eps).half()
        return F.layer_norm(x, list(weight.shape), weight, bias, self.eps)


class Downsample(nn.Module):
    """Halve height and width, double the channels: 3x3 convolution c -> c / 2, then PixelUnshuffle(2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return conv(x, self.body)


class Upsample(nn.Module):
    """Double height and width, halve the channels: 3x3 convolution c -> 2 c, then PixelShuffle(2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return conv(x, self.body)
