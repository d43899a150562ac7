"""NIQE as BasicSR computes it, and any metric of pyiqa by its name."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError, nearest
from .perceptual import as_tensor, device, require
from .psnr_ssim import crop, white

if TYPE_CHECKING:
    from torch import nn


NIQE_BLOCK = 96
"""Side in pixels of the blocks that NIQE compares, of which it needs two."""


def niqe(image: np.ndarray, *, crop_border: int = 0) -> float:
    """Natural image quality evaluator (Mittal et al., 2013) on Y; lower is better, NaN for an image of one colour.

    Args:
        image: (h, w, 3) RGB, uint8, or float 0..1, which is rounded to 8 bits.
        crop_border: pixels left out at every edge.

    Raises:
        UserError: fewer than two blocks of 96 x 96 pixels, neither uint8 nor float.
    """
    from basicsr.metrics.niqe import calculate_niqe

    if white(image) == 1:
        image = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return calculate_niqe(image[..., ::-1], crop_border=crop_border)


def pyiqa(name: str, image: np.ndarray, reference: np.ndarray | None = None, *, crop_border: int = 0) -> float:
    """A metric of the pyiqa package, which downloads the weights it needs.

    Args:
        name: as in `pyiqa.list_models()`, e.g. 'musiq'.
        image, reference: (h, w, 3) RGB, uint8 or float 0..1; the reference is ignored by metrics that need none.
        crop_border: pixels left out at every edge.

    Raises:
        UserError: pyiqa is not installed, no such metric, its weights cannot be had, no reference where it needs one,
            an image that it cannot measure.
    """
    import torch

    metric = pyiqa_metric(name)
    images = [as_tensor(crop(image, crop_border))]
    if metric.metric_mode == 'FR':
        if reference is None:
            raise UserError(f"pyiqa's '{name}' needs the true image to compare with")
        images.append(as_tensor(crop(reference, crop_border)))
    try:
        with torch.inference_mode():
            return float(metric(*images))
    except (RuntimeError, ValueError, AssertionError) as error:
        h, w = images[0].shape[-2:]
        raise UserError(f"pyiqa's '{name}' failed on {w} x {h} pixels: {' '.join(str(error).split())[:160]}") from error


@lru_cache(maxsize=8)
def pyiqa_metric(name: str) -> nn.Module:
    """pyiqa's metric `name`, with its `lower_better` and `metric_mode` ('FR' or 'NR')."""
    package = require('pyiqa', 'pyiqa')
    names = package.list_models()
    if name not in names:
        raise UserError(f"pyiqa has no metric '{name}'{nearest(name, names)}")
    try:
        return package.create_metric(name, device=device())
    except OSError as error:
        raise UserError(f"the weights of pyiqa's '{name}' cannot be downloaded ({error})") from None
