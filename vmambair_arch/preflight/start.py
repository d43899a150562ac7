"""Where a run starts: from scratch, and what is in its way then, or from a state."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from .keys import keys_read_by
from .report import Report
from .sections import Options, errors_of, is_ours

if TYPE_CHECKING:
    import torch

MODELS_THAT_DRAW = ('RealESRGANModel', 'RealESRNetModel', 'StyleGAN2Model')
"""Models of BasicSR that draw random numbers in their steps; its others do not."""


def check_start(
    options: Options,
    arguments: argparse.Namespace,
    networks: Mapping[str, nn.Module],
    model: type | None,
    report: Report,
) -> int:
    """The iteration that a run starts from: that of the state which it resumes, else 0.

    The state is read as the run will read it, and must be one of the networks and optimisers that the options name.
    BasicSR moves away what is in the folder of a new experiment; that is a warning.
    """
    from ..models.checkpointing import saved_iterations
    from ..models.states import find_start, misfit
    from ..models.vmambair_model import VmambaIRModel

    folder = Path('experiments') / str(options.get('name', ''))
    total = int(options['train']['total_iter'])
    start, complaint = errors_of(find_start, options, folder, arguments.auto_resume, report.warnings.append)
    if complaint:
        report.faults.append(complaint)
        return 0
    if start is not None:
        whose = folder if start.inside else start.path
        if fault := misfit(start, networks, _optimizers(options, networks, model)):
            report.faults.append(fault)
        elif start.iteration > total:
            report.faults.append(
                f'{whose} is at iteration {start.iteration}, beyond train: total_iter {total}; raise it'
            )
        elif start.iteration == total:
            report.warnings.append(f'{whose} is complete: iteration {total} of {total}; nothing is left to train')
        else:
            _check_exactness(options, networks, model, report)
            if isinstance(model, type) and issubclass(model, VmambaIRModel):
                left, _ = errors_of(model.left_of_state, options, start.state)
                if left:
                    report.warnings.append(f'{whose}: {left}')
        if start.inside:
            return start.iteration
        report.warnings.append(f'{start.path} is of another experiment, which this run goes on with as {folder}')
    if folder.is_dir() and folder.resolve() in Path(arguments.opt).resolve().parents:
        report.faults.append(f'{arguments.opt} lies in {folder}, which a new run moves away; copy it elsewhere')
    elif folder.is_dir():
        newest = max(saved_iterations(folder / 'training_states'), default=0)
        state = f', at iteration {newest}' if newest else ''
        report.warnings.append(
            f'{folder} is there{state}; it is moved to {folder}_archived_<time>. To go on with it: --auto_resume'
        )
    return start.iteration if start else 0


def _optimizers(
    options: Options, networks: Mapping[str, nn.Module], model: type | None
) -> dict[str, torch.optim.Optimizer] | None:
    """The optimisers of a run by their sections, in the order of its states; None where they cannot be known."""
    import torch
    from basicsr.models.sr_model import SRModel
    from basicsr.models.srgan_model import SRGANModel

    from ..models.optimizers import build_optimizer
    from ..models.vmambair_model import VmambaIRModel

    setup = getattr(model, 'setup_optimizers', None)
    ours = False
    labels: tuple[str, ...]
    if model is not None and issubclass(model, VmambaIRModel):
        ours, labels = True, model.labels
    elif setup in (SRModel.setup_optimizers, SRGANModel.setup_optimizers):
        labels = ('g', 'd') if setup is SRGANModel.setup_optimizers else ('g',)
    else:
        return None
    optimizers = {}
    for label in labels:
        section = options['train'].get(f'optim_{label}')
        if label not in networks or not isinstance(section, Mapping):
            return None
        parameters = [(name, p) for name, p in networks[label].named_parameters() if p.requires_grad]
        if ours:
            optimizer, complaint = errors_of(build_optimizer, parameters, section)
        else:
            settings = {key: value for key, value in section.items() if key != 'type'}
            optimizer, complaint = errors_of(torch.optim.Adam, [p for _, p in parameters], **settings)
        if complaint:  # which has been said
            return None
        optimizers[f'optim_{label}'] = optimizer
    return optimizers


def _check_exactness(options: Options, networks: Mapping[str, nn.Module], model: type | None, report: Report) -> None:
    """Warn where a resumed run is another than the uninterrupted one: data go on exactly, models of others may not."""
    if options.get('manual_seed') is None:
        report.warnings.append('manual_seed is not set: what is drawn after a resume is not what would have been drawn')
    if model is None or is_ours(model):
        return
    draws = [f'network_{label}' for label, network in networks.items() if _drops_out(network)]
    pool = _has_pool(model)
    if model.__name__ in MODELS_THAT_DRAW or not model.__module__.startswith('basicsr.'):
        draws.insert(0, f'model_type {model.__name__}')
    if draws or pool:
        begins = ', and its pool of pairs (queue_size) begins empty' if pool else ''
        report.warnings.append(
            f'a resume goes on with the same data, but not exactly: the states of {model.__name__} do not hold the '
            f'random generators that {" and ".join(draws)} may draw from{begins}; those of VmambaIR models do'
        )


def _has_pool(model: type) -> bool:
    return keys_read_by(model, opt=()).knows((), 'queue_size')


def _drops_out(network: nn.Module) -> bool:
    return any(
        isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 or getattr(module, 'drop_prob', 0)
        for module in network.modules()
    )


def check_folders(options: Options, training: bool, report: Report) -> None:
    """Whether what a run writes can be written: experiments and logs, or results."""
    logger = options.get('logger')
    folders = [Path('experiments' if training else 'results') / str(options.get('name', ''))]
    if training and isinstance(logger, Mapping) and logger.get('use_tb_logger'):
        folders.append(Path('tb_logger') / str(options.get('name', '')))
    for folder in folders:
        there = nearest(folder)
        above = there.parent if there == folder else there  # a run moves the folder of one before away
        if not there.is_dir():
            report.faults.append(f'{there} is there and is no folder, where {folder} is to be written; move it away')
        elif not os.access(above, os.W_OK | os.X_OK):
            report.faults.append(f'{folder} cannot be written: no permission in {above.resolve()}')


def nearest(folder: Path) -> Path:
    """A folder below the current one, or where it is not there the nearest above it; links that lead nowhere count."""
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place) or place == Path())


def check_loggers(options: Options, report: Report) -> None:
    """TensorBoard and Weights & Biases: there, if they are asked for."""
    logger = options['logger']
    wanted = {'tensorboard': logger.get('use_tb_logger')}
    wandb = logger.get('wandb')
    project = wandb.get('project') if isinstance(wandb, Mapping) else None
    if project:
        wanted['wandb'] = True
        if not logger.get('use_tb_logger'):
            report.faults.append('logger: wandb reads what TensorBoard gets; set use_tb_logger: true')
    for package, asked in wanted.items():
        if asked and importlib.util.find_spec(package) is None:
            report.faults.append(f'logger: {package} is not installed; pip install {package}')
