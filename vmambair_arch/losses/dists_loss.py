"""DISTS as a loss: structure and texture similarity of VGG16 features (Ding et al., TPAMI 2020)."""

from __future__ import annotations

import copy
from pathlib import Path

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from ..metrics.perceptual import dists_network


@LOSS_REGISTRY.register()
class DISTSLoss(nn.Module):
    """Mean DISTS of the images of a batch, as the metric `dists` computes it.

    Args:
        weights: file or folder of VGG16's ImageNet weights, as for the metric; by default where torch keeps them, then
            a download.
        loss_weight: factor on the loss.

    Raises:
        UserError: no weights, `dists-pytorch` is not installed.
    """

    def __init__(self, weights: str | Path | None = None, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.network = copy.deepcopy(dists_network(weights)).requires_grad_(False)  # the metric's own stays where it is

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, 3, h, w) in 0..1: a scalar."""
        return self.loss_weight * self.network(pred.float(), target.float()).mean()
