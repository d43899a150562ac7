"""Losses that option files may name: BasicSR's Charbonnier and our FFT loss."""

from __future__ import annotations

import pytest
import torch

import vmambair_arch  # noqa: F401  # before basicsr, which it fixes

# isort: split
from basicsr.losses import build_loss


def test_fft_loss_is_the_mean_distance_of_spectra():
    pred, target = torch.rand(2, 3, 7, 10), torch.rand(2, 3, 7, 10)
    a, b = torch.fft.fft2(pred), torch.fft.fft2(target)
    by_hand = ((a.real - b.real).abs().mean() + (a.imag - b.imag).abs().mean()) / 2
    loss = build_loss({'type': 'FFTLoss', 'loss_weight': 0.1})
    assert loss(pred, target).item() == pytest.approx(0.1 * by_hand.item(), rel=1e-5)
    assert loss(pred, pred).item() == 0


def test_fft_loss_of_a_constant_difference_sits_in_one_frequency():
    image = torch.rand(1, 1, 8, 8)
    # All of 0.5 lands in the zero frequency, 64 * 0.5, out of 64 frequencies with two parts each.
    assert build_loss({'type': 'FFTLoss'})(image + 0.5, image).item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_fft_loss_takes_half_precision_and_has_a_gradient(dtype):
    pred = torch.rand(1, 3, 6, 6).to(dtype).requires_grad_()
    loss = build_loss({'type': 'FFTLoss'})(pred, torch.rand(1, 3, 6, 6))
    assert loss.dtype == torch.float32
    loss.backward()
    assert pred.grad.isfinite().all()
    assert pred.grad.abs().max() > 0


def test_charbonnier_is_basicsrs_own():
    pred = torch.rand(1, 3, 4, 4)
    loss = build_loss({'type': 'CharbonnierLoss', 'eps': 1e-6})
    assert loss(pred, pred + 0.5).item() == pytest.approx(0.5, rel=1e-4)
    assert loss(pred, pred).item() == pytest.approx(1e-3, rel=1e-4)
