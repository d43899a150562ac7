"""The GPU benchmark: what it measures against is the same block, it runs to its end, and without a GPU it says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_trials import TRIALS, Machine
from benchmarks.released_block import ReleasedBlock, scan_by_scan
from vmambair_arch.archs.oss_block import BlockOptions, OSSBlock


@pytest.mark.parametrize(('width', 'fusion'), [(1, 'mul'), (4, 'add')])
def test_the_released_steps_give_the_same_numbers(width, fusion):
    torch.manual_seed(0)
    block = OSSBlock(12, BlockOptions(channel_width=width, channel_fusion=fusion))
    x = torch.randn(2, 5, 7, 12)
    first = x.permute(0, 3, 1, 2).contiguous().requires_grad_()
    last = x.clone().requires_grad_()
    released, ours = ReleasedBlock(block, scan_by_scan)(first).permute(0, 2, 3, 1), block(last)
    torch.testing.assert_close(released, ours, rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(ours)
    (got,) = torch.autograd.grad(released, first, grad)
    (wanted,) = torch.autograd.grad(ours, last, grad)
    torch.testing.assert_close(got.permute(0, 2, 3, 1), wanted, rtol=1e-3, atol=1e-4)


def test_without_a_gpu_one_line_says_so(root):
    run = subprocess.run(
        [sys.executable, '-m', 'benchmarks.gpu'], cwd=root, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stdout == ''
    (line,) = run.stderr.splitlines()
    assert 'GPU' in line


QUICK = [name for name in TRIALS if name not in ('trainer', 'tests', 'without a C compiler', 'network')]


def test_every_trial_runs_dry_and_its_result_is_written(tmp_path):
    out = tmp_path / 'gpu.json'
    assert gpu.main(['--dry', '--minutes', '30', '--only', *QUICK, '--out', str(out)]) == 0
    results = json.loads(out.read_text())
    assert results['dry']
    assert set(results) == {'dry', *QUICK}
    assert all('error' not in results[name] for name in QUICK)
    assert results['CPU against GPU']['derain']['float32'] < 1e-6
    assert results['scan above 2^31 elements']['direction 2'] < 1e-2
    assert results['out of memory']['tiles_tried'][-1] <= 48
    assert results['graphs']['light tiles of 32']['deviation'] == 0
    assert set(results['launches']) == {'vmambair', 'rrdbnet', 'trial_seconds'}
    assert results['launches']['vmambair']['operators'] > 100
    assert results['launches']['rrdbnet']['batch 2']['host_ms'] > 0
    assert results['training modes']['checkpointed']['deviation'] < 1e-6


@pytest.mark.slow
def test_the_trials_in_processes_of_their_own_run_dry(tmp_path):
    out = tmp_path / 'gpu.json'
    assert (
        gpu.main(
            [
                '--dry',
                '--minutes',
                '30',
                '--only',
                'trainer',
                'tests',
                'without a C compiler',
                'network',
                '--out',
                str(out),
            ]
        )
        == 0
    )
    results = json.loads(out.read_text())
    assert results['trainer']['largest_difference_after_a_kill'] == 0
    assert results['tests']['exit_code'] == 0
    assert results['without a C compiler']['finite']


# --- trials that fail ------------------------------------------------------------------------------------------------
#
# Functions of this module, for the process that runs them imports it.


def works(machine: Machine) -> dict[str, Any]:
    return {'process': os.getpid()}


def sees(machine: Machine) -> dict[str, Any]:
    """What is on disk already, and the seconds that there are."""
    return {'written': list(json.loads(Path(os.environ['SEEN']).read_text())), 'seconds': machine.seconds_left}


def raises(machine: Machine) -> dict[str, Any]:
    raise RuntimeError('no kernel image is available')


def loses_the_device(machine: Machine) -> dict[str, Any]:
    raise RuntimeError('CUDA error: an illegal memory access was encountered')


def aborts(machine: Machine) -> dict[str, Any]:
    os.abort()


def leaves(machine: Machine) -> dict[str, Any]:
    os._exit(7)


def hangs(machine: Machine) -> dict[str, Any]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(600)
    return {}


def sleeps(machine: Machine) -> dict[str, Any]:
    time.sleep(600)
    return {}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts trials in the place of the real ones."""

    def put(*trials: Callable[[Machine], dict[str, Any]]) -> None:
        for name in list(TRIALS):
            monkeypatch.delitem(TRIALS, name)
        for i, trial in enumerate(trials):
            monkeypatch.setitem(TRIALS, f'{i} {trial.__name__}', trial)

    return put


