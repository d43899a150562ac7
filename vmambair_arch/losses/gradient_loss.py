"""Losses on the edges of images: gradients by Sobel, edges by the Laplacian of MPRNet (arXiv 2102.02808, eq. 6)."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F


def _filter(image: Tensor, kernel: Tensor) -> Tensor:
    """Every channel of (b, c, h, w) with one kernel (k, k), edges replicated: the same size."""
    channels, pad = image.shape[1], kernel.shape[-1] // 2
    weight = kernel.to(image).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(image, [pad] * 4, mode='replicate'), weight, groups=channels)


@LOSS_REGISTRY.register()
class GradientLoss(nn.Module):
    """L1 distance between the horizontal and vertical Sobel gradients, scaled so that a ramp has its own slope.

    Args:
        loss_weight: factor on the loss.
    """

    sobel: Tensor

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        sobel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([-1.0, 0.0, 1.0])) / 8
        self.register_buffer('sobel', sobel, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w): a scalar."""
        difference = pred.float() - target.float()  # filters are linear: one pass is as good as two
        across, down = _filter(difference, self.sobel), _filter(difference, self.sobel.T)
        return self.loss_weight * (across.abs().mean() + down.abs().mean()) / 2


@LOSS_REGISTRY.register()
class EdgeLoss(nn.Module):
    """Charbonnier distance between Laplacians: what is left of an image after a Gaussian pyramid step down and up.

    Args:
        loss_weight: factor on the loss; MPRNet uses 0.05 beside a Charbonnier loss.
        eps: of the Charbonnier distance sqrt(x^2 + eps^2).
    """

    gauss: Tensor

    def __init__(self, loss_weight: float = 1.0, eps: float = 1e-3) -> None:
        super().__init__()
        self.loss_weight, self.eps = loss_weight, eps
        row = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05])
        self.register_buffer('gauss', row.outer(row), persistent=False)

    def laplacian(self, image: Tensor) -> Tensor:
        """Details that the next level of the pyramid does not hold: (b, c, h, w) -> the same."""
        smooth = _filter(image, self.gauss)
        kept = torch.zeros_like(smooth)
        kept[..., ::2, ::2] = smooth[..., ::2, ::2] * 4
        return image - _filter(kept, self.gauss)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of `pred` against `target`, both (b, c, h, w): a scalar."""
        difference = self.laplacian(pred.float() - target.float())
        return self.loss_weight * (difference**2 + self.eps**2).sqrt().mean()
