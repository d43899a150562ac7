"""Factors on losses that change over the run, as a perceptual loss that comes in when the pixels are right."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import UserError, nearest


class LossSchedule:
    """A factor that is linear between (iteration, factor) points and constant before the first and after the last.

    Args:
        name: of the loss, for messages.
        points: pairs, iterations rising.

    Raises:
        UserError: no pairs, iterations that do not rise, a factor that is negative or not finite.
    """

    def __init__(self, name: str, points: Any) -> None:
        try:
            pairs = [(float(iteration), float(factor)) for iteration, factor in points]
        except (TypeError, ValueError):
            pairs = []
        rising = all(a[0] < b[0] for a, b in zip(pairs, pairs[1:], strict=False))
        if not pairs or not rising or not all(math.isfinite(f) and f >= 0 for _, f in pairs):
            raise UserError(
                f'train: loss_schedules: {name} must be [[iteration, factor], ...] with rising iterations and factors '
                f'of 0 and above, not {points!r}'
            )
        self.iterations, self.factors = zip(*pairs, strict=True)

    def __call__(self, iteration: int) -> float:
        """The factor of an iteration."""
        i = bisect_right(self.iterations, iteration)
        if i in (0, len(self.iterations)):
            return self.factors[max(i - 1, 0)]
        left, right = self.iterations[i - 1], self.iterations[i]
        share = (iteration - left) / (right - left)
        return (1 - share) * self.factors[i - 1] + share * self.factors[i]


def loss_schedules(options: Mapping[str, Any], losses: Collection[str]) -> dict[str, LossSchedule]:
    """The schedules of `train: loss_schedules`, by the name of the loss without `_opt`.

    Raises:
        UserError: a schedule for a loss that is not there, or one that is none.
    """
    for name in options:
        if name not in losses:
            raise UserError(
                f"train: loss_schedules: there is no loss '{name}_opt'{nearest(str(name), list(losses))}; there are "
                + ', '.join(losses)
            )
    return {name: LossSchedule(name, points) for name, points in options.items()}
