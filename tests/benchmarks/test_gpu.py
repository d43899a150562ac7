"""The GPU benchmark: what it measures against is the same block, it runs to its end, and without a GPU it says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_trials import TRIALS
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
    assert gpu.main(['--dry', '--only', *QUICK, '--out', str(out)]) == 0
    results = json.loads(out.read_text())
    assert results['dry']
    assert set(results) == {'dry', *QUICK}
    assert all('error' not in results[name] for name in QUICK)
    assert results['CPU against GPU']['derain']['float32'] < 1e-6
    assert results['scan above 2^31 elements']['direction 2'] < 1e-2
    assert results['out of memory']['tiles_tried'][-1] <= 48
    assert results['graphs']['light tiles of 32']['deviation'] == 0
    assert results['launches']['operators'] > 100
    assert results['training modes']['checkpointed']['deviation'] < 1e-6


@pytest.mark.slow
def test_the_trials_in_processes_of_their_own_run_dry(tmp_path):
    out = tmp_path / 'gpu.json'
    assert gpu.main(['--dry', '--only', 'trainer', 'tests', 'without a C compiler', 'network', '--out', str(out)]) == 0
    results = json.loads(out.read_text())
    assert results['trainer']['largest_difference_after_a_kill'] == 0
    assert results['tests']['exit_code'] == 0
    assert results['without a C compiler']['finite']


def test_what_fails_and_what_has_no_time_left_is_written_too(tmp_path, monkeypatch, capsys):
    """The results of the trials before are on disk when one fails."""
    out = tmp_path / 'gpu.json'
    seen = []

    def fail(machine):
        seen.append(json.loads(out.read_text()))
        raise RuntimeError('no kernel image is available')

    monkeypatch.setitem(gpu.TRIALS, 'block', fail)
    assert gpu.main(['--dry', '--only', 'depthwise', 'block', 'tiles', '--out', str(out)]) == 1
    assert 'torch NHWC' in seen[0]['depthwise']['gate bfloat16']
    results = json.loads(out.read_text())
    assert 'no kernel image' in results['block']['error']
    assert 'error' not in results['tiles']
    assert 'failed: block' in capsys.readouterr().err
    assert gpu.main(['--dry', '--minutes', '0', '--only', 'tiles', '--out', str(out)]) == 0
    assert json.loads(out.read_text())['tiles']['skipped'] == 'no time was left'


def test_a_device_that_is_lost_costs_one_trial(tmp_path, monkeypatch):
    def fail(machine):
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    out = tmp_path / 'gpu.json'
    monkeypatch.setitem(gpu.TRIALS, 'block', fail)
    assert gpu.main(['--dry', '--only', 'block', 'depthwise', '--out', str(out)]) == 1
    results = json.loads(out.read_text())
    assert 'illegal memory access' in results['block']['error']
    assert 'torch NHWC' in results['depthwise']['silu float32'], 'tried by another process'
