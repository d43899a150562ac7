"""Files are written whole or not at all, and what is not a file is left alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from experiment import ROOT

from vmambair_arch import files
from vmambair_arch.errors import UserError
from vmambair_arch.files import replacing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text('half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('kind', ['folder', 'pipe', 'link to a device'])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'target'
    if kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    before = path.lstat()
    with pytest.raises(UserError, match='target: is there and is not a file'), replacing(path) as temporary:
        temporary.write_text('new')
    assert path.lstat().st_ino == before.st_ino
    assert stat.S_IFMT(path.lstat().st_mode) == stat.S_IFMT(before.st_mode)


def test_a_link_to_a_file_is_replaced_and_the_file_stays(tmp_path: Path) -> None:
    elsewhere, path = tmp_path / 'elsewhere', tmp_path / 'link'
    elsewhere.write_text('old')
    path.symlink_to(elsewhere)
    with replacing(path) as temporary:
        temporary.write_text('new')
    assert (elsewhere.read_text(), path.read_text()) == ('old', 'new')


WRITE = (
    'import sys, time\n'
    'from vmambair_arch.errors import guard\n'
    'from vmambair_arch.files import replacing\n'
    'def work():\n'
    '    with replacing(sys.argv[1]) as temporary:\n'
    "        temporary.write_text('half')\n"
    "        print('writing', flush=True)\n"
    '        time.sleep(60)\n'
    'sys.exit(guard(work))\n'
)


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, '-c', WRITE, str(tmp_path / 'a.png')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell in the background ignores some of them
    )
    assert process.stdout.readline() == 'writing\n'
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert 'Traceback' not in errors
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_another_writes_is_not(tmp_path):
    names = ('.0123456789ab.part.png', '.ba9876543210.part.png', '.my.part.png')
    old, young, other = (tmp_path / name for name in names)
    for path in (old, young, other):
        path.write_text('half')
    hours_ago = time.time() - 3 * 3600
    for path in (old, other):
        os.utime(path, (hours_ago, hours_ago))
    with replacing(tmp_path / 'a.png') as temporary:
        temporary.write_text('whole')
    assert {path.name for path in tmp_path.iterdir()} == {'a.png', young.name, other.name}


def test_scratch_folders_of_processes_that_live_are_left_and_those_of_others_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('fcntl')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    with files.scratch_folder('ours-') as first:
        (first / 'upload.png').write_bytes(b'1')
        code = 'import os, sys; from vmambair_arch import files\n'
        code += (
            'with files.scratch_folder("ours-") as f: (f / "a").touch(); print(f, flush=True); os.kill(os.getpid(), 9)'
        )
        environment = {**os.environ, 'TMPDIR': str(tmp_path), 'PYTHONPATH': str(ROOT)}
        killed = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
        left = Path(killed.stdout.strip())
        assert (left / 'a').is_file()
        assert (first / 'upload.png').is_file()
        strangers = [tmp_path / 'ours-but-not-locked', tmp_path / 'theirs']
        for folder in strangers:
            folder.mkdir()
        with files.scratch_folder('ours-') as second:
            assert not left.exists()
            assert second != first
            assert (first / 'upload.png').is_file()
        assert not second.exists()
    assert sorted(tmp_path.iterdir()) == sorted(strangers)


def test_a_scratch_folder_goes_with_whatever_ends_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))

    def stopped() -> None:
        with files.scratch_folder('ours-') as folder:
            (folder / 'a').touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


RECORD = {'iter': 3, 'l_pix': 0.25}
LINE = b'{"iter": 2, "networks": ["g"]}'


@pytest.mark.parametrize('kept', [0, 1, 12, len(LINE) - 1, len(LINE), None])
@pytest.mark.parametrize('tail', [b'', b'\0\0\0', 'ä'.encode()[:1]])
def test_a_line_that_a_power_cut_ended_takes_no_other_with_it(tmp_path, kept, tail):
    """A file system may leave zeros where the rest was to be."""
    path = tmp_path / 'records.jsonl'
    whole = {'iter': 1}
    files.append_record(path, whole)
    with path.open('ab') as file:
        file.write((LINE[:kept] if kept is not None else LINE + b'\n') + tail)
    for _ in range(2):
        files.append_record(path, RECORD)
    *found, one, other = files.read_records(path)
    assert (one, other) == (RECORD, RECORD)
    assert found[0] == whole
    assert len(found) == 1 + (kept is None or (kept == len(LINE) and not tail))
    assert b'\n\n' not in path.read_bytes()


def test_records_that_ended_well_are_lines_without_gaps(tmp_path):
    path = tmp_path / 'records.jsonl'
    for i in range(3):
        files.append_record(path, {'iter': i})
    assert path.read_bytes() == b'{"iter": 0}\n{"iter": 1}\n{"iter": 2}\n'
