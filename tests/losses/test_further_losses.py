"""Losses beyond BasicSR's: nothing for equal images, more for worse ones, and gradients that are right."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

import vmambair_arch  # noqa: F401  # before basicsr, which it fixes

# isort: split
from basicsr.losses import build_loss

from vmambair_arch.errors import UserError
from vmambair_arch.losses.contextual_loss import contextual
from vmambair_arch.losses.wavelet_loss import haar

PLAIN = ['MSSIMLoss', 'LDLLoss', 'GradientLoss', 'EdgeLoss', 'WaveletLoss', 'FocalFrequencyLoss']
NOTHING = {'EdgeLoss': 1e-3}
"""What equal images cost, where that is not 0: eps of the Charbonnier distance."""


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def build(name: str, **arguments):
    if name == 'MSSIMLoss':
        pytest.importorskip('piq')
    return build_loss({'type': name, **arguments})


@pytest.mark.parametrize('name', PLAIN)
def test_equal_images_cost_nothing_and_worse_ones_more(name):
    target = images(2, 3, 48, 40)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    loss = build(name)
    values = [loss((target + s * noise).clamp(0, 1), target).item() for s in (0, 0.02, 0.1)]
    assert values[0] == pytest.approx(NOTHING.get(name, 0), abs=1e-6)
    assert values == sorted(values)
    assert values[2] > 2 * max(values[1], 1e-9) or name in ('MSSIMLoss', 'EdgeLoss')
    weighted = build(name, loss_weight=3.0)
    noisy = (target + 0.1 * noise).clamp(0, 1)
    assert weighted(noisy, target).item() == pytest.approx(3 * loss(noisy, target).item(), rel=1e-5)


@pytest.mark.parametrize('name', PLAIN)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_gradients_are_finite_in_any_precision_also_for_opposite_and_flat_images(name, dtype):
    loss = build(name)
    target = images(1, 3, 33, 35)
    for pred in (1 - target, torch.full_like(target, 0.5), target):
        pred = pred.to(dtype).requires_grad_()
        loss(pred, target.to(dtype)).backward()
        assert pred.grad.isfinite().all()


@pytest.mark.parametrize('name', ['GradientLoss', 'EdgeLoss', 'WaveletLoss'])
def test_gradients_are_those_of_differences(name, monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)  # the losses compute in float32 otherwise
    loss = build(name).double()
    pred, target = images(1, 2, 9, 8).double().requires_grad_(), images(1, 2, 9, 8, seed=1).double()
    assert gradcheck(lambda x: loss(x, target), (pred,))


def test_a_ramp_has_its_own_slope():
    ramp = torch.arange(12.0).mul(0.05).expand(1, 1, 12, 12)
    # Halved by the mean over two directions, and half as much in the first and last column, where edges are repeated.
    assert build('GradientLoss')(ramp, torch.zeros_like(ramp)).item() == pytest.approx(0.05 / 2 * 11 / 12, rel=1e-5)


def test_haar_bands_add_up_to_the_image():
    image = images(1, 2, 7, 9)
    assert torch.allclose(sum(haar(image, 1)), image, atol=1e-6)


def test_constants_are_left_to_the_pixel_loss():
    image = images(1, 3, 32, 32) / 2
    assert build('WaveletLoss')(image + 0.25, image).item() == pytest.approx(0, abs=1e-7)
    assert build('GradientLoss')(image + 0.25, image).item() == pytest.approx(0, abs=1e-6)


def test_ldl_weighs_noise_above_an_even_error():
    loss = build('LDLLoss')
    target = torch.full((1, 3, 32, 32), 0.5)
    noisy = target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    assert loss(target + 0.1, target).item() == pytest.approx(0, abs=1e-9)
    assert loss(noisy, target).item() > 1e-5


def test_focal_frequency_without_focus_is_the_squared_distance():
    a, b = images(2, 3, 16, 12), images(2, 3, 16, 12, seed=1)
    loss = build('FocalFrequencyLoss', alpha=0.0)
    assert loss(a, b).item() == pytest.approx((a - b).square().mean().item(), rel=1e-5)  # Parseval


@pytest.mark.parametrize(('side', 'scales'), [(12, 1), (24, 2), (64, 3), (161, 5)])
def test_ms_ssim_takes_the_scales_that_a_patch_has_room_for(side, scales, monkeypatch):
    piq = pytest.importorskip('piq')
    seen = []
    original = piq.multi_scale_ssim
    monkeypatch.setattr(piq, 'multi_scale_ssim', lambda *a, **k: seen.append(k['scale_weights']) or original(*a, **k))
    build('MSSIMLoss')(images(1, 3, side, side + 3), images(1, 3, side, side + 3, seed=1))
    assert len(seen[0]) == scales
    assert seen[0].sum().item() == pytest.approx(1)


def test_contextual_matches_features_wherever_they_are():
    features = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0))
    moved = features[..., torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    other = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(2))
    assert contextual(features, moved).item() == pytest.approx(contextual(features, features).item(), abs=1e-5)
    assert contextual(features, moved) < 0.1 < contextual(features, other)


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('MSSIMLoss', {'window_size': 4}, 'window_size must be odd'),
        ('LDLLoss', {'ksize': 2}, 'ksize must be odd'),
        ('WaveletLoss', {'levels': 0}, 'levels must be 1 or more'),
        ('FocalFrequencyLoss', {'alpha': -1}, 'alpha must be 0 or more'),
    ],
)
def test_arguments_out_of_range_are_named(name, arguments, message):
    if name == 'MSSIMLoss':
        pytest.importorskip('piq')
    with pytest.raises(UserError, match=message):
        build(name, **arguments)


def test_backbone_losses_learn_from_an_image(shared):
    target = images(1, 3, 64, 64)
    for options in (
        {'type': 'DISTSLoss', 'weights': str(shared / 'weights')},
        {'type': 'ContextualLoss', 'vgg_type': 'vgg16', 'vgg_path': str(shared / 'weights')},
    ):
        loss = build_loss(options)
        pred = images(1, 3, 64, 64, seed=1).requires_grad_()
        value = loss(pred, target)
        value.backward()
        assert pred.grad.abs().sum() > 0
        assert value > loss(target, target)
