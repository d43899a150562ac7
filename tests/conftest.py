"""Fixtures that every room uses."""

from __future__ import annotations

from pathlib import Path

import pytest

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