def test_what_raises_or_crashes_costs_one_trial(tmp_path, monkeypatch, capfd, stand_ins):
    out = tmp_path / 'gpu.json'
    monkeypatch.setenv('SEEN', str(out))
    stand_ins(works, raises, sees, aborts, works, loses_the_device, leaves, works)
    assert gpu.main(['--dry', '--out', str(out)]) == 1
    results = json.loads(out.read_text())
    assert list(results) == ['dry', *TRIALS]
    assert results['1 raises']['error'] == 'RuntimeError: no kernel image is available'
    assert results['2 sees']['written'] == ['dry', '0 works', '1 raises']
    assert results['2 sees']['seconds'] == pytest.approx(160, abs=5)
    assert results['3 aborts'] == {'error': 'crashed (signal 6)'}
    assert 'illegal memory access' in results['5 loses_the_device']['error']
    assert results['6 leaves'] == {'error': 'ended with exit code 7'}
    processes = {results[name]['process'] for name in ('0 works', '4 works', '7 works')}
    assert len(processes) == 3, 'a new one behind a crash'
    assert os.getpid() not in processes
    said = capfd.readouterr()
    assert 'failed: 1 raises, 3 aborts, 5 loses_the_device, 6 leaves' in said.err
    assert 'in aborts' in said.err, 'where it crashed'
    assert [line.partition(':')[0] for line in said.out.splitlines()] == list(TRIALS)


def test_what_hangs_is_ended_after_its_share(tmp_path, monkeypatch, capfd, stand_ins):
    out = tmp_path / 'gpu.json'
    monkeypatch.setattr(gpu, 'SHARE', 1 / 240)
    monkeypatch.setattr(gpu, 'GRACE_S', 1.0)
    stand_ins(hangs, works)
    assert gpu.main(['--dry', '--minutes', '8', '--out', str(out)]) == 1
    results = json.loads(out.read_text())
    assert results['0 hangs'] == {'error': 'ran past 2 s'}
    assert 'process' in results['1 works']


def test_a_process_that_does_not_begin_is_charged_to_its_first_trial(tmp_path, monkeypatch, stand_ins):
    monkeypatch.setattr(gpu, 'START_S', 0.0)
    monkeypatch.setattr(gpu, 'GRACE_S', 0.0)
    stand_ins(works)
    out = tmp_path / 'gpu.json'
    assert gpu.main(['--dry', '--out', str(out)]) == 1
    assert json.loads(out.read_text())['0 works'] == {'error': 'ran past 0 s'}


def test_what_has_no_time_left_is_written_and_kept_results_stay(tmp_path, stand_ins):
    out = tmp_path / 'gpu.json'
    out.write_text('{"dry": true, "earlier": {"ms": 1}}')
    stand_ins(works)
    assert gpu.main(['--dry', '--keep', '--minutes', '0', '--out', str(out)]) == 0
    assert json.loads(out.read_text()) == {'dry': True, 'earlier': {'ms': 1}, '0 works': gpu.SKIPPED}


INTERRUPTED = """
import sys
sys.path[:0] = {path!r}
import test_gpu
from benchmarks import gpu
gpu.TRIALS.clear()
gpu.TRIALS.update(works=test_gpu.works, sleeps=test_gpu.sleeps)
sys.exit(gpu.main(['--dry', '--out', sys.argv[1]]))
"""


@pytest.mark.parametrize(('with_what', 'code'), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_process_ends_with_its_parent_and_results_are_kept(tmp_path, root, with_what, code):
    """Only the parent is told; at a terminal, Ctrl-C tells both."""
    out = tmp_path / 'gpu.json'
    script = INTERRUPTED.format(path=[str(Path(__file__).parent), str(root)])
    parent = subprocess.Popen([sys.executable, '-c', script, str(out)], stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while 'works' not in (json.loads(out.read_text()) if out.exists() else ()) and time.monotonic() < until:
            time.sleep(0.1)
        child = json.loads(out.read_text())['works']['process']
        os.kill(parent.pid, with_what)
        said = parent.communicate(timeout=60)[1]
    finally:
        parent.kill()
    assert parent.returncode == code
    assert code < 0 or said.strip() == f'benchmarks.gpu: interrupted; what was found is in {out}'
    until = time.monotonic() + 30
    while is_alive(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(child)
    assert list(json.loads(out.read_text())) == ['dry', 'works']


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended stays in the table until somebody asks how."""
    said = subprocess.run(['ps', '-o', 'stat=', '-p', str(process)], capture_output=True, text=True, check=False)
    state = said.stdout
    return bool(state.strip()) and not state.startswith('Z')
