"""Fixtures that every room uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vmambair_arch import VmambaIR

# Threads that spin while they wait make the suite ten times slower as soon as anything else wants a core. OpenMP reads
# this when torch is first imported, here and in the processes that tests start.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """Development data beside the checkout: real images, weights and parity fixtures. Skips where there is none."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'fixtures').is_dir():
        pytest.skip('no shared development data beside the checkout')
    return folder


@pytest.fixture(scope='session')
def tiny() -> VmambaIR:
    """A real network, random and small."""
    import torch

    from vmambair_arch import VmambaIR

    torch.manual_seed(0)
    network = VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4, channel_width=1)
    return network.eval()


@pytest.fixture(scope='session')
def checkpoint(tiny: VmambaIR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` as BasicSR saves it."""
    import torch

    path = tmp_path_factory.mktemp('checkpoint') / 'net_g_latest.pth'
    torch.save({'params': tiny.state_dict()}, path)
    return path
