"""SIGTERM and Ctrl-C in the middle of any command: the exit code of shells, one line, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from experiment import ROOT, options, write_options, write_pairs

COMMANDS = {
    'restore': ('restore', 'val/lq', '-o', 'out', '-m', 'derain'),
    'evaluate': ('evaluate', 'derain', '--truth', 'val/gt', '--lq', 'val/lq', '--out', 'out'),
    'export': ('export', 'derain', 'out.onnx'),
    'profile': ('profile', '-opt', 'run.yml'),
    'check --samples': ('check', '-opt', 'run.yml', '--samples', 'out'),
    'train': ('train', '-opt', 'run.yml'),
    'web': ('web', '--port', '0'),
}
# Sends the signal to itself as the n-th module of a network is made, after everything is imported.
WRAPPER = """
import os, signal, sys
import torch, numpy, cv2
from vmambair_arch import cli
real, left = torch.nn.Module.__init__, [int(sys.argv[2])]
def module(self, *args, **more):
    real(self, *args, **more)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), int(sys.argv[1]))
torch.nn.Module.__init__ = module
sys.exit(cli.main(sys.argv[3:]))
"""
QUICK = [('restore', signal.SIGTERM, 40), ('train', signal.SIGINT, 40)]
ALL = [(name, number, at) for name in COMMANDS for number in (signal.SIGTERM, signal.SIGINT) for at in (1, 60)]


def stop(command: tuple[str, ...], number: int, at: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(
        [sys.executable, '-c', WRAPPER, str(int(number)), str(at), *command],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'number', 'at'),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK)],
)
def test_a_signal_in_the_middle(tmp_path: Path, name: str, number: signal.Signals, at: int) -> None:
    for part in ('train', 'val'):
        write_pairs(tmp_path / part, 3, 32)
    kinds = {'train': 'PairedProgressiveDataset', 'val': 'PairedValidationDataset'}
    sets = {f'datasets__{part}__type': kind for part, kind in kinds.items()}
    write_options(tmp_path / 'run.yml', options(model_type='VmambaIRModel', **sets))
    if name == 'web':
        pytest.importorskip('gradio')
    done = stop(COMMANDS[name], number, at, tmp_path)
    assert done.returncode == 128 + number, done.stderr
    assert 'Traceback' not in done.stderr
    line = 'vmambair: interrupted' if number == signal.SIGINT else 'vmambair: ended by SIGTERM'
    assert line in done.stderr.splitlines()
    assert not list(tmp_path.rglob('*.part*'))
    assert not list(tmp_path.glob('out*.*'))
