"""Distance between spectra: what a pixel loss says about single pixels, said about frequencies."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F


@LOSS_REGISTRY.register()
class FFTLoss(nn.Module):
    """L1 distance between two-dimensional discrete Fourier transforms, MIMO-UNet's frequency loss (arXiv 2108.05054).

    The mean runs over real and imaginary parts of all frequencies, unnormalised as in MIMO-UNet, where its weight
    beside an L1 loss is 0.1. Computed in float32 whatever the input type.

    Args:
        loss_weight: factor on the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w): a scalar."""
        # The transform is linear: one of the difference is as good as one of each.
        spectrum = torch.fft.fft2(pred.float() - target.float())
        parts = torch.view_as_real(spectrum)
        return self.loss_weight * F.l1_loss(parts, torch.zeros_like(parts))
