"""The loss against the grid of pixel shuffle: blind to photographs and to noise, not to a pattern of one level."""

from __future__ import annotations

import pytest
import torch

import vmambair_arch  # noqa: F401  # before basicsr, which it fixes

# isort: split
from basicsr.losses import build_loss


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_grid(image: torch.Tensor, level: float, period: int = 4) -> torch.Tensor:
    image = image.clone()
    image[..., ::period, ::period] += level
    return image


def test_a_faint_grid_costs_more_than_strong_noise():
    loss = build_loss({'type': 'GridLoss'})
    target = torch.rand(2, 3, 96, 96)
    grid = loss(with_grid(target, 4 / 255), target).item()
    assert loss(target, target).item() == 0
    assert grid == pytest.approx(2 * loss(with_grid(target, 2 / 255), target).item(), rel=1e-3)
    assert grid > loss(target + 4 / 255 * noise(2, 3, 96, 96), target).item()
    assert build_loss({'type': 'GridLoss', 'loss_weight': 3.0})(with_grid(target, 4 / 255), target).item() == (
        pytest.approx(3 * grid, rel=1e-5)
    )


def test_a_step_down_the_gradient_takes_the_grid_away():
    loss = build_loss({'type': 'GridLoss'})
    target = torch.full((1, 3, 64, 64), 0.5)
    pred = with_grid(target, 0.04).requires_grad_()
    optimizer = torch.optim.SGD([pred], lr=1.0)
    before = loss(pred, target).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss(pred, target).backward()
        optimizer.step()
    assert loss(pred, target).item() < 0.5 * before


@pytest.mark.parametrize(('height', 'width', 'period'), [(4, 4, 4), (33, 47, 4), (64, 64, 2), (9, 30, 3)])
def test_any_size_of_at_least_a_cell_has_a_finite_gradient(height, width, period):
    pred = torch.rand(1, 3, height, width, requires_grad=True)
    build_loss({'type': 'GridLoss', 'period': period})(pred, torch.rand(1, 3, height, width)).backward()
    assert pred.grad.isfinite().all()
    assert pred.grad.abs().max() > 0
