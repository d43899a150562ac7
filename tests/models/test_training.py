"""Whole trainings, as processes: what a user does to a run, and what the world does to it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from vmambair_arch.files import METRICS_FILE, read_records
from vmambair_arch.ops import c_library


def differences(a: Any, b: Any, name: str = '') -> list[str]:
    """Names of the values that are not the same bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [name]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [name for key in a.keys() ^ b.keys()]
        return keys + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f'{name}.{key}')]
    if isinstance(a, Sequence) and not isinstance(a, str) and isinstance(b, Sequence):
        if len(a) != len(b):
            return [name]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f'{name}[{i}]')]
    return [] if a == b else [name]


def assert_same_end(experiment: Any, finished: Any) -> None:
    """Losses, weights, optimiser, schedule, random numbers and best metrics, all of them bit for bit."""
    assert experiment.losses() == finished.losses()
    assert not differences(experiment.networks('latest'), finished.networks('latest'))
    assert not differences(experiment.state(12), finished.state(12))


def read_until(process: subprocess.Popen, text: str) -> str:
    """What a process prints, up to the line with `text`."""
    output = ''
    for line in process.stdout:
        output += line
        if text in line:
            return output
    pytest.fail(f'no {text!r} in: {output[-3000:]}')


def logged(iteration: int) -> str:
    return f'iter:{iteration:8,d},'


def test_an_undisturbed_run(finished):
    assert sorted(finished.losses()) == list(range(1, 13))
    assert finished.states() == [4, 8, 12]
    assert finished.state(12)['best_metric_results']['three']['psnr']['iter'] in (4, 8, 12)
    assert not [path for path in finished.root.rglob('.*')]


def test_signals_save_and_a_resume_goes_on_as_if_nothing_had_happened(experiment, finished):
    stopped = experiment.run('--fault', 'sigterm@6', code=143)
    assert 'SIGTERM: saved iteration 6; go on with --auto_resume' in stopped
    assert experiment.states() == [4, 6]

    # Ctrl-C in a terminal reaches the loader's worker as well; the data is the same for any number of workers.
    experiment.options['datasets']['train'] |= {'num_worker_per_gpu': 1, 'persistent_workers': True}
    process = experiment.start('--auto_resume', '--slow', '0.2', start_new_session=True)
    assert 'iter: 6.' in read_until(process, logged(7))
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    [iteration] = re.findall(r'SIGINT: saved iteration (\d+)', output)
    assert experiment.states()[-1] == int(iteration) < 12
    assert 'Traceback' not in output

    experiment.run('--auto_resume')
    assert_same_end(experiment, finished)


def test_every_iteration_and_validation_is_recorded(finished):
    records = read_records(finished.root / METRICS_FILE)
    training = {record['iter']: record for record in records if 'metrics' not in record}
    assert sorted(training) == list(range(1, 13))
    assert {i: record['l_pix'] for i, record in training.items()} == pytest.approx(finished.losses(), rel=1e-6)
    assert all(record['images_s'] > 0 and record['data_time'] >= 0 for record in training.values())
    validations = [record for record in records if 'metrics' in record]
    assert [(r['iter'], r['dataset']) for r in validations] == [
        (4, 'three'),
        (8, 'three'),
        (12, 'three'),
        (12, 'three'),
    ]
    assert all(record['metrics']['psnr'] > 0 for record in validations)


