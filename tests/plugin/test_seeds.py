"""The last word on a seed counts: of the file, of --force_yml, and of the data alone."""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import options, write_options, write_pairs
from torch.utils.data import default_collate

from vmambair_arch import files
from vmambair_arch.data.iteration_sampler import Item, number_by_iteration
from vmambair_arch.plugin import compat

compat.apply()


@pytest.fixture(autouse=True)
def nothing_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    files.unlock()
    yield
    files.unlock()


def parsed(monkeypatch: pytest.MonkeyPatch, seed: int | None, *forced: str, training: bool = True) -> dict[str, Any]:
    from basicsr.utils.options import parse_options

    file = write_options(Path('seeds.yml'), options(manual_seed=seed))
    more = ['--force_yml', *forced] if forced else []
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), *more])
    return parse_options(str(Path.cwd()), is_train=training)[0]


def drawn() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('seed', [0, 3, None])
@pytest.mark.parametrize('forced', [0, 7, 12345])
def test_a_forced_seed_is_the_seed(
    monkeypatch: pytest.MonkeyPatch, seed: int | None, forced: int, training: bool
) -> None:
    opt = parsed(monkeypatch, seed, f'manual_seed={forced}', training=training)
    assert opt['manual_seed'] == forced
    by_force = drawn()
    parsed(monkeypatch, forced, training=training)
    assert drawn() == by_force


@pytest.mark.parametrize('forced', ['none', '~'])
def test_a_seed_that_is_taken_away_is_drawn(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    opt = parsed(monkeypatch, 3, f'manual_seed={forced}')
    assert 1 <= opt['manual_seed'] <= 10000
    first = drawn()
    parsed(monkeypatch, opt['manual_seed'])
    assert drawn() == first


# ---------------------------------------------------------------- of the data alone


@pytest.mark.parametrize(('own', 'seed'), [(0, 0), (11, 11), (None, 3), (..., 3)])
def test_iterations_are_numbered_by_the_seed_of_the_data(own: Any, seed: int) -> None:
    section = {'type': 'PairedProgressiveDataset'} | ({} if own is ... else {'manual_seed': own})
    opt = {
        'manual_seed': 3, 'dist': False, 'num_gpu': 0, 'world_size': 1, 'train': {'total_iter': 9},
        'datasets': {'train': section},
    }  # fmt: skip
    for state in (None, {'iter': 4, 'epoch': 0}, {'iter': 4, 'epoch': 0}):  # again at a resume
        number_by_iteration(opt, state)
        assert section['manual_seed'] == seed


@pytest.mark.parametrize('kind', ['PairedImageDataset', 'PairedProgressiveDataset'])
def test_the_data_depend_on_their_own_seed_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    write_pairs(Path('train'), 3, size=48)

    def sample(run: int, own: int | None) -> torch.Tensor:
        from basicsr.data import build_dataset

        opt = parsed(monkeypatch, run, f'datasets:train:type={kind}', f'datasets:train:manual_seed={own}')
        dataset = build_dataset(opt['datasets']['train'])
        items = [dataset[Item(index, (0, index, 0))] for index in range(3)]
        return default_collate([item['gt'].squeeze() for item in items])

    from vmambair_arch import preflight

    own = options(datasets__train__type=kind, datasets__train__manual_seed=5, datasets__val=..., val=...)
    arguments = Namespace(
        opt=str(write_options(Path('own.yml'), own)), launcher='none', auto_resume=False, debug=False, force_yml=None
    )
    assert 'manual_seed' not in ' '.join(preflight.check(arguments).lines())
    assert torch.equal(sample(1, 5), sample(2, 5))
    assert not torch.equal(sample(1, 5), sample(1, 6))
    assert torch.equal(sample(1, None), sample(1, 1))
    assert not torch.equal(sample(1, None), sample(2, None))
