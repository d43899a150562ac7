"""Every optimiser of torch by name, with the state-space parameters kept from weight decay."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import UserError, nearest

STATE_SPACE = ('A_logs', 'Ac_logs', 'Ds', 'Dsc')
"""Last parts of the names of A and D of the scans: decay would pull the time constants to 1 and the skip to 0."""

_UNFIT = ('Optimizer', 'LBFGS', 'SparseAdam')  # the base class; needs a closure; needs sparse gradients

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in _UNFIT
}
"""By the name that an option file gives as `optim_g: type`."""


def parameter_groups(parameters: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """Two groups, of which the second, A and D of the scans, does not decay; one where there are none of those."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in parameters:
        groups[name.rpartition('.')[2] not in STATE_SPACE].append(parameter)
    result: list[dict[str, Any]] = [{'params': groups[True]}]
    if groups[False]:
        result.append({'params': groups[False], 'weight_decay': 0.0})
    return result


def build_optimizer(parameters: Iterable[tuple[str, Tensor]], options: Mapping[str, Any]) -> Optimizer:
    """The optimiser of an option section: `type`, `lr` and what that class of `torch.optim` takes.

    `decay_state_space: true` lets A and D of the scans decay as well, as they do in the authors' runs.

    Raises:
        UserError: an unknown type, or arguments it does not take.
    """
    arguments = dict(options)
    name = arguments.pop('type')
    if name not in OPTIMIZERS:
        raise UserError(f"optimiser: torch.optim has no '{name}' for this{nearest(name, list(OPTIMIZERS))}")
    kind = OPTIMIZERS[name]
    default = inspect.signature(kind).parameters.get('weight_decay')
    decay = arguments.get('weight_decay', default.default if default else 0)
    parameters = list(parameters)
    if arguments.pop('decay_state_space', False) or not decay:
        groups = [{'params': [parameter for _, parameter in parameters]}]
    else:
        groups = parameter_groups(parameters)
    try:
        return kind(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f'optimiser: {name}: {error}') from None
