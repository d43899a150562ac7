"""Distance between the detail bands of a stationary Haar transform (Korkmaz et al., arXiv 2402.19215)."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from ..errors import UserError


def haar(image: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the undecimated Haar transform, pixels 2^level apart, the image repeated beyond its edges.

    Returns:
        Averages, and details across, down and diagonally, each as large as the image (b, c, h, w).
    """
    step = 2**level
    right, below = image.roll(-step, -1), image.roll(-step, -2)
    corner = right.roll(-step, -2)
    return (
        (image + right + below + corner) / 4,
        (image - right + below - corner) / 4,
        (image + right - below - corner) / 4,
        (image - right - below + corner) / 4,
    )


@LOSS_REGISTRY.register()
class WaveletLoss(nn.Module):
    """L1 distance between the detail bands of `levels` levels, averaged; constants are not seen.

    Args:
        loss_weight: factor on the loss.
        levels: how often the averages are transformed again, 1 or more.
    """

    def __init__(self, loss_weight: float = 1.0, levels: int = 2) -> None:
        super().__init__()
        if not isinstance(levels, int) or levels < 1:
            raise UserError(f'WaveletLoss: levels must be 1 or more, not {levels!r}')
        self.loss_weight, self.levels = loss_weight, levels

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w): a scalar."""
        average = pred.float() - target.float()  # the transform is linear
        total = average.new_zeros(())
        for level in range(self.levels):
            average, *details = haar(average, level)
            total = total + torch.stack([band.abs().mean() for band in details]).mean()
        return self.loss_weight * total / self.levels
