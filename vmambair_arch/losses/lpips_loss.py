"""LPIPS as a loss: the learned perceptual distance that papers report (Zhang et al., arXiv 1801.03924), to train on."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from ..errors import UserError
from ..metrics.perceptual import SMALLEST, lpips_network


@LOSS_REGISTRY.register()
class LPIPSLoss(nn.Module):
    """Mean LPIPS of the images of a batch, as the metric `lpips` computes it.

    Backbones look at every few pixels (AlexNet at every fourth), always the same ones: a network that enlarges by pixel
    shuffle learns to draw a grid between them, to which the distance is blind. So each call leaves out a random number
    of rows and columns at the top left, the same for both images. Use it beside a pixel loss all the same, and look at
    pictures as well as at the figure.

    Args:
        net: backbone, 'alex', 'vgg' or 'squeeze'.
        weights: file or folder of the backbone's ImageNet weights, as for the metric; by default where torch keeps
            them, then a download.
        loss_weight: factor on the loss.
        shift: the most rows and columns that are left out; 0 for the metric itself. Drawn from torch's generator of the
            CPU, which a training state keeps. Of a patch that has not so many to spare, fewer are left out.

    Raises:
        UserError: no such backbone, no weights, `lpips` is not installed.
    """

    def __init__(
        self, net: str = 'alex', weights: str | Path | None = None, loss_weight: float = 1.0, shift: int = 3
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.shift = shift
        self.net = net
        self.network = copy.deepcopy(lpips_network(net, weights)).requires_grad_(False)  # the metric's stays as it is

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, 3, h, w) in 0..1: a scalar.

        Raises:
            UserError: images that are smaller than the backbone can see.
        """
        (h, w), least = pred.shape[-2:], SMALLEST[self.net]
        spare = min(h, w) - least
        if spare < 0:
            raise UserError(f'LPIPSLoss: {w}x{h} is too small a patch for net {self.net}, which needs {least} pixels')
        top, left = torch.randint(min(self.shift, spare) + 1, (2,)).tolist()
        pred, target = pred[..., top:, left:], target[..., top:, left:]
        return self.loss_weight * self.network(2 * pred.float() - 1, 2 * target.float() - 1).mean()
