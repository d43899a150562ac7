"""The end of an upsampler, computed without its feature maps at high resolution.

Between the convolutions of the tail lie only PixelShuffles, so the whole of it is one linear map: a single 5x5
convolution at the resolution of the input and the PixelShuffles, for x4 with a fifteenth of the multiplications and no
feature map at high resolution. It differs from the chain only where that pads with zeros in between, which reaches one
pixel of the input inwards from the border; the chain is computed for those pixels alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FACTORS = {2: (2,), 3: (3,), 4: (2, 2)}
"""Of the PixelShuffles, by scale."""
REACH = 3
"""Pixels of the input that a border pixel of it needs: itself, one for its neighbours' features, one for theirs."""


class UpsamplingTail(nn.Sequential):
    """Feature map to image at `scale` 2, 3 or 4: 3x3 convolutions with PixelShuffle, then a 3x3 convolution, with bias.

    x4 has two stages of 2, x2 one, x3 a single stage of 3. Parameters are those of the chain, under EDSR's names;
    gradients reach them through `composed`. The result is the chain's to rounding.

    Args:
        dim: channels of the feature map.
        out_channels: of the image.
        scale: 2, 3 or 4.
    """

    def __init__(self, dim: int, out_channels: int, scale: int) -> None:
        stages: list[nn.Module] = []
        for factor in FACTORS[scale]:
            stages += [nn.Conv2d(dim, dim * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(nn.Sequential(*stages), nn.Conv2d(dim, out_channels, 3, padding=1))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(b, dim, h, w) -> (b, out_channels, h * scale, w * scale)."""
        s = self.scale
        h, w = (n * s for n in x.shape[-2:])
        weight, bias = composed(self)
        inner = F.conv2d(x, weight.to(x), bias.to(x), padding=weight.shape[-1] // 2)
        for factor in FACTORS[s]:
            inner = F.pixel_shuffle(inner, factor)
        top, bottom, left, right = (self._border(x, axis, last) for axis in (-2, -1) for last in (False, True))
        rows = torch.cat([left[..., s:-s, :], inner[..., s:-s, s:-s], right[..., s:-s, :]], -1)
        return torch.cat([top, rows[..., :w], bottom], -2)[
            ..., :h, :
        ]  # in one row of pixels, top and bottom are the same

    def chain(self, x: Tensor) -> Tensor:
        """The same, convolution by convolution."""
        result: Tensor = super().forward(x)
        return result

    def _border(self, x: Tensor, axis: int, last: bool) -> Tensor:
        """The chain's result for the first or the last row or column of the input: `scale` pixels of the output.

        After each convolution the features beside the cut are wrong and are dropped.
        """

        def kept(y: Tensor, length: int) -> Tensor:
            length = min(length, y.shape[axis])
            return y.narrow(axis, y.shape[axis] - length if last else 0, length)

        length = REACH
        y = kept(x, length)
        stages, end = self
        for factor, layer in zip(FACTORS[self.scale], stages[::2], strict=True):
            length -= 1
            y = F.pixel_shuffle(kept(layer(y), length), factor)
            length *= factor
        return kept(end(y), self.scale)


def composed(tail: UpsamplingTail) -> tuple[Tensor, Tensor]:
    """Weight (out_channels * scale^2, dim, 5, 5) and bias of the convolution that, with the PixelShuffles of the scale
    after it, does what `tail` does inside an image. In float32 at least; differentiable.
    """
    stages, end = tail
    precise = torch.promote_types(end.weight.dtype, torch.float32)
    with torch.autocast(end.weight.device.type, enabled=False):
        weight, bias = end.weight.to(precise), end.bias.to(precise)
        for factor, layer in reversed(list(zip(FACTORS[tail.scale], stages[::2], strict=True))):
            weight, bias = _before_shuffle(weight, factor), bias.repeat_interleave(factor**2)
            bias = bias + weight.sum((2, 3)) @ layer.bias.to(precise)
            weight = F.conv_transpose2d(weight, layer.weight.to(precise))  # of two kernels: their full convolution
    return weight, bias


def _before_shuffle(weight: Tensor, factor: int) -> Tensor:
    """The kernel (o factor^2, c factor^2, l, l) that does before PixelShuffle(factor) what a kernel (o, c, k, k) does
    after one.
    """
    radius = weight.shape[-1] // 2
    wide = -(-radius // factor)  # radius of the result
    size = (2 * wide + 1) * factor

    def padding(phase: int) -> tuple[int, int]:
        before = wide * factor + phase - radius
        return before, size - weight.shape[-1] - before

    # The same kernel for every pixel of a cell, shifted by its place there.
    places = [(y, x) for y in range(factor) for x in range(factor)]
    shifted = [F.pixel_unshuffle(F.pad(weight, (*padding(x), *padding(y))), factor) for y, x in places]
    return torch.stack(shifted, 1).flatten(0, 1)
