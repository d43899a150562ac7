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

import torch

from ..data.iteration_sampler import DrawnByPlace, number_by_iteration
from ..errors import UserError
from ..models.states import find_start
from ..ranks.start import hold_experiment, refuse_strays


class Resume:
    """Stands in for `load_resume_state`, `build_dataset` and `create_train_val_dataloader` of `basicsr.train`.

    Args:
        create_train_val_dataloader, build_dataset: BasicSR's own.
    """

    def __init__(
        self, create_train_val_dataloader: Callable[..., tuple], build_dataset: Callable[[dict[str, Any]], Any]
    ) -> None:
        self._create, self._build = create_train_val_dataloader, build_dataset
        self._state: dict[str, Any] | None = None
        self._seed = 0

    def load_resume_state(self, opt: dict[str, Any]) -> dict[str, Any] | None:
        """The state to resume from, numbered for a data set of iterations; None starts from scratch.

        Raises:
            UserError: no state can be read; another process trains in the folder of the experiment; this is a worker,
                or a rank that does not know of the others.
        """
        refuse_strays(opt['dist'])
        if opt['rank'] == 0:
            hold_experiment(opt['path']['experiments_root'])
        self._state, self._seed = find_state(opt), opt['manual_seed']
        number_by_iteration(opt, self._state)
        return self._state

    def build_dataset(self, section: dict[str, Any]) -> Any:
        """A data set of BasicSR's registry; one to train on draws by place, unless it does so by itself."""
        dataset = self._build(section)
        if section['phase'] != 'train' or getattr(dataset, 'numbered_by_iteration', False):
            return dataset
        return DrawnByPlace(dataset, self._seed)

    def create_train_val_dataloader(self, opt: dict[str, Any], logger: Any) -> tuple:
        """BasicSR's loaders, with the number of epochs that the batches need; they go on inside of an epoch.

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
        # Every start of an epoch draws a seed for its workers: not from the generator that the network draws from.
        train_loader.generator = torch.Generator().manual_seed(opt['manual_seed'])
        if self._state and not getattr(train_sampler.dataset, 'numbered_by_iteration', False):
            epoch, done = divmod(self._state['iter'], batches)
            self._state['epoch'], train_sampler.done = epoch, (epoch, done * train_loader.batch_size)
        # The pipeline runs one epoch more than this; every epoch beyond the last iteration only starts the workers.
        return train_loader, train_sampler, val_loaders, math.ceil(iterations / batches) - 1, iterations


def find_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The state to resume from, on the CPU, see `states.find_start`; None starts from scratch.

    The options are told of the networks that go with it. A state of another experiment begins this one: its folder is
    made, and what is in it moved away, as for a run from scratch.

    Raises:
        UserError: no state can be read.
    """
    import basicsr.train
    from basicsr.utils import check_resume

    paths = opt['path']
    start = find_start(opt, paths['experiments_root'], opt['auto_resume'], lambda message: _say(opt, message))
    if start is None:
        return None
    if not start.inside:
        basicsr.train.make_exp_dirs(opt)
        if opt['logger'].get('use_tb_logger') and 'debug' not in opt['name'] and opt['rank'] == 0:
            basicsr.train.mkdir_and_rename(str(Path(opt['root_path'], 'tb_logger', opt['name'])))
    paths['resume_state'] = str(start.path)
    own = paths['models']
    paths['models'] = str(start.models or own)  # where BasicSR looks for the networks of the state
    check_resume(opt, start.iteration)
    paths['models'] = own
    for label in start.networks:
        # That a first start took only a part, or another set of weights, says nothing of what it saved.
        paths[f'strict_load_{label}'] = True
        paths[f'param_key_{label}'] = 'params'
    return start.state


def _say(opt: dict[str, Any], message: str) -> None:
    """To stderr, once: BasicSR's logger must not be used before its log file exists."""
    if opt['rank'] == 0:
        sys.stderr.write(f'vmambair: {message}\n')
