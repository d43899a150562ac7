"""Where a run starts: its seed, the training state that it resumes from, and the epochs that follow.

BasicSR reads the options first, asks for the state and builds the loaders next; what one needs to know of those before
it is kept between the calls by `Resume`.
"""

from __future__ import annotations

import functools
import inspect
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from basicsr.utils import set_random_seed

from ..data.iteration_sampler import DrawnByPlace, IterationSampler, number_by_iteration
from ..errors import UserError
from ..models.states import find_start
from ..ranks.start import hold_experiment, refuse_strays

_MARK = '_vmambair_stands_in'


class Resume:
    """Stands in for functions of `basicsr.train`, and of a project's own copy of that file.

    Args:
        load_resume_state, build_dataset: BasicSR's own.
    """

    def __init__(
        self, load_resume_state: Callable[[dict[str, Any]], Any], build_dataset: Callable[[dict[str, Any]], Any]
    ) -> None:
        self._load, self._build = load_resume_state, build_dataset
        self._state: dict[str, Any] | None = None
        self._seed: int | None = None

    def begin(self, opt: dict[str, Any]) -> None:
        """A pipeline has read its options: seed by the last word on `manual_seed`, number what it trains on.

        Raises:
            UserError: another process writes the results that a test is about to move away.
        """
        if opt.get('manual_seed') is None:
            opt['manual_seed'] = random.SystemRandom().randint(1, 10000)  # as BasicSR draws one
        set_random_seed(opt['manual_seed'] + opt['rank'])
        self._state, self._seed = None, None
        if opt['is_train']:
            self._seed = opt['manual_seed']
            number_by_iteration(opt, None)
        elif opt['rank'] == 0:
            hold_experiment(opt['path']['results_root'])

    def stand_at(self, opt: dict[str, Any], iteration: int) -> None:
        """A pipeline has found a state to go on from, by whatever code."""
        if opt.get('is_train'):
            number_by_iteration(opt, {'iter': iteration})

    def join(self, names: dict[str, Any]) -> None:
        """Put ours in the place of what a pipeline's own module, a copy of `basicsr/train.py`, defines again."""
        for original, replacement in self.replacements(names):
            names[original.__name__] = replacement

    def replacements(self, names: dict[str, Any]) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
        """Functions of a module and what stands in for them: those that are named as in `basicsr.train`, and no others
        than ours.
        """
        found: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
        for name in ('load_resume_state', 'create_train_val_dataloader'):
            function = names.get(name)
            if inspect.isfunction(function) and not hasattr(function, _MARK):
                found.append((function, self._stand_in(name, function)))
        return found

    def _stand_in(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        ours = getattr(self, name)

        @functools.wraps(original)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return ours(*args, original=original, **kwargs)

        setattr(stand_in, _MARK, True)
        if name == 'load_resume_state':
            vars(stand_in)['__wrapped__'] = ours  # the check follows it to the keys that are read
        return stand_in

    def load_resume_state(
        self, opt: dict[str, Any], *args: Any, original: Callable[..., Any], **kwargs: Any
    ) -> dict[str, Any] | None:
        """The state to resume from, with the data numbered for it; None starts from scratch.

        Args:
            opt: the parsed options.
            original: what a project has; it finds the state where it is other than BasicSR's.

        Raises:
            UserError: no state can be read; another process trains in the folder of the experiment; this is a worker,
                or a rank that does not know of the others.
        """
        refuse_strays(opt['dist'])
        if opt['rank'] == 0:
            hold_experiment(opt['path']['experiments_root'])
        same = original is self._load or _code(original.__code__) == _code(self._load.__code__)
        self._state = find_state(opt) if same else original(opt, *args, **kwargs)
        self._seed = opt['manual_seed']
        number_by_iteration(opt, self._state)
        return self._state

    def build_dataset(self, section: dict[str, Any]) -> Any:
        """A data set of BasicSR's registry; one that a run trains on draws by place, unless it does so by itself."""
        dataset = self._build(section)
        if self._seed is None or section.get('phase') != 'train' or getattr(dataset, 'numbered_by_iteration', False):
            return dataset
        seed = section.get('manual_seed')
        return DrawnByPlace(dataset, self._seed if seed is None else seed)

    def create_train_val_dataloader(
        self, opt: dict[str, Any], *args: Any, original: Callable[..., Any], **kwargs: Any
    ) -> Any:
        """The pipeline's loaders, with the number of epochs that the batches need; they go on inside of an epoch.

        Raises:
            UserError: the images do not fill one batch.
        """
        made = original(opt, *args, **kwargs)
        if not isinstance(made, tuple) or len(made) != 5 or not isinstance(made[1], IterationSampler):
            return made  # a project's own, which is no longer BasicSR's
        train_loader, train_sampler, val_loaders, _, iterations = made
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


def _code(code: CodeType) -> tuple[Any, ...]:
    """What a function does, wherever its text stands."""
    constants = tuple(_code(part) if isinstance(part, CodeType) else part for part in code.co_consts)
    return code.co_code, code.co_names, constants


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
