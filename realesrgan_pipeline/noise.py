"""Sensor noise: Gaussian and Poisson, in colour or grey.

Both start from one field of standard normal numbers z: Gaussian noise scales it, Poisson noise takes the count whose
quantile z is. So a pixel uses one number whatever its value, and the same numbers give the same noise on every device.

Source: Real-ESRGAN (arXiv 2107.10833), section 3.2.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
LEVELS = 256
# Cells of the table that says where to start looking for a quantile, over z in [-6, 6].
_CELLS = 512
_REACH = 6.0


def gaussian_noise(image: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    """Additive noise z * sigma.

    Args:
        image: (b, c, h, w), 0..1.
        z: (b, c, h, w) standard normal numbers, or (b, 1, h, w) for grey noise.
        sigma: (b) standard deviations in units of 1/255.

    Returns:
        (b, c, h, w), not clipped.
    """
    return image + z * (sigma / 255).view(-1, 1, 1, 1)


def poisson_noise(image: Tensor, z: Tensor, scale: Tensor) -> Tensor:
    """Shot noise: scale * (N / peak - v), N ~ Poisson(v * peak), v the image in 8 bits.

    The peak is the number of distinct values in the image (in all channels together), rounded up to a power of two:
    scikit-image's rule, which Real-ESRGAN took over. Where z has one channel, v is the image's luma and every channel
    gets the same noise.

    Args:
        image: (b, 3, h, w), 0..1.
        z: (b, 3, h, w) standard normal numbers, or (b, 1, h, w) for grey noise.
        scale: (b) factors.

    Returns:
        (b, 3, h, w), not clipped.
    """
    if z.shape[1] == 1:
        source = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    else:
        source = image
    level = (source * 255).round().clamp(0, 255).long()
    seen = torch.zeros(len(level), LEVELS, device=image.device).scatter_(1, level.flatten(1), 1.0)
    exponent = seen.sum(1).log2().ceil().long().view(-1, 1, 1, 1)
    noise = poisson_quantile(level, exponent, z) / torch.exp2(exponent.float()) - level / 255
    return image + noise * scale.view(-1, 1, 1, 1)


def poisson_quantile(level: Tensor, exponent: Tensor, z: Tensor) -> Tensor:
    """The count n with P(N < n) < Phi(z) <= P(N <= n), N ~ Poisson(level / 255 * 2^exponent).

    Args:
        level: whole numbers 0..255, any shape.
        exponent: whole numbers 0..8, broadcast against level.
        z: standard normal quantiles, broadcast against level; what lies outside of [-6, 6] counts as on the edge.

    Returns:
        float32 counts.
    """
    start, bound, steps = _tables(level.device)
    row = exponent * LEVELS + level
    cell = ((z.clamp(-_REACH, _REACH) + _REACH) * (_CELLS / (2 * _REACH))).long().clamp(max=_CELLS - 1)
    count = start.take(row * _CELLS + cell)
    columns = bound.shape[1]
    for _ in range(steps):
        count = count + (bound.take(row * columns + count) < z)
    return count.float()


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, int]:
    """For each exponent and level (9 * 256 rows): where a cell's quantiles begin, the z up to which a count is the
    quantile, and how many counts a cell spans at most."""
    rate = torch.exp2(torch.arange(9.0)).double()[:, None] * torch.arange(LEVELS) / (LEVELS - 1)
    rate = rate.view(-1, 1)
    counts = torch.arange(384, dtype=torch.float64)  # P(N >= 384) < 1e-12 at the largest rate, 256
    log_mass = torch.special.xlogy(counts, rate) - rate - torch.lgamma(counts + 1)
    bound = torch.special.ndtri(log_mass.exp().cumsum(1).clamp(max=1)).float()
    edges = torch.linspace(-_REACH, _REACH, _CELLS + 1).expand(len(rate), -1).contiguous()
    quantile = torch.searchsorted(bound, edges)
    steps = int((quantile[:, 1:] - quantile[:, :-1]).max())
    return quantile[:, :-1].contiguous().to(device), bound.to(device), steps
