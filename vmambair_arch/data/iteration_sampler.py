"""The order in which BasicSR's loader asks a data set for its items, where items are numbered by iteration.

BasicSR shuffles a data set and starts it anew with every resume. A data set that draws everything from the iteration
number needs neither: its items are asked for in order, from the iteration at which the run stands. Such a data set has
the class attribute `numbered_by_iteration` and takes from its section what `number_by_iteration` puts there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils.registry import DATASET_REGISTRY
from torch.distributed import broadcast_object_list


class IterationSampler(EnlargedSampler):
    """BasicSR's sampler, but in order for a data set that is numbered by iteration, from its `start_index` on.

    The whole run is one epoch of such a data set; later epochs are empty.
    """

    def __iter__(self) -> Iterator[int]:
        if not getattr(self.dataset, 'numbered_by_iteration', False):
            return super().__iter__()
        first = self.dataset.start_index if self.epoch == 0 else len(self.dataset)
        return iter(range(first + self.rank, len(self.dataset), self.num_replicas))


def number_by_iteration(opt: dict[str, Any], resume_state: dict[str, Any] | None) -> None:
    """Tell the training section what a data set numbered by iteration must know, and BasicSR keeps from it.

    Args:
        opt: the parsed options. Where `datasets: train` is of such a type it gets `manual_seed`, `total_iter`,
            `start_iter` and `num_replicas` (how many processes, or GPUs of one process, share an iteration).
        resume_state: the training state; its `epoch` becomes 0, since the run is one epoch. None from scratch.
    """
    section = opt['datasets'].get('train', {})
    kind = section.get('type')
    if kind not in DATASET_REGISTRY or not getattr(DATASET_REGISTRY.get(kind), 'numbered_by_iteration', False):
        return
    seed = [opt['manual_seed']]
    if opt['dist']:
        broadcast_object_list(seed)  # without `manual_seed` in the file every rank made up its own
    section['manual_seed'] = seed[0]
    section['total_iter'] = int(opt['train']['total_iter'])
    section['num_replicas'] = opt['world_size'] if opt['dist'] else max(1, opt['num_gpu'])
    section['start_iter'] = 0
    if resume_state:
        section['start_iter'] = resume_state['iter']
        resume_state['epoch'] = 0
