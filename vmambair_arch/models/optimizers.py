"""Optimisers by name: torch's, timm's, and those of the extra `optim`; the state space is kept from weight decay."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import UserError, nearest
from ..host import computes_in_bf16

STATE_SPACE = ('A_logs', 'Ac_logs', 'Ds', 'Dsc')
"""Last parts of the names of A and D of the scans: decay would pull the time constants to 1 and the skip to 0."""

_UNFIT = ('Optimizer', 'LBFGS', 'SparseAdam', 'Muon')
"""The base class; needs a closure; needs sparse gradients; refuses all but matrices (timm's Muon takes the rest)."""

_TIMM = (
    'AdaBelief', 'AdafactorBigVision', 'AdamP', 'Adan', 'Adopt', 'Kron', 'LaProp', 'Lamb', 'Lars', 'Lion', 'MADGRAD',
    'Mars', 'Muon', 'NAdamW', 'NvNovoGrad', 'RMSpropTF', 'SGDP', 'SGDW',
)  # fmt: skip
"""Of `timm.optim`, those that torch does not have and that need no second derivatives and no GPU."""

PACKAGES = {
    'AdamWScheduleFree': 'schedulefree',
    'RAdamScheduleFree': 'schedulefree',
    'SGDScheduleFree': 'schedulefree',
    'SOAP': 'pytorch_optimizer',
}
"""Of packages that the extra `optim` installs, by the optimiser."""

_BY_ADAMW = ('patch_embed.', 'conv_first.', 'output.', 'tail.', 'conv_last.', *STATE_SPACE)
"""Parts of names whose parameters Muon leaves to AdamW: first and last layers (as in Muon's own recipe), A and D."""


def _torch_optimizers() -> dict[str, type[Optimizer]]:
    return {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in _UNFIT
    }


def _installed(package: str, names: Iterable[str]) -> dict[str, type[Optimizer]]:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        return {}
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


OPTIMIZERS: dict[str, type[Optimizer]] = {
    **_torch_optimizers(),
    **_installed('timm.optim', _TIMM),
    **{name: kind for name, package in PACKAGES.items() for kind in _installed(package, (name,)).values()},
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


def muon_groups(parameters: Iterable[tuple[str, Tensor]], spare_state_space: bool) -> list[dict[str, Any]]:
    """Matrices for Muon, everything else for the AdamW beside it.

    Args:
        parameters: by name.
        spare_state_space: A and D do not decay.

    Returns:
        Up to three groups. Muon takes linear layers and convolutions that mix channels (m, n[, kh, kw]). The stacked
        projections of the scans (K, m, n), depthwise kernels, vectors, first and last layers are AdamW's.
    """
    groups: dict[str, list[Tensor]] = {'muon': [], 'adamw': [], 'still': []}
    for name, parameter in parameters:
        mixes = name.endswith('weight') and parameter.ndim in (2, 4) and min(parameter.shape[:2]) > 1
        if spare_state_space and name.rpartition('.')[2] in STATE_SPACE:
            groups['still'].append(parameter)
        else:
            groups['muon' if mixes and not any(part in name for part in _BY_ADAMW) else 'adamw'].append(parameter)
    settings: dict[str, dict[str, Any]] = {
        'muon': {},
        'adamw': {'use_fallback': True},
        'still': {'use_fallback': True, 'weight_decay': 0.0},
    }
    return [{'params': groups[key], **more} for key, more in settings.items() if groups[key]]


def _in_single_precision(muon: type[Optimizer]) -> type[Optimizer]:
    """timm's Muon with its Newton-Schulz iteration in float32. timm has bfloat16 without a choice, in which a step of
    `light` takes fifteen times as long (1.57 instead of 0.11 s) on a processor that only imitates it."""
    module: Any = importlib.import_module(muon.__module__)
    iteration: Any = getattr(module, 'zeropower_via_newtonschulz', None)
    if iteration is None:  # another version of timm
        return muon

    class Muon(muon):  # type: ignore[misc, valid-type]
        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            module.zeropower_via_newtonschulz = partial(iteration, dtype=torch.float32)
            try:
                loss: float | None = super().step(closure)
            finally:
                module.zeropower_via_newtonschulz = iteration
            return loss

    return Muon


def _can_fuse(kind: type[Optimizer], arguments: Mapping[str, Any], groups: list[dict[str, Any]]) -> bool:
    """Whether torch has the step of all parameters as one call on a CPU, where otherwise it loops over them."""
    takes = inspect.signature(kind).parameters
    said = {'fused', 'foreach', 'differentiable', 'capturable'} & arguments.keys()
    parameters = [parameter for group in groups for parameter in group['params']]
    return (
        kind.__module__.startswith('torch.optim')
        and 'fused' in takes
        and not said
        and all(p.device.type == 'cpu' and p.dtype in (torch.float32, torch.float64) for p in parameters)
    )


def build_optimizer(parameters: Iterable[tuple[str, Tensor]], options: Mapping[str, Any]) -> Optimizer:
    """The optimiser of an option section: `type`, `lr` and what that class takes.

    On a CPU the fused form of the class is used where there is one: the same step in one call.
    `decay_state_space: true` lets A and D of the scans decay as well, as they do in the authors' runs. `Muon` is timm's
    hybrid (see `muon_groups`); with its default `adjust_lr_fn` one `lr`, that of AdamW, is right for both halves.

    Raises:
        UserError: an unknown type, or arguments it does not take.
    """
    arguments = dict(options)
    name = arguments.pop('type')
    if name not in OPTIMIZERS:
        if name in PACKAGES:
            raise UserError(f'optimiser: {name} needs {PACKAGES[name]}; pip install {PACKAGES[name]}')
        raise UserError(f"optimiser: there is no '{name}'{nearest(str(name), list(OPTIMIZERS))}")
    kind = OPTIMIZERS[name]
    default = inspect.signature(kind).parameters.get('weight_decay')
    decay = arguments.get('weight_decay', default.default if default else 0)
    parameters = list(parameters)
    spare = not arguments.pop('decay_state_space', False) and bool(decay)
    if name == 'Muon':
        groups = muon_groups(parameters, spare)
        if not computes_in_bf16() and any(parameter.device.type == 'cpu' for _, parameter in parameters):
            kind = _in_single_precision(kind)
    elif spare:
        groups = parameter_groups(parameters)
    else:
        groups = [{'params': [parameter for _, parameter in parameters]}]
    if _can_fuse(kind, arguments, groups):
        arguments['fused'] = True
    try:
        return kind(groups, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f'optimiser: {name}: {" ".join(str(error).split())}') from None


def settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the options said of each group: its rate, decay and the like, and nothing that is counted while training."""
    names = {*inspect.signature(type(optimizer)).parameters, 'initial_lr', 'use_fallback'} - {'params'}
    return [{key: value for key, value in group.items() if key in names} for group in optimizer.param_groups]


def _schedule_free(optimizer: Optimizer) -> bool:
    """Whether an optimiser has one point for gradients and another to evaluate (arXiv 2405.15682)."""
    return hasattr(optimizer, 'train') and hasattr(optimizer, 'eval')


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group['params']]


def training(optimizers: Sequence[Optimizer], points: Sequence[Sequence[Tensor]] = ()) -> None:
    """Turn schedule-free optimisers to the point at which gradients are taken.

    Args:
        optimizers: others are left alone.
        points: for each optimiser what `evaluated` gave, the very point; computed, it differs in the last bits. None
            at all, or none for an optimiser: it is computed.
    """
    for i, optimizer in enumerate(optimizers):
        if _schedule_free(optimizer):
            cast(Any, optimizer).train()
            if i < len(points) and points[i]:
                with torch.no_grad():
                    for parameter, value in zip(_parameters(optimizer), points[i], strict=True):
                        parameter.copy_(value)


@contextmanager
def evaluated(optimizers: Sequence[Optimizer]) -> Iterator[list[list[Tensor]]]:
    """Inside, the parameters of schedule-free optimisers are the average that is evaluated and saved. Afterwards they
    are, to the last bit, what they were.

    Yields:
        For each optimiser copies of its parameters as they are trained; none for one that is not schedule-free.
    """
    points: list[list[Tensor]] = []
    for optimizer in optimizers:
        points.append([p.detach().clone() for p in _parameters(optimizer)] if _schedule_free(optimizer) else [])
    for optimizer in optimizers:
        if _schedule_free(optimizer):
            cast(Any, optimizer).eval()
    try:
        yield points
    finally:
        training(optimizers, points)
