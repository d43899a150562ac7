"""Real-ESRGAN's second-order degradation as a module: ground truth in, low-quality images and what was drawn out.

Source: Real-ESRGAN (Wang et al., arXiv 2107.10833), figure 2: (blur, resize, noise, JPEG) twice, with a sinc filter at
the end. VmambaIR trains on it unchanged (arXiv 2403.11423, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import RESIZE_MODES, DegradationConfig
from .draws import Draws, OrderDraws, draw, select
from .extras import add_halos, print_dots, recode, subsample
from .jpeg import jpeg
from .kernels import blur, blur_kernels, sinc_kernels
from .noise import gaussian_noise, poisson_noise
from .resize import resize


class Degradation:
    """Degrade a batch.

    Example:
        >>> degrade = Degradation(DegradationConfig(scale=4))
        >>> lq, drawn = degrade(torch.rand(2, 3, 64, 48), torch.Generator().manual_seed(0))
        >>> lq.shape
        torch.Size([2, 3, 16, 12])
    """

    def __init__(self, config: DegradationConfig | None = None) -> None:
        self.config = config or DegradationConfig()

    @torch.no_grad()
    def __call__(self, gt: Tensor, generator: torch.Generator | Sequence[torch.Generator]) -> tuple[Tensor, Draws]:
        """Every random number comes from generators on the CPU, so a seed means the same draws on every device.

        Args:
            gt: (b, 3, h, w), RGB 0..1, sides of at least `config.scale`, on any device.
            generator: one for the batch, or one for each image (its draws do not depend on its batch then, unless
                `config.per_batch`).

        Returns:
            The low-quality images (b, 3, h // scale, w // scale), 0..1 in steps of 1/255, and what was drawn.

        Raises:
            ValueError: images that are not (b, 3, h, w), or too small.
        """
        scale = self.config.scale
        if gt.ndim != 4 or gt.shape[1] != 3 or min(gt.shape[-2:]) < scale:
            raise ValueError(f'images must be (b, 3, h, w), sides of at least {scale} pixels, not {tuple(gt.shape)}')
        if isinstance(generator, torch.Generator):
            seeds = torch.randint(2**32, (len(gt),), generator=generator).tolist()
            generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = draw(self.config, generator)
        lq = gt.new_empty(*gt.shape[:2], gt.shape[2] // scale, gt.shape[3] // scale)
        for images in drawn.alike():
            lq[images] = self._degrade(gt[images], select(drawn, images), [generator[i] for i in images])
        return lq, drawn

    def _degrade(self, gt: Tensor, drawn: Draws, generators: Sequence[torch.Generator]) -> Tensor:
        """The steps, for images that take the same ones at the same sizes."""
        scale = self.config.scale
        h, w = gt.shape[-2:]

        first = drawn.first
        extra = drawn.extra
        image = _blur(print_dots(gt, extra), first)
        if first.factor[0] != 1:
            image = resize(image, RESIZE_MODES[first.mode[0]], factor=first.factor[0].item())
        image = _add_noise(image, first, generators)
        image = recode(image, _jpeg(image, first), extra.codec, extra.quality)

        second = drawn.second
        image = _blur(add_halos(image, extra), second)
        height, width = (max(1, int(n / scale * second.factor[0].item())) for n in (h, w))
        image = resize(image, RESIZE_MODES[second.mode[0]], size=(height, width))
        image = _add_noise(image, second, generators)

        if drawn.jpeg_last[0]:
            image = _finish(image, (h // scale, w // scale), drawn)
            image = _last_codec(image.clamp(0, 1), drawn)
        else:
            image = _last_codec(image, drawn)
            image = _finish(image, (h // scale, w // scale), drawn)
        return (image * 255).round().clamp(0, 255) / 255


def _blur(image: Tensor, drawn: OrderDraws) -> Tensor:
    if not drawn.blurs[0]:
        return image
    kernels = blur_kernels(
        drawn.family,
        drawn.kernel_size,
        sigma_x=drawn.sigma_x,
        sigma_y=drawn.sigma_y,
        rotation=drawn.rotation,
        beta=drawn.beta,
        cutoff=drawn.cutoff,
    )
    return blur(image, kernels.to(image.device))


def _add_noise(image: Tensor, drawn: OrderDraws, generators: Sequence[torch.Generator]) -> Tensor:
    channels = 1 if drawn.gray[0] else 3
    z = torch.stack([torch.randn(channels, *image.shape[-2:], generator=g) for g in generators]).to(image.device)
    add = gaussian_noise if drawn.gaussian[0] else poisson_noise
    return add(image, z, drawn.noise.to(image)).clamp(0, 1)


def _jpeg(image: Tensor, drawn: OrderDraws) -> Tensor:
    return jpeg(image, drawn.quality.to(image))


def _last_codec(image: Tensor, drawn: Draws) -> Tensor:
    image = subsample(image, drawn.extra)
    return recode(image, _jpeg(image, drawn.second), drawn.extra.codec2, drawn.extra.quality2)


def _finish(image: Tensor, size: tuple[int, int], drawn: Draws) -> Tensor:
    """Resize to the final size, and the last sinc filter where one was drawn."""
    image = resize(image, RESIZE_MODES[drawn.final_mode[0]], size=size)
    if not drawn.final_sinc[0]:
        return image
    return blur(image, sinc_kernels(drawn.final_size, drawn.final_cutoff).to(image.device))
