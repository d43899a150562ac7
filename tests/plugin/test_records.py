"""The lines of a training's log that differ from BasicSR's."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from vmambair_arch.plugin import compat

compat.apply()


@pytest.mark.parametrize('start', [1, 9])
def test_the_time_left_is_that_of_the_iterations_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """Also at the last iteration, of which BasicSR's own logger says "-1 day, 23:59:58"."""
    from basicsr.train import MessageLogger

    lines: list[str] = []
    options = {
        'name': 'tiny', 'logger': {'print_freq': 1, 'use_tb_logger': False}, 'train': {'total_iter': 12},
        'path': {'experiments_root': str(tmp_path)},
    }  # fmt: skip
    log = MessageLogger(options, start)
    monkeypatch.setattr(log.logger, 'info', lines.append)
    for iteration in (10, 12):
        log.start_time = time.time() - 5.6 * (iteration - start + 1)  # 5.6 s an iteration
        log({'epoch': 0, 'iter': iteration, 'lrs': [1e-3], 'time': 5.6, 'data_time': 0.1, 'l_pix': 0.5})
    assert re.findall(r'eta: (.*?), time', ''.join(lines)) == ['0:00:11', '0:00:00']
