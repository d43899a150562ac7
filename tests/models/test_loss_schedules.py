"""Factors on losses over the run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vmambair_arch.errors import UserError
from vmambair_arch.models.loss_schedules import LossSchedule, loss_schedules


def test_a_factor_is_linear_between_points_and_constant_beyond():
    schedule = LossSchedule('perceptual', [[10, 0], [20, 1], [30, 0.5]])
    assert [schedule(i) for i in (1, 10, 15, 20, 25, 30, 99)] == pytest.approx([0, 0, 0.5, 1, 0.75, 0.5, 0.5])


@given(st.dictionaries(st.integers(0, 1000), st.floats(0, 10), min_size=1), st.integers(0, 1001))
def test_a_factor_never_leaves_the_range_of_its_points(points, iteration):
    factor = LossSchedule('x', sorted(points.items()))(iteration)
    assert min(points.values()) - 1e-9 <= factor <= max(points.values()) + 1e-9


@pytest.mark.parametrize('wrong', [[], 3, None, [[1]], [[2, 1], [1, 1]], [[1, -1]], [[1, float('nan')]], ['ab', 'c']])
def test_what_is_no_schedule_is_named(wrong):
    with pytest.raises(UserError, match='loss_schedules: pixel must be'):
        loss_schedules({'pixel': wrong}, ['pixel'])


def test_a_schedule_for_no_loss_is_named():
    with pytest.raises(UserError, match=r"no loss 'percep_opt' \(did you mean 'perceptual'\?\); there are pixel, perc"):
        loss_schedules({'percep': [[0, 1]]}, ['pixel', 'perceptual'])


def test_a_loss_is_scaled_by_its_factor(build):
    model = build(loss_schedules={'pixel': [[1, 0.5], [3, 1]]})
    model.current_iter = 2
    output, batch = torch.zeros(1, 3, 8, 8), {'gt': torch.ones(1, 3, 8, 8)}
    assert model.restoration_losses(output, batch)['l_pix'].item() == pytest.approx(0.75)


def test_a_loss_may_have_any_name_and_none_replaces_another(build):
    """A loss of one term named as those of two, one of two terms under a name of its own, and two names for one."""

    class Two(torch.nn.Module):
        def forward(self, pred, target):
            return (pred - target).abs().mean(), None

    loss = {'type': 'L1Loss'}
    model = build(pixel_opt=loss, pix_opt=loss, perceptual_opt=loss, vgg_opt=loss)
    model.criteria['vgg'] = Two()
    image = torch.zeros(1, 3, 8, 8)
    terms = model.restoration_losses(image, {'gt': image + 0.5})
    assert {name: float(value) for name, value in terms.items()} == dict.fromkeys(
        ('l_pix', 'l_pix_2', 'l_percep', 'l_vgg'), 0.5
    )
