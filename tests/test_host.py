"""What is settled before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from vmambair_arch import cli
assert 'torch' not in sys.modules  # or it would be too late
cli.main(['info', 'nothing.pth'])
print(os.environ.get('OMP_WAIT_POLICY'))
"""


@pytest.mark.parametrize(
    ('said', 'wanted'),
    [({}, 'PASSIVE'), ({'OMP_WAIT_POLICY': 'active'}, 'active'), ({'GOMP_SPINCOUNT': '1000'}, 'None')],
    ids=str,
)
def test_threads_of_a_command_sleep_while_they_wait_unless_told_otherwise(said, wanted):
    names = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')
    env = {name: value for name, value in os.environ.items() if name not in names} | said
    result = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, env=env, check=False)
    assert result.stdout.split()[-1] == wanted
