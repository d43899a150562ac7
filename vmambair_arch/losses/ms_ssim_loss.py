"""Multi-scale structural similarity as a loss (Wang et al., Asilomar 2003), by piq."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from ..errors import UserError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, the finest first (table of the paper)."""


@LOSS_REGISTRY.register()
class MSSIMLoss(nn.Module):
    """1 - MS-SSIM, on as many of the five scales as the patch has room for; their exponents are scaled to add up to 1.

    Args:
        loss_weight: factor on the loss.
        window_size: side of the Gaussian window in pixels, odd. A patch needs (window_size - 1) * 2^(n - 1) + 1 pixels
            for n scales: 11 pixels for one, 161 for all five.
        sigma: of the window in pixels.

    Raises:
        UserError: piq is not installed; a window that is even or below 3.
    """

    def __init__(self, loss_weight: float = 1.0, window_size: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        if window_size < 3 or window_size % 2 == 0:
            raise UserError(f'MSSIMLoss: window_size must be odd and at least 3, not {window_size}')
        self.piq = _piq()
        self.loss_weight, self.window_size, self.sigma = loss_weight, window_size, sigma

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w) in 0..1: a scalar.

        Raises:
            UserError: the images are smaller than the window.
        """
        side = min(pred.shape[-2:])
        scales = sum(side > (self.window_size - 1) * 2**n for n in range(len(WEIGHTS)))
        if not scales:
            raise UserError(f'MSSIMLoss: a patch of {side} pixels is smaller than the window of {self.window_size}')
        weights = torch.tensor(WEIGHTS[:scales], device=pred.device)
        similarity = self.piq.multi_scale_ssim(
            pred.float().clamp(0, 1),  # piq refuses what lies outside; an L1 loss beside this one pulls it back
            target.float(),
            kernel_size=self.window_size,
            kernel_sigma=self.sigma,
            scale_weights=weights / weights.sum(),
        )
        return self.loss_weight * (1 - similarity)


def _piq() -> ModuleType:
    try:
        return importlib.import_module('piq')
    except ModuleNotFoundError:
        raise UserError('MSSIMLoss needs piq, which is not installed: pip install piq') from None
