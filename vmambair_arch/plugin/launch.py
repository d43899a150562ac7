"""Start BasicSR's pipelines: the one road that `vmambair train`, `python -m` and torchrun take."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import HOW_TO_TRAIN, UserError, guard, write_any_letter
from ..files import unlock
from ..host import let_threads_sleep
from ..options import read_options, written_plainly
from ..ranks.start import refuse_strays
from . import compat, imports

if TYPE_CHECKING:
    from ..preflight import Report

LAUNCHERS = ('none', 'pytorch', 'slurm')


def add_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """BasicSR's own arguments, with its names; `required`: the option file."""
    parser.add_argument('-opt', required=required, metavar='FILE', help='option file (YAML)')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='pytorch under torchrun')
    parser.add_argument('--auto_resume', action='store_true', help='continue from the newest state of the experiment')
    parser.add_argument('--debug', action='store_true', help='log and validate often, under the name debug_...')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--force_yml', nargs='+', metavar='KEY=VALUE', help='change the option file, e.g. train:total_iter=1000'
    )
    imports.add_argument(parser)


def import_basicsr() -> ModuleType:
    """basicsr, fixed and with everything registered.

    Raises:
        UserError: it is not installed, or something that it needs is missing; says what to install.
    """
    try:
        compat.apply()
    except ModuleNotFoundError as error:
        if (error.name or '').startswith('vmambair_arch'):
            raise
        raise UserError(f"training needs '{error.name}', which is not installed; {HOW_TO_TRAIN}") from None
    except ImportError as error:
        if 'cannot open shared object file' not in str(error):
            raise
        raise UserError(f'{error}; on Debian and Ubuntu: apt install libgl1 libglib2.0-0') from None
    return sys.modules['basicsr']


def train(args: argparse.Namespace) -> None:
    """Run BasicSR's train_pipeline with the current folder as its root.

    Raises:
        UserError: bad input, found before the first iteration; or training ended before `total_iter`, or without a
            single step (exit code 3).
    """
    import_basicsr()
    import basicsr.train

    watch = _Watch(basicsr.train.build_model)
    try:
        with _as_rank(args, training=True), _replaced(basicsr.train, 'build_model', watch.build_model):
            try:
                basicsr.train.train_pipeline(str(Path.cwd()))
                watch.refuse()
            except Exception:
                watch.rescue()
                raise
    finally:
        unlock()


def test(args: argparse.Namespace) -> None:
    """Run BasicSR's test_pipeline with the current folder as its root.

    Raises:
        UserError: bad input.
    """
    import_basicsr()
    import basicsr.test

    try:
        with _as_rank(args, training=False):
            basicsr.test.test_pipeline(str(Path.cwd()))
    finally:
        unlock()


def check(args: argparse.Namespace) -> Report:
    """What a run with these arguments would meet, without starting it."""
    import_basicsr()
    from .. import preflight

    imports.import_for(args)
    return preflight.check(args)


class _Watch:
    """What a pipeline does not tell: the last iteration that its model was asked for, and whether it learned."""

    def __init__(self, build_model: Callable[[dict], Any]) -> None:
        self._build_model = build_model
        self._model: Any = None
        self._begun = 0
        self.reached = 0
        self.total = 0

    def build_model(self, opt: dict[str, Any]) -> Any:
        model = self._model = self._build_model(opt)
        self.total = int(opt['train']['total_iter'])
        update_learning_rate, resume_training = model.update_learning_rate, model.resume_training

        def update(current_iter: int, *args: Any, **kwargs: Any) -> None:
            self.reached = current_iter
            update_learning_rate(current_iter, *args, **kwargs)

        def resume(resume_state: dict[str, Any]) -> None:
            self.reached = self._begun = resume_state['iter']
            resume_training(resume_state)

        model.update_learning_rate, model.resume_training = update, resume
        return model

    def refuse(self) -> None:
        """Raise a UserError after a run that came to less than its options ask for."""
        if self.reached < self.total:
            raise UserError(f'training ended at iteration {self.reached} of {self.total}', exit_code=3)
        if self.reached > self._begun and getattr(self._model, 'steps_taken', 1) == 0:
            culprit = self._model.bad_steps.culprit or 'the gradients, which overflow in fp16'
            raise UserError(
                f'no step was taken in iterations {self._begun + 1} to {self.reached}, the weights are those that the '
                f'run began with: each time something was NaN or infinite, the last time {culprit}',
                exit_code=3,
            )

    def rescue(self) -> None:
        """Let a model that can save what there is before an error ends the run."""
        rescue = getattr(self._model, 'rescue', None)
        if rescue is None:
            return
        logger = logging.getLogger('basicsr')
        try:
            if said := rescue():
                logger.warning('After an error: %s', said)
        except Exception as error:  # the first error is the one to tell
            logger.warning('After an error nothing could be saved: %s', error)


@contextmanager
def _as_rank(args: argparse.Namespace, training: bool) -> Iterator[None]:
    """Check first, then let BasicSR read `sys.argv`.

    Rank 0 checks for all, and speaks alone of an error that every rank meets before they know each other.
    """
    import torch.distributed as dist

    from .. import preflight

    argv = [sys.argv[0], '-opt', args.opt, '--launcher', args.launcher]
    argv += ['--auto_resume'] * args.auto_resume + ['--debug'] * args.debug
    argv += ['--force_yml', *map(written_plainly, args.force_yml)] if args.force_yml else []
    rank = _rank(args)
    try:
        if training:
            refuse_strays(args.launcher != 'none')
        imports.import_for(args)
        if rank == 0:
            preflight.check(args, training).refuse()
        else:
            read_options(args)
        with _replaced(sys, 'argv', argv):
            yield
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    except UserError as error:
        if rank == 0:
            raise
        if not dist.is_initialized():
            sys.exit(error.exit_code)
        raise UserError(f'rank {rank}: {error}', exit_code=error.exit_code) from error


def _rank(args: argparse.Namespace) -> int:
    variable = {'none': '', 'pytorch': 'RANK', 'slurm': 'SLURM_PROCID'}[args.launcher]
    return int(os.environ.get(variable, 0))


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def main(pipeline: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> int:
    """A pipeline from the command line; the exit code."""
    let_threads_sleep()
    write_any_letter()
    parser = argparse.ArgumentParser(description=(pipeline.__doc__ or '').partition('\n')[0])
    add_arguments(parser)
    args = parser.parse_args(argv)
    return guard(lambda: pipeline(args))
