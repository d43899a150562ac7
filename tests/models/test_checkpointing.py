"""Files that are whole or not there, and which of them stay."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from vmambair_arch.errors import UserError
from vmambair_arch.models import checkpointing
from vmambair_arch.models.rng import rng_state, set_rng_state, unchanged_rng


def save_all(folder: Path, iterations: range) -> tuple[Path, Path]:
    models, states = folder / 'models', folder / 'training_states'
    for i in iterations:
        checkpointing.write_checkpoint(models / f'net_g_{i}.pth', {'params': {'w': torch.tensor(float(i))}})
        checkpointing.write_checkpoint(models / f'net_d_{i}.pth', {'params': {}})
        checkpointing.write_checkpoint(states / f'{i}.state', {'iter': i})
    return models, states


def test_a_checkpoint_reads_back(tmp_path):
    checkpointing.write_checkpoint(tmp_path / 'a.pth', {'params': {'w': torch.arange(3)}, 'best': [1.5, None]})
    content = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert content['params']['w'].tolist() == [0, 1, 2]
    assert content['best'] == [1.5, None]
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_a_full_disk_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    checkpointing.write_checkpoint(path, {'w': torch.zeros(3)})
    before = path.read_bytes()

    def full(content, file):
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(UserError, match=r'a\.pth: cannot be written \(No space left on device\)'):
        checkpointing.write_checkpoint(path, {'w': torch.ones(3)})
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_the_newest_stay_and_those_with_the_best_metrics(tmp_path):
    models, states = save_all(tmp_path, range(1, 7))
    checkpointing.write_checkpoint(models / 'net_g_latest.pth', {})
    checkpointing.prune(models, states, 2, dict.fromkeys(range(1, 7), ['g', 'd']), spare={3})
    assert checkpointing.saved_iterations(states) == [5, 6]
    assert {path.name for path in models.iterdir()} == {
        'net_g_3.pth', 'net_d_3.pth', 'net_g_5.pth', 'net_d_5.pth', 'net_g_6.pth', 'net_d_6.pth', 'net_g_latest.pth',
    }  # fmt: skip


def test_networks_newer_than_the_states_stay(tmp_path):
    """A kill between network and state leaves such a one; it is overwritten when the run comes there again."""
    models, states = save_all(tmp_path, range(1, 4))
    (states / '3.state').unlink()
    checkpointing.prune(models, states, 1, {1: ['g', 'd'], 2: ['g', 'd']})
    assert {path.name for path in models.glob('net_g*')} == {'net_g_2.pth', 'net_g_3.pth'}


def test_nothing_is_pruned_unless_asked_but_the_leftovers_of_a_kill(tmp_path):
    models, states = save_all(tmp_path, range(1, 4))
    (models / '.0123456789ab.part.pth').write_bytes(b'half a network')
    checkpointing.prune(models, states, 0, dict.fromkeys(range(1, 4), ['g', 'd']))
    assert checkpointing.saved_iterations(states) == [1, 2, 3]
    assert not list(models.glob('.*'))


def test_the_bad_tensor_is_named():
    content = {'net_g': {'params': {'a': torch.zeros(2), 'n': torch.tensor(3), 'b.c': torch.tensor([1, torch.inf])}}}
    assert checkpointing.first_non_finite(content) == 'net_g.params.b.c'
    content['net_g']['params'].pop('b.c')
    assert checkpointing.first_non_finite(content) is None


def test_random_numbers_go_on_from_a_saved_state(tmp_path):
    import random

    import numpy as np

    def draw() -> list:
        return [random.random(), np.random.standard_normal(), *torch.rand(2).tolist()]

    draw()  # an odd number of normal draws leaves one in numpy's store
    checkpointing.write_checkpoint(tmp_path / 'rng', rng_state())
    expected = draw()
    set_rng_state(torch.load(tmp_path / 'rng', weights_only=True))
    with unchanged_rng():
        assert draw() == expected
        draw()
    assert draw() == expected


FOREIGN = (
    'models/net_g_1.pth',  # of an iteration that this run saves later, or never
    'models/net_d_2.pth',  # of a network that this run does not have
    'models/net_g_best_2.pth',
    'models/net_g_0002.pth',
    'models/pretrained_2.pth',
    'models/.mine.part.pth',
    'training_states/1.state',
    'training_states/02.state',
)


def test_only_what_the_run_wrote_is_removed(tmp_path):
    models, states = tmp_path / 'models', tmp_path / 'training_states'
    for name in FOREIGN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'mine')
    for i in range(2, 6):
        # Each of another process, as after a resume.
        folder = checkpointing.CheckpointFolder(models, states, keep_last=1)
        folder.write(i, {'g': {'params': {'w': torch.tensor(float(i))}}}, {'iter': i}, spare={3})
    assert all((tmp_path / name).read_bytes() == b'mine' for name in FOREIGN)
    ours = {str(path.relative_to(tmp_path)) for folder in (models, states) for path in folder.iterdir()} - set(FOREIGN)
    assert ours == {'models/net_g_3.pth', 'models/net_g_5.pth', 'training_states/5.state'}
