"""Focal frequency loss: spectra are compared where they are hard to meet (Jiang et al., arXiv 2012.12821)."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from ..errors import UserError


@LOSS_REGISTRY.register()
class FocalFrequencyLoss(nn.Module):
    """Mean squared distance of orthonormal spectra, each frequency weighted by its own distance (eq. 8 to 10).

    Args:
        loss_weight: factor on the loss.
        alpha: exponent of the weights; 0 weights all frequencies alike.
    """

    def __init__(self, loss_weight: float = 1.0, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha < 0:
            raise UserError(f'FocalFrequencyLoss: alpha must be 0 or more, not {alpha}')
        self.loss_weight, self.alpha = loss_weight, alpha

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w): a scalar."""
        parts = torch.view_as_real(torch.fft.fft2(pred.float() - target.float(), norm='ortho'))
        squares = (parts**2).sum(-1)
        with torch.no_grad():
            weight = squares.sqrt() ** self.alpha
            weight = weight / weight.amax((-2, -1), keepdim=True).clamp_min(1e-12)  # of each image and channel
        return self.loss_weight * (weight * squares).mean()
