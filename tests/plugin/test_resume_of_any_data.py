"""A resume sees what the uninterrupted run would have seen, whatever data set it reads: BasicSR's, or a stranger's."""

from __future__ import annotations

import logging
import pickle
import random
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import options, write_options, write_pairs

from vmambair_arch.data.iteration_sampler import DrawnByPlace, Item
from vmambair_arch.plugin import compat, launch

compat.apply()

PAIRS = {'type': 'PairedImageDataset', 'dataroot_gt': 'train/gt', 'dataroot_lq': 'train/lq', 'gt_size': 16}
PHOTOGRAPHS = {
    'type': 'RealESRGANDataset', 'dataroot_gt': 'train/gt', 'meta_info': 'list.txt',
    **{
        f'{key}{order}': value
        for order in ('', '2')
        for key, value in {
            'blur_kernel_size': 7, 'kernel_list': ['iso', 'aniso'], 'kernel_prob': [0.5, 0.5], 'sinc_prob': 0.1,
            'blur_sigma': [0.2, 3], 'betag_range': [0.5, 4], 'betap_range': [1, 2],
        }.items()
    },
    'final_sinc_prob': 0.8,
}  # fmt: skip


class Everything(torch.utils.data.Dataset):
    """A stranger's data set that draws from all three generators."""

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert type(index) is int
        return {
            'lq': torch.rand(3) + index,
            'gt': torch.tensor([random.random(), np.random.rand(), random.gauss(0, 1)]),
        }


class Together(Everything):
    """One that is asked for a batch at a time."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        noise = torch.rand(len(indices))
        return [{**self[index], 'noise': noise[i]} for i, index in enumerate(indices)]


SECTIONS = {'pairs': PAIRS, 'photographs': PHOTOGRAPHS, 'any': {'type': 'Everything'}, 'all': {'type': 'Together'}}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from basicsr.utils.registry import DATASET_REGISTRY

    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / 'train', 5)
    (tmp_path / 'list.txt').write_text('\n'.join(f'{i:03d}.png' for i in range(5)))
    known = DATASET_REGISTRY._obj_map | {'Everything': Everything, 'Together': Together}
    monkeypatch.setattr(DATASET_REGISTRY, '_obj_map', known)
    return tmp_path


def batches(section: dict[str, Any], iteration: int, workers: int, rank: int = 0, seed: int = 7) -> list[Any]:
    """What BasicSR's pipeline hands to the model from an iteration on, to the tenth."""
    import basicsr.train
    from basicsr.data.prefetch_dataloader import CPUPrefetcher

    from vmambair_arch.plugin.resume import Resume

    opt = options(val=..., datasets__val=..., train__total_iter=10)
    opt['datasets']['train'] = {
        'name': 'T', 'io_backend': {'type': 'disk'}, 'use_hflip': True, 'use_rot': True, 'phase': 'train', 'scale': 1,
        'num_worker_per_gpu': workers, 'batch_size_per_gpu': 2, **section,
    }  # fmt: skip
    opt |= {'manual_seed': seed, 'dist': False, 'rank': rank, 'world_size': 1, 'num_gpu': 0}
    create, build = basicsr.train.create_train_val_dataloader.__wrapped__, basicsr.train.build_dataset.__wrapped__
    resume = Resume(lambda opt: None, build)
    resume._seed = seed
    state = {'iter': iteration, 'epoch': 0} if iteration else None
    resume._state = state
    original, basicsr.train.build_dataset = basicsr.train.build_dataset, resume.build_dataset
    try:
        loader, sampler, _, epochs, _ = resume.create_train_val_dataloader(
            opt, logging.getLogger('quiet'), original=create
        )
    finally:
        basicsr.train.build_dataset = original
    prefetcher = CPUPrefetcher(loader)
    seen: list[Any] = []
    for epoch in range(state['epoch'] if state else 0, epochs + 1):
        sampler.set_epoch(epoch)
        prefetcher.reset()
        while (batch := prefetcher.next()) is not None and iteration + len(seen) < 10:
            seen.append({key: value for key, value in batch.items() if isinstance(value, torch.Tensor)})
    return seen


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        for one, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize('kind', SECTIONS)
def test_a_resume_at_any_iteration_sees_what_would_have_been_seen(workplace: Path, kind: str) -> None:
    """Two batches an epoch: within an epoch, at its end, and in later ones."""
    whole = batches(SECTIONS[kind], 0, workers=0)
    assert len(whole) == 10
    assert not same(whole[:2], whole[2:4]), 'epochs differ'
    assert not same(whole, batches(SECTIONS[kind], 0, workers=0, seed=8)), 'seeds differ'
    for iteration in (1, 2, 3, 4, 7, 9):
        random.seed(iteration)
        np.random.seed(iteration)
        torch.manual_seed(iteration)
        assert same(whole[iteration:], batches(SECTIONS[kind], iteration, workers=0)), iteration


