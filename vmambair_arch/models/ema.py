"""Averages of the weights over the iterations: one or several decays, with a warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

FIRST = 'params_ema'
"""The key of the first average in a checkpoint, which everybody who reads BasicSR's files knows."""


def decays(value: Any) -> tuple[float, ...]:
    """`ema_decay` of an option file, a number or a list: the first is `params_ema`; 0 averages nothing.

    Raises:
        UserError: not between 0 and 1, or one of them twice.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < 1 for v in values):
        raise UserError(f'train: ema_decay must lie between 0 and 1 (a list for several averages), not {value!r}')
    if len(set(values)) < len(values) or (len(values) > 1 and 0 in values):
        raise UserError(f'train: ema_decay names an average twice, or none: {value!r}')
    return tuple(float(v) for v in values if v)


def key_of(decay: float, first: float) -> str:
    """`params_ema` for the first average, `params_ema_0.9999` for another."""
    return FIRST if decay == first else f'{FIRST}_{decay:.12g}'


def follow(averages: list[Tensor], values: list[Tensor], share: float) -> None:
    """Move averages by `share` of their way to the values, in place; all the way with 1, exactly.

    Half the launches of BasicSR's `average * (1 - share) + value * share`, of which it differs by rounding: a weight
    that does not change is its own average to the bit here.
    """
    if averages:
        torch._foreach_lerp_(averages, values, share)


def _fits(stored: Tensor | None, own: Tensor) -> bool:
    return stored is not None and stored.shape == own.shape


class Averages:
    """Averages of one network's parameters beyond the first, which BasicSR keeps as `net_g_ema`.

    The decay of iteration t is min(decay, 1 - (1 + t / gamma) ** -power) where a power is given: an average over the
    whole run at first, which forgets the random start (as in timm's ModelEmaV3).

    Args:
        all_decays: of `decays`.
        power: of the warm-up, 0 for none; 2/3 reaches .999 after 31 600 iterations, 3/4 after 10 000.
        gamma: iterations that stretch the warm-up.
        start: the averages follow the weights exactly up to this iteration.
    """

    def __init__(self, all_decays: Sequence[float], power: float = 0, gamma: float = 1, start: int = 0) -> None:
        if not (0 <= power <= 1 and gamma > 0 and start >= 0):
            raise UserError(
                'train: ema_power must lie in 0..1, ema_gamma above 0 and ema_update_after_step at 0 or above, not '
                f'{power!r}, {gamma!r} and {start!r}'
            )
        self.decays, self.power, self.gamma, self.start = tuple(all_decays), power, gamma, start
        self.states: dict[str, dict[str, Tensor]] = {}

    def decay_at(self, iteration: int, decay: float) -> float:
        """The decay of an iteration, counted from 1: 0 copies the weights."""
        if iteration <= self.start:
            return 0.0
        if not self.power:
            return decay
        return min(decay, 1 - (1 + (iteration - self.start) / self.gamma) ** -self.power)

    def begin(self, network: nn.Module, stored: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        """Start from what a checkpoint stored by key, or from the weights as they are where it has none that fit."""
        for decay in self.decays[1:]:
            key = key_of(decay, self.decays[0])
            source = (stored or {}).get(key) or {}
            self.states[key] = {
                name: (source[name] if _fits(source.get(name), own) else own).detach().clone().to(own.device)
                for name, own in network.state_dict().items()
            }

    @torch.no_grad()
    def update(self, network: nn.Module, iteration: int) -> None:
        """After the step of `iteration`."""
        current = network.state_dict()
        for decay in self.decays[1:]:
            share = 1 - self.decay_at(iteration, decay)
            averages = self.states[key_of(decay, self.decays[0])]
            smooth = [name for name, average in averages.items() if average.is_floating_point()]
            follow(
                [averages[name] for name in smooth], [current[name].to(averages[name].dtype) for name in smooth], share
            )
            for name in averages.keys() - smooth:
                averages[name].copy_(current[name])
