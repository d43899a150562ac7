"""Contextual loss: features are matched by likeness instead of place, for pairs that are not aligned (1803.02077)."""

from __future__ import annotations

from pathlib import Path

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .vgg_perceptual_loss import VGGPerceptualLoss


@LOSS_REGISTRY.register()
class ContextualLoss(nn.Module):
    """-log of the contextual similarity of VGG features (eq. 2 to 5 of the paper, cosine distance).

    Args:
        loss_weight: factor on the loss.
        layer_weights: weight of each layer, by default conv3_2 and conv4_2 as in the paper.
        vgg_type, vgg_path: as for `VGGPerceptualLoss`.
        bandwidth: h of the paper; the smaller, the more the best match counts.
        max_positions: positions of a layer that are compared, on a regular grid; memory grows with their square.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        layer_weights: dict[str, float] | None = None,
        vgg_type: str = 'vgg19',
        vgg_path: str | Path | None = None,
        bandwidth: float = 0.5,
        max_positions: int = 1024,
    ) -> None:
        super().__init__()
        if bandwidth <= 0 or max_positions < 1:
            raise UserError('ContextualLoss: bandwidth must be above 0 and max_positions 1 or more')
        self.loss_weight, self.bandwidth, self.max_positions = loss_weight, bandwidth, max_positions
        self.layer_weights = layer_weights or {'conv3_2': 1.0, 'conv4_2': 1.0}
        self.vgg = VGGPerceptualLoss(self.layer_weights, vgg_type, vgg_path)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, 3, h, w) in 0..1: a scalar."""
        ours = self.vgg.features(pred)
        with torch.no_grad():
            theirs = self.vgg.features(target)
        total = pred.new_zeros(())
        for name, weight in self.layer_weights.items():
            total = total + weight * contextual(self._sampled(ours[name]), self._sampled(theirs[name]), self.bandwidth)
        return self.loss_weight * total

    def _sampled(self, features: Tensor) -> Tensor:
        """Positions of (b, c, h, w) on a grid of at most `max_positions`: (b, c, n)."""
        h, w = features.shape[-2:]
        step = 1
        while -(-h // step) * -(-w // step) > self.max_positions:
            step += 1
        return features[..., ::step, ::step].flatten(2)


def contextual(x: Tensor, y: Tensor, bandwidth: float = 0.5) -> Tensor:
    """-log CX of features x and y, both (b, c, n): a scalar, 0 where every feature of y has a match of its own in x."""
    mean = y.mean((0, 2), keepdim=True)
    x, y = F.normalize(x - mean, dim=1), F.normalize(y - mean, dim=1)
    distance = (1 - x.mT @ y).clamp_min(0) / 2  # (b, positions of x, positions of y)
    relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
    affinity = ((1 - relative) / bandwidth).softmax(2)
    similarity = affinity.amax(1).mean(1)
    return -torch.log(similarity + 1e-5).mean()
