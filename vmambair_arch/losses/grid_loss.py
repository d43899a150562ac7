"""Against the grid that enlarging by pixel shuffle draws where other losses do not look."""

from __future__ import annotations

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F


@LOSS_REGISTRY.register()
class GridLoss(nn.Module):
    """L1 distance of the mean detail at every phase of a period, place by place.

    Detail is what differs from the mean of the four neighbours. Its mean over the pixels of one phase (the same place
    in every cell of `period` x `period` pixels) within a block of `cells` x `cells` cells is near 0 for a photograph;
    a network that treats its phases unlike leaves the same value in every cell. A pixel loss hardly sees a grid of one
    level, and LPIPS not at all where the period is the stride of its backbone.

    Args:
        period: in pixels; the scale of the network.
        cells: side of a block in cells.
        loss_weight: factor on the loss.
    """

    def __init__(self, period: int = 4, cells: int = 8, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.period = period
        self.cells = cells
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w) of at least one cell: a scalar."""
        x = pred.float() - target.float()
        padded = F.pad(x, (1, 1, 1, 1), mode='replicate')
        detail = (
            x - (padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]) / 4
        )
        h, w = (n // self.period * self.period for n in detail.shape[-2:])
        phases = F.pixel_unshuffle(detail[..., :h, :w], self.period)
        block = [min(self.cells, n) for n in phases.shape[-2:]]
        return self.loss_weight * F.avg_pool2d(phases, block).abs().mean()
