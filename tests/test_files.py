"""Files are written whole or not at all, and what is not a file is left alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

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
