"""What is settled before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmambair_arch.host import SPINS, computes_in_bf16

PROGRAM = """
import os, sys
from vmambair_arch import cli
assert 'torch' not in sys.modules  # or it would be too late
cli.main(['info', 'nothing.pth'])
print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))
"""


@pytest.mark.parametrize(
    ('said', 'wanted'),
    [
        ({}, ['PASSIVE', str(SPINS)]),
        ({'OMP_WAIT_POLICY': 'active'}, ['active', 'None']),
        ({'GOMP_SPINCOUNT': '7'}, ['None', '7']),
        ({'KMP_BLOCKTIME': '200'}, ['None', 'None']),
    ],
    ids=str,
)
def test_threads_of_a_command_sleep_while_they_wait_unless_told_otherwise(said, wanted):
    names = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')
    env = {name: value for name, value in os.environ.items() if name not in names} | said
    result = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, env=env, check=False)
    assert result.stdout.split()[-2:] == wanted


@pytest.mark.parametrize(
    ('said', 'wanted'),
    [
        ('flags\t\t: fpu avx2 avx512f avx512_bf16', True),
        ('flags\t\t: fpu avx2 avx512f avx512_vnni', False),
        ('flags : avx2 amx_bf16', True),
        ('Features\t: fp asimd bf16', True),
        ('Features\t: fp asimd', False),
        ('processor : 0', True),
        (None, True),
    ],
)
def test_processors_with_bf16(monkeypatch, said, wanted):
    def read_text(path):
        if said is None:
            raise FileNotFoundError
        return f'processor : 0\n{said}\n'

    monkeypatch.setattr(Path, 'read_text', read_text)
    assert computes_in_bf16() == wanted
