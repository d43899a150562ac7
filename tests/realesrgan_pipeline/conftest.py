"""BasicSR's own degradations, fixed so that they can be imported, and a photograph-like image."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import vmambair_arch  # noqa: F401 before basicsr, which it fixes


@pytest.fixture(scope='session')
def basicsr_degradations() -> ModuleType:
    return pytest.importorskip('basicsr.data.degradations')


@pytest.fixture(scope='session')
def picture() -> Tensor:
    """(1, 3, 120, 88) in 0..1: smooth areas, edges, and a little texture."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 5, 4, generator=generator), size=(120, 88), mode='bicubic')
    smooth[..., 30:70, 20:60] += 0.4
    return (smooth + 0.03 * torch.randn(1, 3, 120, 88, generator=generator)).clamp(0, 1)
