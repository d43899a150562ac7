"""Unsharp masking of the ground truth, as Real-ESRGAN trains with it (arXiv 2107.10833, section 3.4)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .kernels import blur, gaussian_kernel

SIZE = 51
SIGMA = 8.0
"""What OpenCV takes for a Gaussian of 51 pixels when no sigma is given: 0.3 * ((51 - 1) / 2 - 1) + 0.8."""


@torch.no_grad()
def usm_sharpen(image: Tensor, weight: float = 0.5, threshold: float = 10.0) -> Tensor:
    """I + weight * (I - G*I) where the residual I - G*I is large, I elsewhere, with a soft border between them.

    Args:
        image: (b, c, h, w), 0..1, any size.
        weight: strength.
        threshold: smallest residual that is sharpened, in units of 1/255.

    Returns:
        (b, c, h, w), 0..1.
    """
    kernel = _gaussian(image.device)
    residual = image - blur(image, kernel)
    mask = (residual.abs() * 255 > threshold).to(image)
    soft_mask = blur(mask, kernel)
    return image + soft_mask * ((image + weight * residual).clamp(0, 1) - image)


@lru_cache(maxsize=4)
def _gaussian(device: torch.device) -> Tensor:
    return gaussian_kernel(SIZE, SIGMA).to(device)
