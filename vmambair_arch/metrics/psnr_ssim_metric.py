"""PSNR and SSIM on Y for BasicSR's option files, with the rounding of the deraining papers on request.

`calculate_psnr` and `calculate_ssim` stay BasicSR's own.
"""

from __future__ import annotations

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

from .psnr_ssim import YRounding, psnr, ssim


@METRIC_REGISTRY.register()
def calculate_psnr_y(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, y_rounding: YRounding = 'none', better: str = 'higher'
) -> float:
    """PSNR on Y in dB.

    Args:
        img, img2: BGR uint8 (h, w, 3), as BasicSR's validation hands them over.
        crop_border: pixels left out at every edge.
        y_rounding: 'none' or 'matlab', see `psnr_ssim`.
        better: read by BasicSR, not here.
    """
    return psnr(img[..., ::-1], img2[..., ::-1], y_channel=True, crop_border=crop_border, y_rounding=y_rounding)


@METRIC_REGISTRY.register()
def calculate_ssim_y(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, y_rounding: YRounding = 'none', better: str = 'higher'
) -> float:
    """SSIM on Y; arguments as in `calculate_psnr_y`."""
    return ssim(img[..., ::-1], img2[..., ::-1], y_channel=True, crop_border=crop_border, y_rounding=y_rounding)
