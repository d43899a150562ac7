"""TensorBoard in a folder whose name the locale cannot read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def test_events_are_written_below_a_folder_of_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('tensorboard')
    import vmambair_arch.plugin.compat  # noqa: F401, I001 before BasicSR, which it lets import
    import basicsr.train

    folder = tmp_path / os.fsdecode(b'gr\xf6\xdfer')
    folder.mkdir()
    monkeypatch.chdir(folder)
    writer = basicsr.train.init_tb_logger(log_dir=str(folder / 'tb_logger' / 'run'))
    writer.add_scalar('loss', 1, 1)
    writer.close()
    assert list((folder / 'tb_logger' / 'run').glob('events*'))
