"""FID: the Frechet distance between two folders of images in the features of Inception v3 (Heusel et al., 2017)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints.backbones import pretrained_state
from ..errors import UserError

if TYPE_CHECKING:
    from torch import nn


def fid(images: Iterable[np.ndarray], references: Iterable[np.ndarray], *, weights: str | Path | None = None) -> float:
    """Frechet Inception distance of pytorch-fid, lower is better: every image resized to 299 x 299, bilinear.

    Args:
        images, references: (h, w, 3) RGB, uint8 or float 0..1, of any size and in any order; at least two each. The
            covariance of 2048 features takes thousands of images; with fewer the figure compares methods on one data
            set, no more.
        weights: file or folder of `pt_inception-2015-12-05-6726825d.pth`, see `pretrained.pretrained_state`.

    Raises:
        UserError: fewer than two images, no weights.
    """
    network = inception(weights)
    return frechet_distance(_features(images, network), _features(references, network))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of two samples (n, features)."""
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    # S = M^T M, so the trace of (S_a S_b)^1/2 is the nuclear norm of M_a M_b^T: no root of a matrix, nothing complex.
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * cross
    return float(max(distance, 0))


def _moments(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (features,) and M (rows, features), rows <= features, with M^T M = covariance."""
    if len(sample) < 2:
        raise UserError(f'FID needs at least two images on either side, got {len(sample)}')
    sample = sample.astype(np.float64)
    mean = sample.mean(0)
    root: np.ndarray = np.linalg.qr((sample - mean) / np.sqrt(len(sample) - 1), mode='r')  # type: ignore[assignment]
    return mean, root


def _features(images: Iterable[np.ndarray], network: nn.Module) -> np.ndarray:
    import torch

    from .perceptual import as_tensor

    with torch.inference_mode():
        rows = [network(as_tensor(image))[0].flatten().cpu().numpy() for image in images]
    return np.stack(rows) if rows else np.zeros((0, 1))


def inception(weights: str | Path | None) -> nn.Module:
    """BasicSR's Inception v3 in the form that FID is defined with."""
    from basicsr.archs import inception as module

    from .perceptual import device

    state = pretrained_state(module.FID_WEIGHTS_URL, weights)
    # It reads or downloads its weights itself: hand it those that were found, read without running code.
    local, load_url = module.LOCAL_FID_WEIGHTS, module.load_url
    module.LOCAL_FID_WEIGHTS, module.load_url = '', lambda *args, **kwargs: state
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # it builds torchvision's network the old way
            network = module.InceptionV3([module.InceptionV3.DEFAULT_BLOCK_INDEX])
    except RuntimeError as error:
        raise UserError(f'FID: these are not the weights of its Inception network ({str(error)[:120]})') from None
    finally:
        module.LOCAL_FID_WEIGHTS, module.load_url = local, load_url
    return network.eval().to(device())