@pytest.mark.parametrize('kind', ['pairs', 'all'])
def test_the_number_of_workers_changes_nothing(workplace: Path, kind: str) -> None:
    assert same(batches(SECTIONS[kind], 0, workers=0)[5:], batches(SECTIONS[kind], 5, workers=2))


@pytest.mark.parametrize('queue', [None, 1, 3])
@pytest.mark.parametrize('workers', [0, 1, 2])
def test_reading_ahead_changes_nothing(workplace: Path, workers: int, queue: int | None) -> None:
    ahead = SECTIONS['any'] | {'prefetch_mode': 'cpu', 'num_prefetch_queue': queue}
    whole = batches(SECTIONS['any'], 0, workers=0)
    for iteration in (0, 3, 4):
        before = [str(random.getstate()), str(np.random.get_state()), torch.get_rng_state().tolist()]
        assert same(whole[iteration:], batches(ahead, iteration, workers))
        assert [str(random.getstate()), str(np.random.get_state()), torch.get_rng_state().tolist()] == before


def test_workers_read_as_many_batches_further_ahead_as_the_queue_holds() -> None:
    from basicsr.data.prefetch_dataloader import PrefetchDataLoader

    for queue, workers, each in ((1, 1, 3), (4, 2, 4), (5, 2, 5), (None, 2, 3)):
        assert PrefetchDataLoader(queue, dataset=range(9), num_workers=workers).prefetch_factor == each
    assert PrefetchDataLoader(3, dataset=range(9)).prefetch_factor is None


@pytest.mark.parametrize('workers', [0, 1])
def test_what_cannot_be_read_ends_a_run_that_reads_ahead(workplace: Path, workers: int) -> None:
    """In a thread of its own, which is left behind where it waits for ever."""
    (workplace / 'train/lq/002.png').write_bytes(b'no image')
    ended: list[str] = []

    def read() -> None:
        try:
            batches(PAIRS | {'prefetch_mode': 'cpu', 'num_prefetch_queue': 2}, 0, workers)
        except Exception as error:
            ended.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(120)
    assert ended
    assert 'train/lq/002.png' in ended[0]


def test_a_run_that_reads_ahead_is_resumed_to_the_same_batches(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basicsr.models.sr_model import SRModel

    fed: list[Any] = []
    feed = SRModel.feed_data
    monkeypatch.setattr(SRModel, 'feed_data', lambda self, data: fed.append(data) or feed(self, data))
    monkeypatch.setenv('XDG_CACHE_HOME', str(workplace / 'cache'))
    network = {'type': 'VmambaIR', 'dim': 4, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 1}
    changes = {'val': None, 'datasets__val': ..., 'network_g': network, 'datasets__train__num_worker_per_gpu': 1}
    ahead = {'datasets__train__prefetch_mode': 'cpu', 'datasets__train__num_prefetch_queue': 2}

    def train(**more: Any) -> tuple[list[Any], dict[str, torch.Tensor]]:
        fed.clear()
        file = write_options(Path('tiny.yml'), options(**changes, **more))
        launch.train(Namespace(opt=str(file), launcher='none', auto_resume=True, debug=False, force_yml=None))
        weights = torch.load('experiments/tiny/models/net_g_4.pth', weights_only=True)['params']
        return [{key: batch[key] for key in ('lq', 'gt')} for batch in fed], weights

    plain, wanted = train()
    Path('experiments/tiny').rename('plain')
    whole, weights = train(**ahead)
    assert len(whole) == 4
    assert same([weights, *whole], [wanted, *plain])
    for late in Path('experiments/tiny').rglob('*'):
        if late.name in ('4.state', 'net_g_4.pth', 'net_g_latest.pth'):
            late.unlink()
    rest, weights = train(**ahead)
    assert same([weights, *rest], [wanted, *whole[2:]])


def test_reading_data_leaves_the_generators_of_the_training_as_they_are(workplace: Path) -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    wanted = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    batches({'type': 'Everything'}, 0, workers=0)
    assert (torch.rand(1), random.random(), np.random.rand()) == wanted


def test_what_is_sent_to_workers_keeps_its_place() -> None:
    item = pickle.loads(pickle.dumps(Item(4, (1, 2, 0))))
    assert (item, item.place) == (4, (1, 2, 0))
    dataset = pickle.loads(pickle.dumps(DrawnByPlace(Everything({'name': 'a'}), 3)))
    assert dataset.opt == {'name': 'a'}
    assert len(dataset) == 5
    assert torch.equal(dataset[item]['lq'], DrawnByPlace(Everything({}), 3)[item]['lq'])
    assert not torch.equal(dataset[item]['lq'], dataset[Item(4, (1, 3, 0))]['lq'])
    with pytest.raises(AttributeError, match='no_such_thing'):
        _ = dataset.no_such_thing
