"""Small stand-ins for networks, whose right answer is known."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import nn


class Halve(nn.Module):
    """Halves every value, upsamples by nearest and records the shapes that it saw."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.config = {'scale': scale}
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return F.interpolate(x / 2, scale_factor=self.config['scale'], mode='nearest')


@pytest.fixture
def halve() -> Halve:
    return Halve()


@pytest.fixture
def halve_x2() -> Halve:
    return Halve(2)
