"""A disk that is full, or a folder that is closed, is one line, whatever was to be written there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from experiment import run

SCRIPT = """
import json, resource, signal, sys

import torch  # imported before the limit: what it writes is not our matter
from vmambair_arch import cli

commands = json.loads(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for words in commands:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    code = cli.main(words)
    print('ended with', code, file=sys.stderr, flush=True)
"""

TARGETS = {
    'convert': ('.pth', '.safetensors'),
    'interpolate': ('.pth', '.safetensors'),
    'export': ('.pt2', *(('.onnx',) if importlib.util.find_spec('onnx') else ())),
}


def commands(checkpoint: Path, folder: str) -> dict[str, list[str]]:
    found = {}
    for command, suffixes in TARGETS.items():
        sources = [str(checkpoint)] * (2 if command == 'interpolate' else 1)
        for suffix in suffixes:
            target = f'{folder}/{command}{suffix}'
            before = ['-o'] if command == 'interpolate' else []
            found[target] = [command, *sources, *before, target]
    return found


@pytest.mark.parametrize('older', [False, True])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, checkpoint: Path, older: bool) -> None:
    (tmp_path / 'out').mkdir()
    wanted = commands(checkpoint, 'out')
    if older:
        for target in wanted:
            (tmp_path / target).write_bytes(b'older')
    done = run('-c', SCRIPT, json.dumps(list(wanted.values())), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Traceback' not in done.stderr
    *said, rest = done.stderr.split('ended with 2\n')
    assert len(said) == len(wanted), done.stderr
    assert not rest
    for target, text in zip(wanted, said, strict=True):
        last = text.strip().splitlines()[-1]
        assert last == f'vmambair: error: {target}: cannot be written (File too large)'
    left = {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
    assert left == ({Path(target).name: b'older' for target in wanted} if older else {})
