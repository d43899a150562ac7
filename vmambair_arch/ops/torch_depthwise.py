"""The depthwise 3x3 convolution with its activation by torch's operators: what every other way is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SILU, GELU_GATE = 1, 2
"""Codes of csrc/depthwise.h."""


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this way cannot be used for tensors of `dtype` on `device`; None where it can (always)."""
    return None


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """act(convolution of x), zero padding.

    Args:
        x: (b, h, w, c).
        weight: (c, 1, 3, 3).
        bias: (c,) or None.
        activation: SILU, or GELU_GATE for gelu(a) * b of the halves a, b of the channels.

    Returns:
        (b, h, w, c), or (b, h, w, c / 2) for the gate.
    """
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)
    if activation == SILU:
        return F.silu(y)
    a, b = y.chunk(2, -1)
    return F.gelu(a) * b
