"""What a run builds from its options before the first iteration: networks, optimisers, schedulers, checkpoints."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .elsewhere import type_hint
from .report import Report
from .sections import Options, check_arguments, errors_of, look_up, typed_section

BASICSR_SCHEDULERS = ('MultiStepLR', 'MultiStepRestartLR', 'CosineAnnealingRestartLR')


def check_networks(options: Options, report: Report) -> dict[str, nn.Module]:
    """Build every network without memory for its parameters; those that can be built, by label (`g`)."""
    from basicsr.utils.registry import ARCH_REGISTRY

    networks: dict[str, nn.Module] = {}
    for key, section in options.items():
        if not str(key).startswith('network_') or not isinstance(section, Mapping):
            continue
        named = typed_section(section, ARCH_REGISTRY, key, report)
        if not named or not check_arguments(*named, key, report):
            continue
        arch, arguments = named
        network, complaint = _build(arch, arguments)
        if network is None:
            report.faults.append(f'{key}: {complaint}')
            continue
        networks[key.removeprefix('network_')] = network
        scale, built = options.get('scale', 1), getattr(network, 'scale', getattr(network, 'upscale', None))
        if key == 'network_g' and type(built) is int and built != scale:
            report.faults.append(
                f'scale: {scale}, but network_g enlarges {built} times; make them one'
                if 'scale' in options
                else f"key 'scale' is missing: network_g enlarges {built} times; write scale: {built}"
            )
    return networks


def _build(arch: type[nn.Module], arguments: dict[str, Any]) -> tuple[nn.Module | None, str]:
    """A network without memory for its parameters, or with it where its constructor wants numbers, and no complaint."""
    try:
        with torch.device('meta'):
            return arch(**arguments), ''
    except Exception:  # what is really wrong with it, if anything, shows again
        return errors_of(lambda: arch(**arguments))


def check_pretrained(options: Options, networks: Mapping[str, nn.Module], report: Report) -> None:
    """Files that the networks start from: there, readable, and of these networks."""
    from ..checkpoints.load import asked_set, compare, read_checkpoint

    paths = options.get('path')
    if not isinstance(paths, Mapping):
        return
    for key, source in paths.items():
        label = str(key).removeprefix('pretrain_network_')
        if label == key or not source:
            continue
        where = f'path: {key}'
        checkpoint, complaint = errors_of(
            lambda source, label: read_checkpoint(str(source), asked_set(paths, label)), source, label
        )
        if complaint:
            report.faults.append(f'{where}: {complaint}')
            continue
        if checkpoint.said:
            report.facts.append(f'{where}: {source}: {checkpoint.said}')
        if label in networks:
            fit = compare(networks[label].state_dict(), checkpoint.state_dict)
            if fault := fit.fault(paths.get(f'strict_load_{label}', True)):
                report.faults.append(f'{where}: {source} {fault}')
            elif fit.left_out:
                report.warnings.append(f'{where}: {source}: left out: {fit.left_out}')


def check_optimizers(options: Options, model: type | None, gpus: int, report: Report) -> None:
    """`optim_*` and `scheduler*` of section `train`, and what the learning rate will do.

    Args:
        options: with a section `train`.
        model: that they name; None where that is unknown.
        gpus: of one process.
        report: gets what is wrong.
    """
    from ..models.vmambair_model import VmambaIRModel

    train = options['train']
    ours = model is None or issubclass(model, VmambaIRModel)  # an unknown model may be one that knows them all
    for key, section in train.items():
        if not str(key).startswith('optim_') or section is None:
            continue
        optimizer = _optimizer(section, f'train: {key}', ours, gpus, report)
        label = key.removeprefix('optim_')
        name = f'scheduler_{label}' if ours and train.get(f'scheduler_{label}') else 'scheduler'
        if optimizer is not None and isinstance(train.get(name), Mapping):
            _check_scheduler(train[name], optimizer, f'train: {name}', ours, int(train['total_iter']), report)


def _optimizer(section: Any, where: str, ours: bool, gpus: int, report: Report) -> torch.optim.Optimizer | None:
    from ..models.optimizers import OPTIMIZERS, PACKAGES, build_optimizer

    known = OPTIMIZERS if ours else {'Adam': torch.optim.Adam}
    if not isinstance(section, Mapping) or 'type' not in section:
        report.faults.append(f'{where}: type is missing')
        return None
    name = section['type']
    if not isinstance(name, str) or name not in known:
        hint = '; this model knows Adam, VmambaIRModel all of torch.optim and timm.optim'
        if ours:
            package = PACKAGES.get(str(name))
            hint = f': pip install {package}' if package else type_hint('optimizer', str(name), list(known))
        report.faults.append(f"{where}: there is no '{name}'{hint}")
        return None
    own = ('type', 'decay_state_space') if ours else ('type',)  # which our models take out before
    given = {key: value for key, value in section.items() if key not in own}
    if not ours and 'lr' not in given:
        report.faults.append(f'{where}: lr is missing')
    if not check_arguments(known[name], given, where, report, supplied=('params',)):
        return None
    for key, parameter in inspect.signature(known[name]).parameters.items():
        count = len(parameter.default) if isinstance(parameter.default, tuple) else 0
        if key in given and count and len(given[key]) != count:
            report.faults.append(f'{where}: {key} must be a list of {count} for {name}, not {given[key]!r}')
            return None
    if given.get('capturable') and not gpus:  # dies at the first step, which is tried without it below
        report.faults.append(f'{where}: capturable is for a GPU, and this run uses none; leave it out')
        return None
    arguments = {**section} if ours else {'type': name, **given}
    weight = nn.Parameter(torch.zeros(1))
    optimizer, complaint = errors_of(lambda: build_optimizer([('weight', weight)], arguments))
    if not complaint:
        _, complaint = errors_of(_try_steps, arguments)
    if complaint:
        report.faults.append(f'{where}: {complaint}')
    return optimizer


def _try_steps(arguments: Options) -> None:
    """Two steps on a vector, a matrix and a convolution: what the first iterations would end with shows now.

    Raises:
        ValueError: weights are not finite afterwards; whatever the optimiser itself raises.
    """
    from ..models.optimizers import build_optimizer, training

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        shapes = {'norm.weight': (4,), 'linear.weight': (4, 8), 'conv.weight': (8, 4, 3, 3), 'A_logs': (4, 2)}
        weights = {name: nn.Parameter(torch.rand(shape, generator=generator)) for name, shape in shapes.items()}
        # The steps are tried on the CPU, where `capturable`, which is for CUDA graphs, is refused.
        on_cpu = {key: value for key, value in arguments.items() if key != 'capturable'}
        optimizer = build_optimizer(weights.items(), on_cpu)
        training([optimizer])
        for _ in range(2):
            for weight in weights.values():
                weight.grad = torch.rand(weight.shape, generator=generator) - 0.5
            optimizer.step()
        bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    if bad:
        raise ValueError('weights are not finite after two steps; take a smaller lr, or an eps above 0')


def _check_scheduler(
    section: Options, optimizer: torch.optim.Optimizer, where: str, ours: bool, total: int, report: Report
) -> None:
    from ..models.lr_schedulers import SCHEDULERS, build_scheduler

    known = list(SCHEDULERS) if ours else list(BASICSR_SCHEDULERS)
    name = section.get('type')
    if not isinstance(name, str) or name not in known:
        hint = type_hint('scheduler', str(name), known) or '; there are ' + ', '.join(known)
        fault = f"{where}: there is no '{name}'{hint}"
        if fault not in report.faults:  # several optimisers may share it
            report.faults.append(fault)
        return
    given = {key: value for key, value in section.items() if key != 'type'}
    if not check_arguments(SCHEDULERS[name], given, where, report, supplied=('optimizer', 'last_epoch')):
        return
    scheduler, complaint = errors_of(lambda: build_scheduler(optimizer, section))
    if complaint:
        report.faults.append(f'{where}: {complaint.removeprefix("scheduler: ")}')
        return
    base = optimizer.param_groups[0]['initial_lr']
    if 'periods' in given:
        _check_periods(list(given['periods']), scheduler, base, where, ours, total, report)
    late = [milestone for milestone in given.get('milestones', ()) if milestone > total]
    if late:
        report.warnings.append(
            f'{where}: milestones {late} are beyond total_iter {total}: the rate does not fall there'
        )


def _check_periods(
    periods: list[int], scheduler: Any, base: float, where: str, ours: bool, total: int, report: Report
) -> None:
    """Periods that do not add up to the run: allowed, but the rate is not what the file seems to say."""
    end, last = sum(periods), scheduler.rate(base, total - 1)
    short = end < total - 1  # the last iteration is trained with the rate of total - 1
    if short and ours:
        report.warnings.append(
            f'{where}: periods add up to {end}, total_iter is {total}: the rate stays at {last:.3g} from {end} on'
        )
    elif short:
        report.faults.append(
            f'{where}: periods add up to {end}, total_iter is {total}: BasicSR stops with an error at {end + 2}; '
            'make them one, or take model_type: VmambaIRModel'
        )
    elif end > total:
        report.warnings.append(
            f'{where}: periods add up to {end}, total_iter is {total}: the run ends at a rate of {last:.3g}, '
            f'before the last period reaches {scheduler.rate(base, end):.3g}'
        )


def check_model(options: Options, model: type | None, report: Report) -> None:
    """What a model of ours says itself, in `check_options`, once all that it reads is there."""
    check: Callable[[Options], None] | None = getattr(model, 'check_options', None)
    if check is None:
        return
    before = bool(report.faults)
    try:
        check(options)
    except UserError as error:
        place = ': '.join(re.split(r': | ', str(error))[:2])  # a value of the wrong kind was refused by its rule
        if not report.has(place) and not any(str(error) in fault for fault in report.faults):
            report.faults.append(str(error))
    except Exception as error:  # over what was refused above; else it is what the run would meet
        if not before:
            report.faults.append(f'{error} ({type(error).__name__})')


def model_class(options: Options) -> type | None:
    """The model that a file names, or None."""
    from basicsr.utils.registry import MODEL_REGISTRY

    return look_up(MODEL_REGISTRY, options.get('model_type'), 'model_type', Report(''))


def describe(options: Options, networks: Mapping[str, nn.Module], report: Report) -> None:
    for label, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        report.facts.append(f'network_{label}: {type(network).__name__}, {count:,} parameters')
