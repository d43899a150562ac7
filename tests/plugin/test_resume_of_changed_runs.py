"""A resume goes on with the weights of the run, whatever the options say of where it first began, or say anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import change, options, run, write_options, write_pairs

from vmambair_arch import VmambaIR
from vmambair_arch.models.pair_pool import PairPool

TINY = {'type': 'VmambaIR', 'dim': 4, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1}


@pytest.fixture
def train(tmp_path: Path):
    write_pairs(tmp_path / 'train', 3)
    write_pairs(tmp_path / 'val', 1)

    def train(code: int = 0, resume: bool = False, **changes: Any) -> str:
        base = options(model_type='VmambaIRModel', network_g=TINY, datasets__train__type='PairedProgressiveDataset')
        file = write_options(tmp_path / 'run.yml', change(base, **changes))
        done = run('-m', 'vmambair_arch.train', '-opt', file.name, *(['--auto_resume'] * resume), cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert 'Traceback' not in done.stderr
        return done.stdout + done.stderr

    train.folder = tmp_path
    return train


def weights(folder: Path, name: int | str = 4, key: str = 'params') -> dict[str, torch.Tensor]:
    return torch.load(folder / f'experiments/tiny/models/net_g_{name}.pth', weights_only=True)[key]


def begin(folder: Path, **factors: float) -> str:
    """A file of several sets of weights, each those of one network times a factor."""
    torch.manual_seed(1)
    network = VmambaIR(**{key: value for key, value in TINY.items() if key != 'type'}).state_dict()
    content = {name: {k: v * factor for k, v in network.items()} for name, factor in factors.items()}
    torch.save(content, folder / 'first.pth')
    return 'first.pth'


@pytest.mark.parametrize(
    ('sets', 'key'),
    [
        ({'params': 1, 'params_ema': 0.5}, None),
        ({'params': 1, 'params_ema': 0.5}, 'params'),
        ({'params': 1, 'params_ema': 0.5, 'params_ema_0.5': 0.25}, 'params_ema_0.5'),
        ({'model': 1}, 'model'),
    ],
)
def test_a_run_that_began_with_another_set_of_weights(train, sets, key):
    asked = {'path__pretrain_network_g': begin(train.folder, **sets), 'path__param_key_g': key}
    asked['train__ema_decay'] = [0.9, 0.5]
    train(**asked)
    whole = weights(train.folder)
    (train.folder / 'experiments/tiny/training_states/4.state').unlink()
    (train.folder / 'experiments/tiny/models/net_g_4.pth').unlink()
    train(resume=True, **asked)
    for name, value in weights(train.folder).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


def test_averages_begin_where_the_network_does(train):
    file = begin(train.folder, model=1, params=0)
    train(
        path__pretrain_network_g=file, path__param_key_g='model', train__ema_decay=0.999, train__total_iter=2,
        train__optim_g={'type': 'SGD', 'lr': 1e-9},
    )  # fmt: skip
    trained, averaged = weights(train.folder, 2), weights(train.folder, 2, 'params_ema')
    for name, value in trained.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-3, atol=1e-4)


def test_further_averages_begin_from_any_place_and_any_network(train):
    first = begin(train.folder, **{'params': 1, 'params_ema': 1, 'params_ema_0.5': 0.5})
    (train.folder / 'kept').mkdir()
    (train.folder / first).rename(train.folder / 'kept/net_g_latest.pth')
    larger = {**TINY, 'num_refinement_blocks': 2}
    train(
        path__pretrain_network_g='kept', path__strict_load_g=False, network_g=larger, train__ema_decay=[0.9, 0.5],
        train__total_iter=2,
    )  # fmt: skip
    assert weights(train.folder, 2, 'params_ema_0.5').keys() == weights(train.folder, 2).keys()


def test_a_network_that_the_model_does_not_read(train):
    unread = {'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}}
    train(train__total_iter=2, **unread)
    assert 'nothing is left to train' not in train(resume=True, **unread)
    assert weights(train.folder, 4)


def test_a_metric_more_and_one_less(train):
    train(train__total_iter=2)
    train(resume=True, val__metrics={'ssim': {'type': 'calculate_ssim', 'crop_border': 0}})
    state = torch.load(train.folder / 'experiments/tiny/training_states/4.state', weights_only=True)
    assert list(state['best_metric_results']['Val']) == ['ssim']


def test_the_last_validation_is_of_the_last_iteration(train):
    train(datasets__train__type='PairedImageDataset', train__total_iter=3, val__val_freq=2)
    lines = (train.folder / 'experiments/tiny/metrics.jsonl').read_text().splitlines()
    iterations = [record['iter'] for record in map(json.loads, lines) if 'metrics' in record]
    assert iterations == [2, 3]


@pytest.mark.parametrize('size', [8, 12, 20])
@pytest.mark.parametrize('batch', [2, 3, 4, 6])
def test_a_pool_of_another_batch_or_size_fills_and_mixes(size, batch):
    if size % batch:
        pytest.skip('refused by the check')
    draw = torch.Generator().manual_seed(0)

    def images(count: int, number: int) -> torch.Tensor:
        return torch.full((count, 3, 2, 2), (number % 256) / 255)

    before = PairPool(12, 4)
    for number in range(2):
        before.exchange(images(4, number), images(4, number), draw)
    pool = PairPool(size, batch)
    pool.load_state_dict(before.state_dict(), torch.device('cpu'))
    outs = []
    for number in range(2, 12):
        out, _ = pool.exchange(images(batch, number), images(batch, number), draw)
        assert len(out) == batch
        outs.append(out)
    assert len(pool.state_dict()['gt']) == size
    assert any(float(out[0, 0, 0, 0]) * 255 < 9.5 for out in outs[-3:])  # older than what went in
    held = {key: value.clone() for key, value in pool.state_dict().items()}
    pool.exchange(images(batch, 99), images(batch, 99), draw)
    pool.take_back()
    for key, value in pool.state_dict().items():
        torch.testing.assert_close(value, held[key])
