"""Fixtures that every room uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Threads that spin while they wait make the suite ten times slower as soon as anything else wants a core. OpenMP reads
# this when torch is first imported, here and in the processes that tests start.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """Development data beside the checkout: real images, weights and parity fixtures. Skips where there is none."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'fixtures').is_dir():
        pytest.skip('no shared development data beside the checkout')
    return folder
