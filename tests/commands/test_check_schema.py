"""`vmambair check --schema` needs no option file, and ends as every command does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from experiment import ROOT

FULL = pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device of Linux')  # noqa: PTH110


@pytest.mark.parametrize(
    ('words', 'redirected', 'code', 'said'),
    [
        ('--schema', '', 0, ''),
        pytest.param('--schema', '>/dev/full', 1, 'cannot be written (No space left on device)', marks=FULL),
        ('--schema', '>&-', 0, ''),
        ('', '', 2, 'error: -opt FILE is missing'),
    ],
)
def test_every_end(tmp_path, words, redirected, code, said):
    line = f'{sys.executable} -m vmambair_arch check {words} {redirected}'
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(['sh', '-c', line], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr
    assert said in done.stderr
    assert done.stderr.count('\n') == bool(said)
    if not redirected and code == 0:
        assert json.loads(done.stdout)['type'] == 'object'
