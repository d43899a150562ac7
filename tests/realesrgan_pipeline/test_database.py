"""Databases that are cut off are refused in one line, and never end a process by a signal."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realesrgan_pipeline import database

READ = """
import hashlib, json, sys
from pathlib import Path
from realesrgan_pipeline import database

for root, sizes in json.loads(sys.argv[1]).items():
    for size in sizes:
        with Path(root, 'data.mdb').open('r+b') as file:
            file.truncate(size)
        try:
            values = b''.join(database.value(root, key) for key in database.keys(root))
            said = hashlib.sha256(values).hexdigest()
        except ValueError as error:
            said = str(error)
        print(json.dumps([root, size, said]), flush=True)
"""
"""Cut databases off at smaller and smaller sizes, and read everything of them each time."""


def make(root: Path, count: int, seed: int = 0, batch: int = 10) -> str:
    """A database of `count` values of 1 to 20 000 bytes, written in several transactions; SHA-256 of all values."""
    rng = np.random.default_rng(seed)
    values = [rng.bytes(int(size)) for size in rng.integers(1, 20_000, count)]
    with lmdb.open(str(root), map_size=2**27) as opened:
        for start in range(0, count, batch):
            with opened.begin(write=True) as transaction:
                for number in range(start, min(start + batch, count)):
                    transaction.put(f'image {number:05d}'.encode(), values[number])
    lines = [f'image {number:05d}.png (9,8,3) 1\n' for number in range(count)]
    (root / 'meta_info.txt').write_text(''.join(lines))
    return hashlib.sha256(b''.join(values)).hexdigest()


def needed(root: Path) -> int:
    """Bytes of `data.mdb` that its images need."""
    path = root / 'data.mdb'
    with path.open('rb') as file:
        size = path.stat().st_size
        meta = database._newest_meta(file, size)
        assert not isinstance(meta, str)
        return max(database._ends(file, size, meta[0], meta[2]))


def test_a_database_cut_off_anywhere_is_one_line_or_whole(tmp_path):
    """In a process of its own, which SIGBUS would end. What no image needs, as free pages, may be missing."""
    one, many, free = (tmp_path / f'{name}.lmdb' for name in ('one', 'many', 'free'))
    digests = {str(root): make(root, count) for root, count in ((one, 1), (many, 60), (free, 5))}
    with lmdb.open(str(free), map_size=2**27) as opened:
        with opened.begin(write=True) as transaction:
            transaction.put(b'large', bytes(200_000))
        with opened.begin(write=True) as transaction:
            transaction.delete(b'large')
        for _ in range(5):  # until its root has moved to pages that were free
            with opened.begin(write=True) as transaction:
                transaction.put(b'small', b'1')
    page = os.sysconf('SC_PAGESIZE')
    sizes, needs = {}, {}
    for root in (one, many, free):
        whole = (root / 'data.mdb').stat().st_size
        needs[str(root)] = need = needed(root)
        steps = {whole, whole - 1, need, need - 1, need - page, 2 * page, page, 100, 0}
        sizes[str(root)] = sorted(steps | set(np.linspace(0, whole - 1, 40).astype(int).tolist()), reverse=True)
    assert needs[str(free)] < sizes[str(free)][0] - 50_000
    environment = os.environ | {'PYTHONPATH': str(Path(database.__file__).parents[1])}
    command = [sys.executable, '-c', READ, json.dumps(sizes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-500:])  # -7 for SIGBUS
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == sum(map(len, sizes.values()))
    for root, size, said in answers:
        if size >= needs[root]:
            assert said == digests[root], (root, size)
        else:
            assert said.startswith(f'{root}: cannot be opened as LMDB (data.mdb is '), (size, said)
            assert 'copy it again' in said or size == 0
            assert '\n' not in said


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), batch=st.integers(1, 40), removed=st.integers(0, 40), seed=st.integers(0, 99))
def test_a_whole_database_is_taken_whatever_was_done_to_it(tmp_path_factory, count, batch, removed, seed):
    """Removing leaves free pages, also at the end of the file, where they may never have been written."""
    root = tmp_path_factory.mktemp('many') / 'photos.lmdb'
    make(root, count, seed, batch)
    with lmdb.open(str(root), map_size=2**27) as opened:
        for number in range(min(removed, count)):
            with opened.begin(write=True) as transaction:
                transaction.delete(f'image {number:05d}'.encode())
                transaction.put(b'for a while', bytes(50_000))
                transaction.delete(b'for a while')
    assert database.fault_of(root / 'data.mdb') == ''
    lines = (root / 'meta_info.txt').read_text().splitlines()[removed:]
    if lines:
        (root / 'meta_info.txt').write_text('\n'.join(lines))
        assert len(database.keys(str(root))) == len(lines)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'', r'data\.mdb is empty'),
        (b'x' * 5000, r'data\.mdb is no data file of LMDB'),
        (None, r'data\.mdb is missing'),
    ],
)
def test_what_is_no_database_is_said(tmp_path, content, said):
    root = tmp_path / 'photos.lmdb'
    make(root, 1)
    (root / 'data.mdb').unlink()
    if content is not None:
        (root / 'data.mdb').write_bytes(content)
    with pytest.raises(ValueError, match=said) as refused:
        database.keys(str(root))
    assert '\n' not in str(refused.value)


def test_a_database_that_was_made_anew_is_read_anew(tmp_path):
    root = tmp_path / 'photos.lmdb'
    make(root, 1)
    assert database.keys(str(root)) == ['image 00000']
    for path in root.iterdir():
        path.unlink()
    make(root, 2, seed=1)
    assert database.keys(str(root)) == ['image 00000', 'image 00001']
    with (root / 'data.mdb').open('r+b') as file:
        file.truncate(9000)
    with pytest.raises(ValueError, match='is cut off'):
        database.value(str(root), 'image 00000')
