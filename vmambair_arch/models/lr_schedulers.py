"""Learning rates as functions of the iteration alone: a resume needs nothing but the iteration to continue them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import UserError, nearest


class LearningRateCurve(LRScheduler):
    """Base: subclasses give the rate at an iteration. Only the position is saved, the curve is that of the options.

    Iteration 0 is the first one trained: BasicSR steps before every iteration but the first.
    """

    def rate(self, base_lr: float, iteration: int) -> float:
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        with warnings.catch_warnings():
            # Torch takes a first step of the optimiser that was skipped for a NaN for a wrong order of calls.
            warnings.filterwarnings('ignore', 'Detected call of `lr_scheduler.step')
            super().step(epoch)

    def get_lr(self) -> list[float | Tensor]:
        return [self.rate(float(base_lr), self.last_epoch) for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {'last_epoch': self.last_epoch, '_step_count': self._step_count, '_last_lr': list(self._last_lr)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        # A state that plain BasicSR saved holds its own curve too, which would replace ours.
        super().load_state_dict({key: state_dict[key] for key in self.state_dict()})


class CosineAnnealingRestartCyclicLR(LearningRateCurve):
    """Cosine cycles, each with its own end value: Restormer's schedule, which the paper trains deraining with.

    In cycle i, which begins after sum(periods[:i]) iterations, t iterations in::

        eta_mins[i] + restart_weights[i] * (lr - eta_mins[i]) * (1 + cos(pi * t / periods[i])) / 2

    The iteration at which two cycles meet belongs to the earlier one. Past the last cycle its last value is held.

    Args:
        optimizer: whose `lr` is the rate at the start of a cycle of weight 1.
        periods: iterations of each cycle.
        restart_weights: factor of each cycle; default 1.
        eta_mins: rate at the end of each cycle; default 0.

    Raises:
        UserError: the lists differ in length, or a period is not positive.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        periods: Sequence[int],
        restart_weights: Sequence[float] | None = None,
        eta_mins: Sequence[float] | None = None,
    ) -> None:
        self.periods = list(periods)
        self.restart_weights = [1.0] * len(self.periods) if restart_weights is None else list(restart_weights)
        self.eta_mins = [0.0] * len(self.periods) if eta_mins is None else list(eta_mins)
        if not self.periods or min(self.periods) <= 0:
            raise UserError(f'scheduler: periods must be positive numbers of iterations, got {self.periods}')
        for name in ('restart_weights', 'eta_mins'):
            if len(values := getattr(self, name)) != len(self.periods):
                raise UserError(f'scheduler: {name} has {len(values)} entries for {len(self.periods)} periods')
        self.ends = list(accumulate(self.periods))
        super().__init__(optimizer)

    def rate(self, base_lr: float, iteration: int) -> float:
        iteration = min(iteration, self.ends[-1])
        cycle = next(i for i, end in enumerate(self.ends) if iteration <= end)
        period, weight, eta_min = self.periods[cycle], self.restart_weights[cycle], self.eta_mins[cycle]
        position = iteration - (self.ends[cycle] - period)
        return eta_min + weight * 0.5 * (base_lr - eta_min) * (1 + math.cos(math.pi * (position / period)))


class CosineAnnealingRestartLR(CosineAnnealingRestartCyclicLR):
    """BasicSR's cosine cycles, which share one end value `eta_min`; the last value is held past the end."""

    def __init__(
        self,
        optimizer: Optimizer,
        periods: Sequence[int],
        restart_weights: Sequence[float] = (1,),
        eta_min: float = 0,
    ) -> None:
        super().__init__(optimizer, periods, restart_weights, [eta_min] * len(periods))


class MultiStepRestartLR(LearningRateCurve):
    """BasicSR's steps: times `gamma` at every milestone, back to `lr` times its weight at every restart.

    Args:
        milestones: iterations; a repeated one counts twice, one at a restart or before it does not count.
        gamma: factor of a milestone.
        restarts, restart_weights: iterations, and the factor of `lr` at each.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        restarts: Sequence[int] = (0,),
        restart_weights: Sequence[float] = (1,),
    ) -> None:
        if len(restarts) != len(restart_weights):
            raise UserError(f'scheduler: {len(restart_weights)} restart_weights for {len(restarts)} restarts')
        self.milestones, self.gamma = list(milestones), gamma
        self.restarts = dict(zip(restarts, restart_weights, strict=True))
        super().__init__(optimizer)

    def rate(self, base_lr: float, iteration: int) -> float:
        restart = max((r for r in self.restarts if r <= iteration), default=-1)
        drops = sum(restart < milestone <= iteration for milestone in self.milestones)
        return base_lr * self.restarts.get(restart, 1) * self.gamma**drops


SCHEDULERS: dict[str, type[LearningRateCurve]] = {
    'CosineAnnealingRestartCyclicLR': CosineAnnealingRestartCyclicLR,
    'CosineAnnealingRestartLR': CosineAnnealingRestartLR,
    'MultiStepLR': MultiStepRestartLR,
    'MultiStepRestartLR': MultiStepRestartLR,
}
"""By the name that an option file gives as `scheduler: type`."""


def build_scheduler(optimizer: Optimizer, options: Mapping[str, Any]) -> LearningRateCurve:
    """The scheduler of an option section: `type` and its arguments.

    Raises:
        UserError: an unknown type, or arguments it does not take.
    """
    arguments = dict(options)
    name = arguments.pop('type')
    if name not in SCHEDULERS:
        known = ', '.join(SCHEDULERS)
        raise UserError(f"scheduler: unknown type '{name}'{nearest(name, list(SCHEDULERS))}; there are {known}")
    try:
        return SCHEDULERS[name](optimizer, **arguments)
    except TypeError as error:
        raise UserError(f'scheduler: {name}: {error}') from None