def test_the_state_before_a_truncated_one_is_taken(experiment, finished):
    shutil.copytree(finished.folder, experiment.folder, dirs_exist_ok=True)
    for broken in ('training_states/12.state', 'models/net_g_8.pth'):
        content = (experiment.root / broken).read_bytes()
        (experiment.root / broken).write_bytes(content[: len(content) // 2])
    output = experiment.run('--auto_resume')
    assert re.search(r'12\.state.*; trying the state before it', output)
    assert re.search(r'net_g_8\.pth, which is broken; trying the state before it', output)
    assert 'Resuming training from epoch: 0, iter: 4.' in output
    assert_same_end(experiment, finished)


def test_a_full_disk_stops_the_run_and_loses_nothing(experiment, finished):
    output = experiment.run('--fault', 'full@6', code=1)
    error = output.strip().splitlines()[-1]
    assert re.fullmatch(
        r'vmambair: error: .*net_g_8\.pth: cannot be written \(File too large\); the checkpoint of iteration 4 is '
        r'intact: make room, then go on with --auto_resume',
        error,
    )
    assert experiment.states() == [4]
    assert not list(experiment.root.rglob('.*'))
    experiment.run('--auto_resume')
    assert_same_end(experiment, finished)


@pytest.mark.parametrize(('kills', 'total'), [(3, 12), pytest.param(30, 300, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment(experiment, finished, kills, total):
    """Every other kill comes while a file is being saved, where saves are drawn out; runs go on from the last state."""
    rng = random.Random(0)
    experiment.options['train']['total_iter'] = total
    experiment.options['logger'] |= {'save_checkpoint_freq': 2, 'keep_last': 3}
    in_a_save, reached = 0, 0
    for kill in range(kills):
        process = experiment.start('--auto_resume', '--slow', '0.3', '--slow-save', '0.1')
        begun = read_until(process, 'Start training from epoch: 0')
        assert f'Start training from epoch: 0, iter: {reached}' in begun
        if kill % 2:
            read_until(process, 'Saving models and training states')
        else:
            read_until(process, logged(reached + rng.randint(1, 2)))
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        process.communicate()
        in_a_save += bool(list(experiment.root.rglob('.*.part*')))
        for iteration in experiment.states():
            experiment.state(iteration)
            experiment.networks(iteration)
        reached = max(experiment.states(), default=0)
    assert kills < 30 or (in_a_save and reached)
    experiment.run('--auto_resume', timeout=900)
    assert experiment.states() == [total - 4, total - 2, total]
    assert not list(experiment.root.rglob('.*'))
    if total == 12:
        undisturbed = finished
    else:
        undisturbed = type(experiment)(experiment.folder / 'undisturbed')
        undisturbed.options = experiment.options
        undisturbed.run(timeout=900)
    assert experiment.losses() == undisturbed.losses()
    assert not differences(experiment.networks('latest'), undisturbed.networks('latest'))


def test_two_ranks_train_as_one_process_does(experiment, finished):
    experiment.options['datasets']['train']['mini_batch_sizes'] = [2, 1]
    output = experiment.run(ranks=2)
    one, two = finished.losses(), experiment.losses()
    assert sorted(two) == sorted(one)
    assert max(abs(one[i] - two[i]) for i in one) < 1e-5
    # Restored images may differ in the last bit before they are rounded to 8 bits, the average over them hardly.
    best = experiment.state(12)['best_metric_results']['three']['psnr']
    assert best['val'] == pytest.approx(finished.state(12)['best_metric_results']['three']['psnr']['val'], abs=0.01)
    assert output.count('Validation three at 12') == 2
    assert len(experiment.state(12)['ranks']) == 2


def test_rank_0_chooses_the_kernels_for_both_ranks_and_for_the_continuation(experiment):
    """Two processes that would choose differently; then the same two, each of the other's mind, go on."""
    if reason := c_library.why_not():
        pytest.skip(reason)

    def used() -> list[dict[str, list[str]]]:
        return [json.loads((experiment.folder / f'kernels-{rank}.json').read_text()) for rank in range(2)]

    experiment.options['train']['total_iter'] = 4
    experiment.run('--choices', 'torch,kernel', ranks=2)
    first, second = used()
    assert {name for name, _ in first.values()} == {'torch'}
    assert second == {'scan': ['torch', 'the choice of rank 0'], 'depthwise': ['torch', 'the choice of rank 0']}
    state = experiment.state(4)
    assert state['scans'] == state['convolutions'] == {'float32': 'torch'}

    experiment.options['train']['total_iter'] = 8
    experiment.run('--choices', 'kernel,torch', '--auto_resume', ranks=2)
    why = 'that of the training state'
    assert used() == [{'scan': ['torch', why], 'depthwise': ['torch', why]}] * 2
    state = experiment.state(8)
    assert state['scans'] == state['convolutions'] == {'float32': 'torch'}


def test_a_rank_that_dies_ends_the_job_with_its_error(experiment):
    begun = time.monotonic()
    output = experiment.run('--fault', 'die@3', '--fault-rank', '1', ranks=2, code=1)
    assert 'RuntimeError: the test lets this rank die' in output
    assert time.monotonic() - begun < 100
    assert experiment.states() == [2], 'the first rank saves alone'


def test_an_error_in_the_data_saves_first_and_a_resume_goes_on_exactly(experiment, finished):
    output = experiment.run('--fault', 'die@6', code=1)
    assert 'After an error: saved iteration 5; go on with --auto_resume' in output
    assert output.strip().endswith('RuntimeError: the test lets this rank die')
    assert experiment.states() == [4, 5]
    experiment.run('--auto_resume')
    assert_same_end(experiment, finished)


def test_nan_without_end_stops_the_run_with_code_3(experiment):
    experiment.options['train']['max_bad_steps'] = 3
    output = experiment.run('--fault', 'nan@6', '--fault-for', '100', code=3)
    assert re.search(r'Iteration 6: lq of train/lq/00\d\.png is NaN or infinite\. Step skipped', output)
    assert output.strip().splitlines()[-1].startswith('vmambair: error: stopped at iteration 8 after 3 steps with NaN')
    assert experiment.states() == [4, 7]
    saved = experiment.networks(7)['params']
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_a_run_that_ends_early_does_not_pass_for_a_finished_one(experiment):
    output = experiment.run('--fault', 'end@6', code=3)
    assert output.strip().endswith('vmambair: error: training ended at iteration 5 of 12')
    assert experiment.states() == [4, 5]


def test_a_run_without_a_single_step_does_not_pass_for_a_finished_one(experiment):
    output = experiment.run('--fault', 'nan@1', '--fault-for', '100', code=3)
    last = output.strip().splitlines()[-1]
    assert last.startswith('vmambair: error: no step was taken in iterations 1 to 12, the weights are those that')
    assert re.search(r'NaN or infinite, the last time lq of train/lq/00\d\.png$', last)
