"""Where a run starts: the training state that it resumes from, and the epochs that follow.

BasicSR asks for the state first and builds the loaders next; what the second needs to know of the first is kept between
the two calls by `Resume`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints.load import read_pickle
from ..data.iteration_sampler import number_by_iteration
from ..errors import UserError
from ..ranks.start import hold_experiment, refuse_strays


class Resume:
    """Stands in for `load_resume_state` and `create_train_val_dataloader` of `basicsr.train`.

    Args:
        create_train_val_dataloader: BasicSR's own.
    """

    def __init__(self, create_train_val_dataloader: Callable[..., tuple]) -> None:
        self._create = create_train_val_dataloader
        self._state: dict[str, Any] | None = None

    def load_resume_state(self, opt: dict[str, Any]) -> dict[str, Any] | None:
        """The state to resume from, numbered for a data set of iterations; None starts from scratch.

        Raises:
            UserError: no state can be read; another process trains in the folder of the experiment; this is a worker,
                or a rank that does not know of the others.
        """
        refuse_strays(opt['dist'])
        if opt['rank'] == 0:
            hold_experiment(opt['path']['experiments_root'])
        self._state = find_state(opt)
        number_by_iteration(opt, self._state)
        return self._state

    def create_train_val_dataloader(self, opt: dict[str, Any], logger: Any) -> tuple:
        """BasicSR's loaders, with the number of epochs that the batches need.

        Raises:
            UserError: the images do not fill one batch.
        """
        train_loader, train_sampler, val_loaders, _, iterations = self._create(opt, logger)
        batches = len(train_loader)
        if batches == 0:
            raise UserError(
                f'datasets: train: {len(train_sampler)} images a rank and epoch do not fill one batch of '
                f'{train_loader.batch_size}; lower batch_size_per_gpu or raise dataset_enlarge_ratio'
            )
        if self._state:
            self._state['epoch'] = min(self._state['epoch'], self._state['iter'] // batches)
        # The pipeline runs one epoch more than this; every epoch beyond the last iteration only starts the workers.
        return train_loader, train_sampler, val_loaders, math.ceil(iterations / batches) - 1, iterations


def find_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The state to resume from, on the CPU; None starts from scratch.

    With `--auto_resume` the newest state of the experiment that can be read and whose networks are there; one that was
    cut off while it was written is passed over with a word. Otherwise `path: resume_state`.

    Raises:
        UserError: no state can be read.
    """
    from basicsr.utils import check_resume

    folder = Path(opt['path']['training_states'])
    if opt['auto_resume']:
        candidates = _states(folder)
    else:
        named = opt['path'].get('resume_state')
        candidates = [Path(named)] if named else []
    if not candidates:
        return None
    for path in candidates:
        try:
            state = _load_state(path, opt)
        except UserError as error:
            if not opt['auto_resume']:
                raise
            _say(opt, f'{error}; trying the state before it')
            continue
        opt['path']['resume_state'] = str(path)
        check_resume(opt, state['iter'])
        return state
    raise UserError(f'--auto_resume: no state in {folder} can be read; delete the folder to start from scratch')


def _states(folder: Path) -> list[Path]:
    """The states of an experiment, newest first; none where it has no folder yet.

    Raises:
        UserError: the folder cannot be listed, which must not be taken for a new experiment.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f'--auto_resume: {folder} cannot be listed ({error.strerror or error})') from error
    found = [path for path in paths if path.suffix == '.state' and not path.name.startswith('.')]
    return sorted(found, key=_iteration, reverse=True)


def _iteration(path: Path) -> float:
    try:
        return float(path.stem)
    except ValueError:
        return -1


def _load_state(path: Path, opt: dict[str, Any]) -> dict[str, Any]:
    """One training state, known to be whole together with the networks of its iteration."""
    state = read_pickle(path)
    if not isinstance(state, dict) or 'iter' not in state:
        raise UserError(f'{path} is not a training state')
    fresh = opt['path'].get('ignore_resume_networks') or ()
    for network in (key for key in opt if key.startswith('network_') and key not in fresh):
        weights = Path(opt['path']['models']) / f'net_{network.removeprefix("network_")}_{state["iter"]}.pth'
        try:
            read_pickle(weights)
        except UserError:
            raise UserError(f'{path} needs {weights}, which is {"broken" if weights.exists() else "missing"}') from None
    return state


def _say(opt: dict[str, Any], message: str) -> None:
    """To stderr, once: BasicSR's logger must not be used before its log file exists."""
    if opt['rank'] == 0:
        sys.stderr.write(f'vmambair: {message}\n')
