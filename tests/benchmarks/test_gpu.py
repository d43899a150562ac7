"""The GPU benchmark: what it measures against is the same block, and without a GPU it says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

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
