"""Learning rates against Restormer's formula, BasicSR's classes and torch's."""

from __future__ import annotations

import pytest
import torch
from basicsr.models import lr_scheduler as basicsr_schedulers

from vmambair_arch.errors import UserError
from vmambair_arch.models.lr_schedulers import build_scheduler


def optimizer(lr: float = 3e-4) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def curve(scheduler: torch.optim.lr_scheduler.LRScheduler, iterations: int) -> list[float]:
    """The rate at each iteration from 0 on, stepped as BasicSR steps: not before the first."""
    rates = []
    for _ in range(iterations):
        rates.append(scheduler.optimizer.param_groups[0]['lr'])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_deraining_schedule_of_the_paper():
    """Restormer's deraining: held at 3e-4 for 92k, then a cosine to 1e-6 over 208k."""
    section = {
        'type': 'CosineAnnealingRestartCyclicLR',
        'periods': [92000, 208000],
        'restart_weights': [1, 1],
        'eta_mins': [0.0003, 0.000001],
    }
    scheduler = build_scheduler(optimizer(3e-4), section)
    for iteration in (0, 1, 46000, 92000):
        assert scheduler.rate(3e-4, iteration) == pytest.approx(3e-4, rel=1e-12)
    assert scheduler.rate(3e-4, 92000 + 104000) == pytest.approx((3e-4 + 1e-6) / 2)
    assert scheduler.rate(3e-4, 300000) == pytest.approx(1e-6)


@pytest.mark.parametrize('weights', [[1, 1, 1], [1, 0.5, 0.25]])
def test_cyclic_cosine_is_basicsrs_cosine_with_an_end_value_for_each_cycle(weights):
    """Restormer has `eta_mins[cycle]` where BasicSR has `eta_min`, else they are one formula."""
    periods, eta_mins = [7, 11, 5], [2e-4, 1e-5, 1e-6]
    ours = curve(
        build_scheduler(
            optimizer(),
            {
                'type': 'CosineAnnealingRestartCyclicLR',
                'periods': periods,
                'restart_weights': weights,
                'eta_mins': eta_mins,
            },
        ),
        24,
    )
    theirs = [
        curve(basicsr_schedulers.CosineAnnealingRestartLR(optimizer(), periods, weights, eta_min), 23)
        for eta_min in eta_mins
    ]
    cycles = [0] * 8 + [1] * 11 + [2] * 4
    assert ours[:23] == [theirs[cycle][i] for i, cycle in enumerate(cycles)]


def test_last_value_is_held_past_the_last_cycle():
    """The released option file with periods of 144k and 156k iterations: Restormer's class crashes at 144 002."""
    scheduler = build_scheduler(
        optimizer(1e-4),
        {
            'type': 'CosineAnnealingRestartCyclicLR',
            'periods': [3, 4],
            'restart_weights': [1, 1],
            'eta_mins': [2.85e-4, 1e-6],
        },
    )
    rates = curve(scheduler, 12)
    assert rates[3] == pytest.approx(2.85e-4)  # an end value above the rate: it rises first
    assert rates[7:] == [pytest.approx(1e-6)] * 5


@pytest.mark.parametrize(
    'section',
    [
        {'type': 'MultiStepLR', 'milestones': [3, 5, 5, 9], 'gamma': 0.5},
        {'type': 'MultiStepRestartLR', 'milestones': [2, 4, 8], 'restarts': [0, 6], 'restart_weights': [1, 0.5]},
        {'type': 'CosineAnnealingRestartLR', 'periods': [5, 7], 'restart_weights': [1, 0.5], 'eta_min': 1e-6},
    ],
)
def test_basicsrs_schedules(section):
    arguments = {key: value for key, value in section.items() if key != 'type'}
    name = 'MultiStepRestartLR' if 'MultiStep' in section['type'] else section['type']
    theirs = getattr(basicsr_schedulers, name)(optimizer(), **arguments)
    assert curve(build_scheduler(optimizer(), section), 12) == pytest.approx(curve(theirs, 12), rel=1e-12)


def test_resume_takes_the_position_from_the_state_and_the_curve_from_the_options():
    section = {'type': 'MultiStepLR', 'milestones': [4, 8], 'gamma': 0.5}
    whole = curve(build_scheduler(optimizer(), section), 10)
    first = build_scheduler(optimizer(), section)
    curve(first, 6)
    second = build_scheduler(optimizer(), section)
    second.load_state_dict(first.state_dict())
    second.step()
    assert curve(second, 3) == whole[7:]
    longer = build_scheduler(optimizer(), section | {'milestones': [4, 7]})
    longer.load_state_dict(first.state_dict())
    longer.step()
    assert longer.get_last_lr() == [whole[8]]


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'type': 'CosineAnealingRestartLR', 'periods': [1]}, "did you mean 'CosineAnnealingRestartLR'"),
        (
            {'type': 'CosineAnnealingRestartCyclicLR', 'periods': [1, 2], 'eta_mins': [0]},
            'eta_mins has 1 entries',
        ),
        ({'type': 'CosineAnnealingRestartCyclicLR', 'periods': [0]}, 'periods must be positive'),
        ({'type': 'MultiStepLR', 'milestone': [1]}, "unexpected keyword argument 'milestone'"),
    ],
)
def test_faults_are_named(section, message):
    with pytest.raises(UserError, match=message):
        build_scheduler(optimizer(), section)
