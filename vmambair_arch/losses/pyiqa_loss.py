"""Metrics of pyiqa as losses, where it is installed (its licence is non-commercial: an extra, never required)."""

from __future__ import annotations

import importlib

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from ..errors import UserError


@LOSS_REGISTRY.register()
class PyIQALoss(nn.Module):
    """A differentiable metric of pyiqa; of one whose higher values are better, 1 - metric.

    Args:
        metric: its name in pyiqa, such as `dists` or `lpips-vgg`.
        loss_weight: factor on the loss.

    Raises:
        UserError: pyiqa is not installed, does not know the metric, cannot get its weights, or it has no gradient.
    """

    def __init__(self, metric: str, loss_weight: float = 1.0) -> None:
        super().__init__()
        try:
            pyiqa = importlib.import_module('pyiqa')
        except ModuleNotFoundError:
            raise UserError('PyIQALoss needs pyiqa, which is not installed: pip install pyiqa') from None
        try:
            self.network = pyiqa.create_metric(metric, as_loss=True, device='cpu')
        except Exception as error:  # it raises nearly anything, AssertionError and URLError among them
            raise UserError(f"PyIQALoss: '{metric}': {' '.join(str(error).split()) or type(error).__name__}") from error
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, 3, h, w) in 0..1: a scalar."""
        value = self.network(pred.clamp(0, 1), target).mean()
        return self.loss_weight * (value if self.network.lower_better else 1 - value)
