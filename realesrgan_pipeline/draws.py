"""What the degradation does to each image: every random choice, made on the CPU before a pixel is touched."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .config import (
    CODECS,
    KERNEL_FAMILIES,
    RESIZE_MODES,
    SUBSAMPLINGS,
    DegradationConfig,
    ExtraConfig,
    OrderConfig,
    codec_setting,
)
from .kernels import SINC

# More than are used: a fixed number, so that the noise that is drawn next does not depend on the settings.
_COLUMNS = 64


@dataclass(frozen=True)
class OrderDraws:
    """One order of the degradation of b images; every tensor has shape (b) and lies on the CPU."""

    blurs: Tensor  # bool
    family: Tensor  # place in KERNEL_FAMILIES, or SINC
    kernel_size: Tensor  # odd, pixels
    sigma_x: Tensor  # pixels
    sigma_y: Tensor  # pixels
    rotation: Tensor  # radians
    beta: Tensor  # exponent of the generalized and plateau families
    cutoff: Tensor  # of a sinc kernel, radians per pixel
    factor: Tensor  # of the resize
    mode: Tensor  # place in RESIZE_MODES
    gaussian: Tensor  # bool; Poisson noise otherwise
    noise: Tensor  # sigma in units of 1/255 of Gaussian noise, scale of Poisson noise
    gray: Tensor  # bool: one noise for the three channels
    quality: Tensor  # of JPEG

    def describe(self, i: int) -> list[str]:
        """The steps of image i in a few words each: `blur aniso 2.1x0.4`, `resize 0.62 area`, ..."""
        blur = [f'blur {self._kernel(i)}'] if self.blurs[i] else ['no blur']
        noise = f'gaussian {self.noise[i]:.0f}' if self.gaussian[i] else f'poisson {self.noise[i]:.1f}'
        return [
            *blur,
            'keep size' if self.factor[i] == 1 else f'resize {self.factor[i]:.2f} {RESIZE_MODES[self.mode[i]]}',
            noise + (' gray' if self.gray[i] else ''),
            f'jpeg {self.quality[i]:.0f}',
        ]

    def _kernel(self, i: int) -> str:
        if self.family[i] == SINC:
            return f'sinc {self.cutoff[i]:.1f}'
        name = KERNEL_FAMILIES[self.family[i]]
        across = f'x{self.sigma_y[i]:.1f}' if 'aniso' in name else ''
        return f'{name} {self.sigma_x[i]:.1f}{across}'


@dataclass(frozen=True)
class ExtraDraws:
    """The further steps of b images; every tensor has shape (b) and lies on the CPU."""

    screentone: Tensor  # bool
    pitch: Tensor  # of the dots, pixels
    angle: Tensor  # of their grid, radians
    halo: Tensor  # bool
    strength: Tensor
    subsampling: Tensor  # place in SUBSAMPLINGS, -1 for none
    codec: Tensor  # place in CODECS of what takes the place of the first JPEG, -1 for none
    quality: Tensor  # from 0, the worst, to 1
    codec2: Tensor
    quality2: Tensor

    def describe(self, i: int) -> tuple[list[str], list[str], list[str], str, str]:
        """Of image i in a few words each: before the first order, before the second, before the last codec; codecs."""
        names = list(CODECS)
        codec, codec2 = (
            f'{names[c]} {codec_setting(names[c], q):.0f}' if c >= 0 else ''
            for c, q in ((int(self.codec[i]), float(self.quality[i])), (int(self.codec2[i]), float(self.quality2[i])))
        )
        chroma = int(self.subsampling[i])
        return (
            [f'screentone {self.pitch[i]:.1f}'] if self.screentone[i] else [],
            [f'halo {self.strength[i]:.1f}'] if self.halo[i] else [],
            [f'chroma {list(SUBSAMPLINGS)[chroma]}'] if chroma >= 0 else [],
            codec,
            codec2,
        )


@dataclass(frozen=True)
class Draws:
    """The whole degradation of b images; every tensor has shape (b) and lies on the CPU."""

    first: OrderDraws
    second: OrderDraws
    final_sinc: Tensor  # bool
    final_size: Tensor  # of the sinc filter, odd pixels
    final_cutoff: Tensor  # radians per pixel
    final_mode: Tensor  # of the resize to the final size, place in RESIZE_MODES
    jpeg_last: Tensor  # bool: JPEG after the final resize and filter, or before them
    extra: ExtraDraws

    def __len__(self) -> int:
        return len(self.jpeg_last)

    def describe(self, i: int) -> list[str]:
        """The draws of image i, one line an order."""
        last = [f'resize back {RESIZE_MODES[self.final_mode[i]]}']
        if self.final_sinc[i]:
            last.append(f'sinc {self.final_cutoff[i]:.1f}')
        first, second = self.first.describe(i), self.second.describe(i)
        dots, halo, chroma, codec, codec2 = self.extra.describe(i)
        first = [*dots, *first[:-1], codec or first[-1]]
        coded = [*chroma, codec2 or second[-1]]
        second = [*halo, *second[:-1], *(last + coded if self.jpeg_last[i] else coded + last)]
        return [', '.join(first), ', '.join(second)]

    def alike(self) -> list[list[int]]:
        """The images in groups that take the same steps at the same sizes."""
        groups = defaultdict(list)
        steps = [self.final_sinc, self.final_mode, self.jpeg_last]
        for order in (self.first, self.second):
            steps += [order.blurs, order.factor, order.mode, order.gaussian, order.gray]
        for i, key in enumerate(zip(*(t.tolist() for t in steps), strict=True)):
            groups[key].append(i)
        return list(groups.values())


DrawsT = TypeVar('DrawsT', bound='Draws | OrderDraws | ExtraDraws')


def select(draws: DrawsT, images: Sequence[int]) -> DrawsT:
    """The draws of some of the images."""
    values = {f.name: getattr(draws, f.name) for f in fields(draws)}
    chosen: dict[str, Any] = {k: v[images] if isinstance(v, Tensor) else select(v, images) for k, v in values.items()}
    return type(draws)(**chosen)


def image_generator(*key: int) -> torch.Generator:
    """A generator on the CPU for one image, from whole numbers such as (seed, iteration, place in the global batch).

    Its draws are then the same however a batch is cut up.
    """
    seed = np.random.SeedSequence(key).generate_state(1)[0]
    return torch.Generator().manual_seed(int(seed))


def draw(config: DegradationConfig, generators: Sequence[torch.Generator]) -> Draws:
    """Draw everything but the noise itself, from one generator an image."""
    u = _Uniform(generators, config.per_batch)
    first, second = _draw_order(config.first, u), _draw_order(config.second, u)
    return Draws(
        first=first,
        second=second,
        final_sinc=u.chance(config.final_sinc_prob),
        final_size=u.kernel_size(config.second.blur_kernel_size),
        final_cutoff=u.between(math.pi / 3, math.pi),
        final_mode=u.choice([1] * len(RESIZE_MODES), shared=True),
        jpeg_last=u.chance(0.5, shared=True),
        extra=_draw_extra(config.extra, u),
    )


def _draw_extra(config: ExtraConfig, u: _Uniform) -> ExtraDraws:
    """After everything else, so that the published draws are the same with and without further steps."""
    codecs = torch.tensor([list(CODECS).index(name) for name in config.codec_list])
    kinds = torch.tensor([list(SUBSAMPLINGS).index(name) for name in config.subsampling_list])
    return ExtraDraws(
        screentone=u.chance(config.screentone_prob),
        pitch=u.between(*config.screentone_range),
        angle=u.between(0, math.pi / 2),
        halo=u.chance(config.halo_prob),
        strength=u.between(*config.halo_range),
        subsampling=torch.where(u.chance(config.subsampling_prob), kinds[u.choice([1] * len(kinds))], -1),
        codec=torch.where(u.chance(config.codec_prob), codecs[u.choice(config.codec_weights)], -1),
        quality=u.between(0, 1),
        codec2=torch.where(u.chance(config.codec_prob2), codecs[u.choice(config.codec_weights)], -1),
        quality2=u.between(0, 1),
    )


def _draw_order(config: OrderConfig, u: _Uniform) -> OrderDraws:
    size = u.kernel_size(config.blur_kernel_size)
    names = torch.tensor([KERNEL_FAMILIES.index(name) for name in config.kernel_list])
    family = torch.where(u.chance(config.sinc_prob), SINC, names[u.choice(config.kernel_prob)])
    sigma_x, sigma_y = u.between(*config.blur_sigma), u.between(*config.blur_sigma)
    beta_g, beta_p = u.around_one(*config.betag_range), u.around_one(*config.betap_range)
    plateau = torch.tensor(['plateau' in name for name in (*KERNEL_FAMILIES, 'sinc')])[family]
    # Small kernels cannot hold the ringing of the lowest cutoffs.
    lowest = torch.where(size < 13, math.pi / 3, math.pi / 5)
    smallest, largest = config.resize_range
    enlarged, shrunk = u.between(1, largest, shared=True), u.between(smallest, 1, shared=True)
    factors = torch.stack((enlarged, shrunk, torch.ones_like(enlarged)))
    gaussian = u.chance(config.gaussian_noise_prob, shared=True)
    return OrderDraws(
        blurs=u.chance(config.blur_prob, shared=True),
        family=family,
        kernel_size=size,
        sigma_x=sigma_x,
        sigma_y=sigma_y,
        rotation=u.between(-math.pi, math.pi),
        beta=torch.where(plateau, beta_p, beta_g),
        cutoff=u.between(lowest, math.pi),
        factor=factors.gather(0, u.choice(config.resize_prob, shared=True)[None])[0],
        mode=u.choice([1] * len(RESIZE_MODES), shared=True),
        gaussian=gaussian,
        noise=torch.where(gaussian, u.between(*config.noise_range), u.between(*config.poisson_scale_range)),
        gray=u.chance(config.gray_noise_prob),
        quality=u.between(*config.jpeg_range),
    )


class _Uniform:
    """Numbers from [0, 1), one row an image; every call uses the next column, whatever the ones before came out as.

    With `shared=True` and `per_batch`, the first image's number counts for all.
    """

    def __init__(self, generators: Sequence[torch.Generator], per_batch: bool) -> None:
        table = torch.stack([torch.rand(_COLUMNS, dtype=torch.float64, generator=g) for g in generators])
        self._columns = iter(table.unbind(1))
        self._per_batch = per_batch

    def _next(self, shared: bool) -> Tensor:
        column = next(self._columns)
        return column[:1].expand_as(column) if shared and self._per_batch else column

    def between(self, low: float | Tensor, high: float, shared: bool = False) -> Tensor:
        return low + (high - low) * self._next(shared)

    def chance(self, probability: float, shared: bool = False) -> Tensor:
        return self._next(shared) < probability

    def choice(self, weights: Sequence[float], shared: bool = False) -> Tensor:
        edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        return torch.searchsorted(edges, self._next(shared) * edges[-1], right=True).clamp(max=len(edges) - 1)

    def kernel_size(self, largest: int) -> Tensor:
        return 7 + 2 * self.choice([1] * ((largest - 5) // 2))

    def around_one(self, low: float, high: float) -> Tensor:
        """Uniform below 1 or uniform above 1, with equal probability."""
        above, amount = self.chance(0.5), self._next(False)
        return torch.where(above, 1 + (high - 1) * amount, low + (1 - low) * amount)
