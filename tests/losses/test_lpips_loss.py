"""LPIPS as a loss is the metric, with a gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vmambair_arch  # noqa: F401  # before basicsr, which it fixes

# isort: split
from basicsr.losses import build_loss

from vmambair_arch.errors import UserError
from vmambair_arch.metrics import perceptual

pytest.importorskip('lpips')


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random convolutions in the form of torchvision's AlexNet."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('alex') / 'alexnet.pth'
    torch.save({k: v for k, v in alexnet(weights=None).state_dict().items() if k.startswith('features')}, path)
    return path


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((64, 48, 3), np.float32)


def test_the_loss_is_the_weighted_mean_of_the_metric(weights):
    loss = build_loss({'type': 'LPIPSLoss', 'net': 'alex', 'weights': str(weights), 'loss_weight': 3.0, 'shift': 0})
    pairs = [(images(i), images(i + 10)) for i in range(2)]
    pred, target = (torch.stack([torch.from_numpy(p[k]).permute(2, 0, 1) for p in pairs]) for k in (0, 1))
    expected = 3 * np.mean([perceptual.lpips(a, b, weights=str(weights)) for a, b in pairs])
    assert loss(pred, target).item() == pytest.approx(expected, rel=1e-4)
    assert loss(pred, pred).item() == pytest.approx(0, abs=1e-6)


def test_the_backbone_looks_at_other_pixels_each_time(weights):
    """A pattern that repeats with the stride of the backbone is not at the same place for it twice."""
    loss = build_loss({'type': 'LPIPSLoss', 'weights': str(weights)})
    pred, target = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    first = [loss(pred, target).item() for _ in range(8)]
    torch.manual_seed(0)
    assert [loss(pred, target).item() for _ in range(8)] == first
    assert len(set(first)) > 3
    assert loss(pred, pred).item() == pytest.approx(0, abs=1e-6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(31, 36), width=st.integers(31, 36), seed=st.integers(0, 1000))
def test_every_draw_leaves_what_the_backbone_can_see(weights, height, width, seed):
    """A patch of 32 pixels died at the draw that left 30 of it, sooner or later."""
    loss = build_loss({'type': 'LPIPSLoss', 'weights': str(weights)})
    torch.manual_seed(seed)
    pred, target = torch.rand(2, 1, 3, height, width)
    assert torch.isfinite(loss(pred, target))


@pytest.mark.parametrize('size', [(30, 64), (64, 30), (1, 1)])
def test_a_patch_that_it_cannot_see_is_named(weights, size):
    loss = build_loss({'type': 'LPIPSLoss', 'weights': str(weights)})
    with pytest.raises(UserError, match=f'LPIPSLoss: {size[1]}x{size[0]} is too small a patch for net alex, .* 31'):
        loss(torch.rand(1, 3, *size), torch.rand(1, 3, *size))


def test_the_image_has_a_gradient_and_the_backbone_none(weights):
    loss = build_loss({'type': 'LPIPSLoss', 'weights': str(weights)})
    pred = torch.rand(1, 3, 64, 64, requires_grad=True)
    loss(pred, torch.rand(1, 3, 64, 64)).backward()
    assert pred.grad.isfinite().all()
    assert pred.grad.abs().max() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert perceptual.lpips_network('alex', str(weights)) is not loss.network


def test_an_unknown_backbone_is_named():
    with pytest.raises(UserError, match="backbone 'alexx' is not one of alex"):
        build_loss({'type': 'LPIPSLoss', 'net': 'alexx'})
