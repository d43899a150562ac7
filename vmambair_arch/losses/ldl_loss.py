"""Locally discriminative learning: an L1 loss where the residual looks like an artefact (arXiv 2203.09195)."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError


@LOSS_REGISTRY.register()
class LDLLoss(nn.Module):
    """L1 distance weighted by the local variance of the residual, times the fifth root of its variance in the image.

    Eq. 3 to 5 of the paper. The comparison with the averaged generator (eq. 6) is left out, as an ordinary loss sees
    one output alone. The weights carry no gradient.

    Args:
        loss_weight: factor on the loss.
        ksize: side of the neighbourhood in pixels, odd.
    """

    def __init__(self, loss_weight: float = 1.0, ksize: int = 7) -> None:
        super().__init__()
        if ksize < 3 or ksize % 2 == 0:
            raise UserError(f'LDLLoss: ksize must be odd and at least 3, not {ksize}')
        self.loss_weight, self.ksize = loss_weight, ksize

    def artefacts(self, pred: Tensor, target: Tensor) -> Tensor:
        """How much each pixel looks like an artefact: (b, c, h, w) -> (b, 1, h, w), 0 and above."""
        residual = (target - pred).abs().sum(1, keepdim=True)
        padded = F.pad(residual, [self.ksize // 2] * 4, mode='reflect')
        windows = F.unfold(padded, self.ksize)
        local = windows.var(1, unbiased=False).view_as(residual)
        whole = residual.flatten(1).var(1, unbiased=False) ** 0.2
        return local * whole[:, None, None, None]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w): a scalar."""
        pred, target = pred.float(), target.float()
        with torch.no_grad():
            weight = self.artefacts(pred, target)
        return self.loss_weight * (weight * (pred - target)).abs().mean()
