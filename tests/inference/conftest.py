"""Small stand-ins for networks, whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vmambair_arch import VmambaIR


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


@pytest.fixture(scope='session')
def tiny() -> VmambaIR:
    """A real network, random and small."""
    torch.manual_seed(0)
    network = VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4, channel_width=1)
    return network.eval()


@pytest.fixture(scope='session')
def checkpoint(tiny, tmp_path_factory) -> Path:
    """`tiny` as BasicSR saves it."""
    path = tmp_path_factory.mktemp('checkpoint') / 'net_g_latest.pth'
    torch.save({'params': tiny.state_dict()}, path)
    return path
