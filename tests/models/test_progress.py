"""The bar that a person sees, and nobody else."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from basicsr.utils import get_root_logger

from vmambair_arch.models.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_log_lines_stay_whole(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', terminal := Terminal())
    logger = get_root_logger()
    console = logging.StreamHandler(terminal)
    monkeypatch.setattr(logger, 'handlers', [console])
    monkeypatch.setattr(logger, 'level', logging.INFO)
    bar = ProgressBar(20, rank=0)
    for iteration in (11, 12, 13):
        bar.advance(iteration, 0.25)
    logger.warning('a line of the log')
    bar.close()
    text = terminal.getvalue()
    assert '13/20' in text
    assert 'loss 0.2500' in text
    assert '\n' not in text.partition('a line of the log')[0].rpartition('\r')[2]  # the bar was wiped before it
    assert logger.handlers == [console]


@pytest.mark.parametrize(('stream', 'rank'), [(io.StringIO, 0), (Terminal, 1)])
def test_no_bar_in_a_file_or_on_another_rank(monkeypatch, stream, rank):
    monkeypatch.setattr(sys, 'stderr', found := stream())
    bar = ProgressBar(20, rank)
    bar.advance(1, 0.25)
    bar.close()
    assert found.getvalue() == ''
