"""Where a run starts: from scratch, and what is in its way then, or from a state."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from .report import Report
from .sections import Options


def check_start(options: Options, arguments: argparse.Namespace, report: Report) -> int:
    """The iteration that a run starts from: that of the newest state with `--auto_resume`, else 0.

    BasicSR moves away what is in the folder of a new experiment; that is a warning.
    """
    from ..models.checkpointing import saved_iterations

    folder = Path('experiments') / str(options.get('name', ''))
    total = int(options['train']['total_iter'])
    newest = max(saved_iterations(folder / 'training_states'), default=0)
    if arguments.auto_resume:
        if newest > total:
            report.faults.append(f'{folder} is at iteration {newest}, beyond train: total_iter {total}; raise it')
        elif newest == total:
            report.warnings.append(f'{folder} is complete: iteration {newest} of {total}; nothing is left to train')
        return newest
    named = (options.get('path') or {}).get('resume_state')
    if named:
        if not Path(str(named)).expanduser().is_file():
            report.faults.append(f'path: resume_state: {named} does not exist')
    elif folder.is_dir() and folder.resolve() in Path(arguments.opt).resolve().parents:
        report.faults.append(f'{arguments.opt} lies in {folder}, which a new run moves away; copy it elsewhere')
    elif folder.is_dir():
        state = f', at iteration {newest}' if newest else ''
        report.warnings.append(
            f'{folder} is there{state}; it is moved to {folder}_archived_<time>. To go on with it: --auto_resume'
        )
    return 0


def check_folders(options: Options, training: bool, report: Report) -> None:
    """Whether what a run writes can be written: experiments and logs, or results."""
    logger = options.get('logger')
    folders = [Path('experiments' if training else 'results') / str(options.get('name', ''))]
    if training and isinstance(logger, Mapping) and logger.get('use_tb_logger'):
        folders.append(Path('tb_logger') / str(options.get('name', '')))
    for folder in folders:
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place) or place == Path())
        above = there.parent if there == folder else there  # a run moves the folder of one before away
        if not there.is_dir():
            report.faults.append(f'{there} is there and is no folder, where {folder} is to be written; move it away')
        elif not os.access(above, os.W_OK | os.X_OK):
            report.faults.append(f'{folder} cannot be written: no permission in {above.resolve()}')


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
