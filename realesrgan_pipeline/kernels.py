"""Blur kernels of blind super-resolution: Gaussian families and sinc filters, a whole batch at once.

Glossary: b batch, k side of the returned kernels, q = r' Sigma^-1 r the squared Mahalanobis distance of a pixel r from
the centre, with Sigma = R(rotation) diag(sigma_x^2, sigma_y^2) R(rotation)'.

Sources: BSRGAN (Zhang et al., arXiv 2103.14006) and Real-ESRGAN (Wang et al., arXiv 2107.10833, section 3.1 and 3.3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import KERNEL_FAMILIES

SINC = len(KERNEL_FAMILIES)
"""The number of the sinc family; the Gaussian families have their place in `KERNEL_FAMILIES`."""


def blur_kernels(
    family: Tensor,
    size: Tensor,
    *,
    sigma_x: Tensor,
    sigma_y: Tensor,
    rotation: Tensor,
    beta: Tensor,
    cutoff: Tensor,
) -> Tensor:
    """Kernels that each sum to 1, all as large as the largest and zero outside of their own size.

    Gaussian: exp(-q/2). Generalized Gaussian: exp(-q^beta/2). Plateau: 1/(1 + q^beta). The `iso` families have
    sigma_x in every direction and no rotation. Sinc: see `sinc_kernels`.

    Args:
        family: (b) whole numbers, a place in `KERNEL_FAMILIES` or `SINC`.
        size: (b) odd sizes in pixels.
        sigma_x, sigma_y: (b) standard deviations in pixels.
        rotation: (b) radians.
        beta: (b) exponents of the generalized and plateau families.
        cutoff: (b) cutoff of the sinc in radians per pixel.

    Returns:
        (b, k, k) float32, k = max(size).
    """

    def among(*names: str) -> Tensor:
        return torch.isin(family, torch.tensor([KERNEL_FAMILIES.index(name) for name in names])).view(-1, 1, 1)

    x, y = _grid(size)
    sigma_x, sigma_y, rotation, beta = (t.view(-1, 1, 1) for t in (sigma_x, sigma_y, rotation, beta))
    isotropic = among('iso', 'generalized_iso', 'plateau_iso')
    along = x * rotation.cos() + y * rotation.sin()
    across = y * rotation.cos() - x * rotation.sin()
    q = torch.where(isotropic, (x**2 + y**2) / sigma_x**2, (along / sigma_x) ** 2 + (across / sigma_y) ** 2)
    q_beta = torch.where(among('iso', 'aniso'), q, q**beta)
    kernels = torch.where(among('plateau_iso', 'plateau_aniso'), 1 / (1 + q_beta), torch.exp(-q_beta / 2))
    kernels = torch.where((family == SINC).view(-1, 1, 1), _sinc(x, y, cutoff), kernels)
    return _within(kernels, size)


def sinc_kernels(size: Tensor, cutoff: Tensor) -> Tensor:
    """Circular low-pass filters, cutoff * J1(cutoff r) / (2 pi r), that each sum to 1.

    Args:
        size: (b) odd sizes in pixels.
        cutoff: (b) radians per pixel, pi keeps everything.

    Returns:
        (b, k, k) float32, k = max(size).
    """
    return _within(_sinc(*_grid(size), cutoff), size)


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """One Gaussian of standard deviation sigma in pixels, cut to `size` and summing to 1: (1, size, size) float32."""
    place = torch.arange(size, dtype=torch.float64) - size // 2
    row = torch.exp(-(place**2) / (2 * sigma**2))
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).float()[None]


def _grid(size: Tensor) -> tuple[Tensor, Tensor]:
    half = int(size.max()) // 2
    place = torch.arange(-half, half + 1, dtype=torch.float64)
    return place, place[:, None]


def _sinc(x: Tensor, y: Tensor, cutoff: Tensor) -> Tensor:
    cutoff = cutoff.view(-1, 1, 1)
    radius = torch.hypot(x, y).clamp(min=1e-9)  # J1(c r) / r tends to c / 2 at the centre
    return cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)


def _within(kernels: Tensor, size: Tensor) -> Tensor:
    """Cut each kernel to its own size, and scale it to a sum of 1."""
    x, y = _grid(size)
    inside = torch.maximum(x.abs(), y.abs()) <= (size // 2).view(-1, 1, 1)
    kernels = torch.where(inside, kernels, 0.0)
    return (kernels / kernels.sum((1, 2), keepdim=True)).float()


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """Filter each image with its own kernel, mirrored at the borders without repeating the edge.

    By FFT: the cost depends neither on the size of the kernels nor on how many images share it.

    Args:
        image: (b, c, h, w), any size from 1 x 1.
        kernels: (b, k, k), k odd.

    Returns:
        (b, c, h, w), the correlation of image and kernel (as in a convolution layer, and in OpenCV's filter2D).
    """
    h, w = image.shape[-2:]
    margin = kernels.shape[-1] - 1
    padded = pad_reflect(image, margin // 2)
    size = (_fast_length(h + margin), _fast_length(w + margin))
    # A correlation is a product with the conjugate spectrum. What wraps around lands behind the h x w that are kept.
    spectrum = torch.fft.rfft2(padded, size) * torch.fft.rfft2(kernels, size).conj().unsqueeze(1)
    return torch.fft.irfft2(spectrum, size)[..., :h, :w]


def pad_reflect(image: Tensor, margin: int) -> Tensor:
    """Mirror an image (..., h, w) past its borders by `margin` pixels, back and forth where it is smaller than that."""
    h, w = image.shape[-2:]
    if margin < min(h, w):
        return F.pad(image, (margin,) * 4, mode='reflect')
    return image[..., _mirror(h, margin, image.device)[:, None], _mirror(w, margin, image.device)]


def _mirror(length: int, margin: int, device: torch.device) -> Tensor:
    period = max(2 * (length - 1), 1)
    place = torch.arange(-margin, length + margin, device=device) % period
    return torch.minimum(place, period - place)


def _fast_length(n: int) -> int:
    """The smallest number from n up with no prime factor above 5: an FFT of such a length is several times faster."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
