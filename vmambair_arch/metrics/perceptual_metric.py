"""LPIPS, DISTS and the metrics of pyiqa for BasicSR's option files.

BasicSR keeps the best result of a run and takes higher for better unless the option file says `better: lower`, as it
has to for LPIPS and DISTS.
"""

from __future__ import annotations

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

from .no_reference import pyiqa
from .perceptual import LPIPSNet, dists, lpips


@METRIC_REGISTRY.register()
def calculate_lpips(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int = 0,
    net: LPIPSNet = 'alex',
    weights: str | None = None,
    better: str = 'lower',
) -> float:
    """LPIPS.

    Args:
        img, img2: BGR uint8 (h, w, 3), as BasicSR's validation hands them over.
        crop_border: pixels left out at every edge.
        net: 'alex', 'vgg' or 'squeeze'.
        weights: file or folder of the backbone's weights; default: see `pretrained`.
        better: read by BasicSR, not here.
    """
    return lpips(img[..., ::-1], img2[..., ::-1], net=net, crop_border=crop_border, weights=weights)


@METRIC_REGISTRY.register()
def calculate_dists(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, weights: str | None = None, better: str = 'lower'
) -> float:
    """DISTS; arguments as in `calculate_lpips`."""
    return dists(img[..., ::-1], img2[..., ::-1], crop_border=crop_border, weights=weights)


@METRIC_REGISTRY.register()
def calculate_pyiqa(
    img: np.ndarray, metric: str, img2: np.ndarray | None = None, crop_border: int = 0, better: str = 'higher'
) -> float:
    """pyiqa's metric `metric`; other arguments as in `calculate_lpips`."""
    return pyiqa(metric, img[..., ::-1], None if img2 is None else img2[..., ::-1], crop_border=crop_border)
