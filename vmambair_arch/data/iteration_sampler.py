"""The order in which BasicSR's loader asks a data set for its items, and what is drawn for them.

BasicSR shuffles a data set and starts it anew with every resume. A data set that draws everything from the iteration
number needs neither: its items are asked for in order, from the iteration at which the run stands. Such a data set has
the class attribute `numbered_by_iteration` and takes from its section what `number_by_iteration` puts there.

Any other data set, BasicSR's and those of strangers, goes on inside of its epoch (`IterationSampler.done`), and draws
for every item from generators that are seeded by where the item stands in the run (`DrawnByPlace`). So a resume sees
the images and the crops that the uninterrupted run would have seen, with any number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils.registry import DATASET_REGISTRY
from torch.distributed import broadcast_object_list

from ..errors import UserError


class Item(int):
    """The index of an item, and where in the run it stands.

    Attributes:
        place: epoch, number within the epoch, rank; what seeds its draws.
    """

    place: tuple[int, ...]

    def __new__(cls, index: int, place: tuple[int, ...]) -> Item:
        item = super().__new__(cls, index)
        item.place = place
        return item

    def __reduce__(self) -> tuple[type[Item], tuple[int, tuple[int, ...]]]:
        return Item, (int(self), self.place)


class DrawnByPlace(torch.utils.data.Dataset):
    """A data set whose draws depend on the seed and on where in the run an item stands, and on nothing else.

    Inside of an item Python's, numpy's and torch's global generators are seeded; outside they are as they were.

    Args:
        dataset: any that is asked for items by index. An index without a place is left to the generators as they are.
        seed: of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        with self._drawn_for(index):
            return self.dataset[int(index)]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        together = getattr(self.dataset, '__getitems__', None)
        if together is None:
            return [self[index] for index in indices]
        with self._drawn_for(indices[0]):
            return together([int(index) for index in indices])

    @contextmanager
    def _drawn_for(self, index: int) -> Iterator[None]:
        place = getattr(index, 'place', None)
        if place is None:  # a stranger's sampler, whose epochs would all draw the same
            yield
            return
        words = np.random.SeedSequence((self.seed, *place)).generate_state(3)
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            random.seed(int(words[0]))
            np.random.seed(words[1])
            torch.default_generator.manual_seed(int(words[2]))  # of the CPU alone
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


class IterationSampler(EnlargedSampler):
    """BasicSR's sampler, but in order for a data set that is numbered by iteration, from its `start_index` on.

    The whole run is one epoch of such a data set; later epochs are empty. Items of other data sets come in BasicSR's
    order, each with its place.

    Attributes:
        done: an epoch, and how many of its items a resumed run has trained on already.
    """

    done = (0, 0)

    def __iter__(self) -> Iterator[int]:
        if not getattr(self.dataset, 'numbered_by_iteration', False):
            epoch, done = self.done
            order = enumerate(super().__iter__())
            skipped = done if self.epoch == epoch else 0
            return (Item(index, (self.epoch, place, self.rank)) for place, index in order if place >= skipped)
        first = self.dataset.start_index if self.epoch == 0 else len(self.dataset)
        return iter(range(first + self.rank, len(self.dataset), self.num_replicas))


def is_numbered(section: dict[str, Any]) -> bool:
    """Whether the items of the data set of a section are iterations."""
    kind = section.get('type')
    return kind in DATASET_REGISTRY and getattr(DATASET_REGISTRY.get(kind), 'numbered_by_iteration', False)


def number_by_iteration(opt: dict[str, Any], resume_state: dict[str, Any] | None) -> None:
    """Tell the training section what a data set numbered by iteration must know, and BasicSR keeps from it.

    Args:
        opt: the parsed options. Where `datasets: train` is of such a type it gets `manual_seed` (of the run, unless
            it has one of its own), `total_iter`, `start_iter` and `num_replicas` (how many processes, or GPUs of one
            process, share an iteration).
        resume_state: the training state; its `epoch` becomes 0, since the run is one epoch. None from scratch.
    """
    section = opt['datasets'].get('train', {})
    if not is_numbered(section):
        return
    seed = [section.get('manual_seed')]
    if seed[0] is None:
        seed = [opt['manual_seed']]
        if opt['dist']:
            broadcast_object_list(seed)  # without `manual_seed` in the file every rank made up its own
    section['manual_seed'] = seed[0]
    section['total_iter'] = int(opt['train']['total_iter'])
    section['num_replicas'] = opt['world_size'] if opt['dist'] else max(1, opt['num_gpu'])
    section['start_iter'] = 0
    if resume_state:
        section['start_iter'] = resume_state['iter']
        begin_at_epoch(opt, resume_state)


def begin_at_epoch(opt: dict[str, Any], resume_state: dict[str, Any]) -> None:
    """A run on a data set that is numbered by iteration is one epoch, which a resume is inside of."""
    if is_numbered(opt.get('datasets', {}).get('train', {})):
        resume_state['epoch'] = 0


_START = 'start with python -m vmambair_arch.train, or by basicsr.train.train_pipeline'


def refuse_unnumbered(name: str, section: Mapping[str, Any]) -> None:
    """Raise a UserError where a data set numbered by iteration is to train and was not told of how many iterations."""
    if section.get('phase') == 'train' and section.get('total_iter') is None:
        raise UserError(f'data set {name}: was not told total_iter, the iterations of the run; {_START}')


def refuse_other_orders(loader: Any) -> None:
    """Raise a UserError for a loader of training that does not ask a data set numbered by iteration in its order."""
    if getattr(loader.dataset, 'numbered_by_iteration', False) and not isinstance(loader.sampler, IterationSampler):
        name, sampler = getattr(loader.dataset, 'name', 'train'), type(loader.sampler).__name__
        raise UserError(
            f'data set {name}: its items are iterations in their order, and {sampler} has another; '
            f'take EnlargedSampler of basicsr.data.data_sampler, or {_START}'
        )
