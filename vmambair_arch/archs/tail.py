"""The end of an upsampler, computed without its feature maps at high resolution.

Between the convolutions of the tail lie only PixelShuffles, so the whole of it is one linear map: a single 5x5
convolution at the resolution of the input and the PixelShuffles. For x4 that is a fifth (`light`) to a fifteenth (the
paper's network) of the multiplications, and no feature map at high resolution. It differs from the chain only in that
the chain sets its feature maps to zero outside the image. What the one convolution sees there is computed, and what
comes of it at the border is taken away again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import without_autocast

FACTORS = {2: (2,), 3: (3,), 4: (2, 2)}
"""Of the PixelShuffles, by scale."""
FEWEST = 16 * 16
"""Pixels of a batch below which composing the kernels takes longer than it saves."""


@dataclass(frozen=True)
class Stage:
    """A convolution of the tail and its PixelShuffle.

    Attributes:
        weight, bias: of the convolution.
        after: kernel (o, c, 3, 3), without a bias, of all that follows the convolution, up to PixelShuffles.
        factors: of the PixelShuffles from this one on.
    """

    weight: Tensor
    bias: Tensor
    after: Tensor
    factors: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One of the four sides of a map (b, c, h, w).

    Attributes:
        axis: -2 for top and bottom, -1 for left and right.
        last: bottom or right.
    """

    axis: int
    last: bool

    @property
    def along(self) -> tuple[int, int]:
        """Zero padding along the side, by which a kernel of 3 keeps its length."""
        return (0, 1) if self.axis == -2 else (1, 0)

    @property
    def outwards(self) -> tuple[int, int]:
        """Zero padding by which a kernel of 3 computes the line outside this side. Top and bottom have the corners as
        well, so that every corner is in one line."""
        return (0, 2) if self.axis == -2 else self.along

    @property
    def inwards(self) -> tuple[int, int]:
        """Zero padding by which a kernel of 3 brings that line back to the length of the side."""
        return (0, 0) if self.axis == -2 else self.along

    def part(self, x: Tensor, length: int) -> Tensor:
        """The rows or columns nearest to the side, at most `length`."""
        part = slice(-length, None) if self.last else slice(length)
        return x[..., part, :] if self.axis == -2 else x[..., part]

    def taps(self, weight: Tensor, first: int, count: int) -> Tensor:
        """Rows or columns of a kernel, counted from outside to inside."""
        return weight.narrow(self.axis, weight.shape[self.axis] - first - count if self.last else first, count)


SIDES = tuple(Side(axis, last) for axis in (-2, -1) for last in (False, True))


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

    def __getitem__(self, index: slice | int) -> Any:
        """A layer, or, for a slice, a plain `nn.Sequential` of some."""
        if isinstance(index, slice):
            return nn.Sequential(*list(self.children())[index])
        return super().__getitem__(index)

    def forward(self, x: Tensor) -> Tensor:
        """(b, dim, h, w) -> (b, out_channels, h * scale, w * scale)."""
        if not self._is_plain() or (not torch.compiler.is_compiling() and x[:, 0].numel() < FEWEST):
            return self.chain(x)
        return self.at_once(x)

    def _is_plain(self) -> bool:
        """Whether its convolutions do no more than their parameters say: pruning, norms of weights and other tools put
        hooks on them, or modules of their own in their place."""
        return all(
            type(layer) is nn.Conv2d and not layer._forward_pre_hooks and not layer._forward_hooks
            for layer in self.convolutions()
        )

    def convolutions(self) -> list[nn.Conv2d]:
        """Those before the PixelShuffles, and the last."""
        stages, end = self.children()
        before = [layer for layer in stages.children() if not isinstance(layer, nn.PixelShuffle)]
        return cast(list[nn.Conv2d], [*before, end])

    def at_once(self, x: Tensor) -> Tensor:
        """The result by one convolution and what is taken away at the border."""
        weight, bias, stages = composed(self)
        dtype = self.convolutions()[-1].weight.dtype
        image = F.conv2d(x, weight.to(dtype), bias.to(dtype), padding=weight.shape[-1] // 2)
        image = _shuffled(image, stages[0].factors)
        for side in SIDES:
            for surplus in _surplus(x, stages, side, dtype):
                side.part(image, surplus.shape[side.axis]).sub_(surplus)
        return image

    def chain(self, x: Tensor) -> Tensor:
        """The same result, convolution by convolution."""
        result: Tensor = super().forward(x)
        return result


def composed(tail: UpsamplingTail) -> tuple[Tensor, Tensor, list[Stage]]:
    """Weight (out_channels * scale^2, dim, 5, 5) and bias of the convolution that, with the PixelShuffles of the scale
    after it, does what `tail` does inside an image; and the stages that it is made of. In float32 at least;
    differentiable.
    """
    *before, end = tail.convolutions()
    precise = torch.promote_types(end.weight.dtype, torch.float32)
    factors = FACTORS[tail.scale]
    stages: list[Stage] = []
    with without_autocast(end.weight.device.type):
        weight, bias = end.weight.to(precise), cast(Tensor, end.bias).to(precise)
        for number in reversed(range(len(factors))):
            layer, factor = before[number], factors[number]
            own, own_bias = layer.weight.to(precise), cast(Tensor, layer.bias).to(precise)
            after = _before_shuffle(weight, factor)
            stages.insert(0, Stage(own, own_bias, after, factors[number:]))
            bias = bias.repeat_interleave(factor**2) + after.sum((2, 3)) @ own_bias
            weight = F.conv_transpose2d(after, own)  # of two kernels: their full convolution
    return weight, bias, stages


def _surplus(x: Tensor, stages: list[Stage], side: Side, dtype: torch.dtype) -> Iterator[Tensor]:
    """What the features outside one side of the image, which the chain has as zeros, add to the image: the rows or
    columns nearest to the side, once for each stage."""
    inner = [0, 0, 0, 0]
    inner[2 * (-1 - side.axis) + (not side.last)] = 1
    for stage in stages:
        weight, bias, after = (parameter.to(dtype) for parameter in (stage.weight, stage.bias, stage.after))
        outside = F.conv2d(side.part(x, 1), side.taps(weight, 2, 1), bias, padding=side.outwards)
        yield _shuffled(F.conv2d(outside, side.taps(after, 0, 1), padding=side.inwards), stage.factors)
        if stage is not stages[-1]:
            # With a zero on the inner side, two pixels give the nearer one of the next map, and so does a single one.
            near = F.pad(side.part(x, 2), inner)
            near = F.conv2d(near, side.taps(weight, 1, 2), bias, padding=side.along)
            x = F.pixel_shuffle(side.part(near, 1), stage.factors[0])


def _shuffled(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    for factor in factors:
        x = F.pixel_shuffle(x, factor)
    return x


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
