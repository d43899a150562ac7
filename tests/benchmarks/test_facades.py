"""Drawn walls are patches as the pairs want them, differ, and have what they are drawn for: edges that repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import facades


def photograph(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    return rng.integers(60, 200, (height, width, 3), dtype=np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([16, 33, 64]), st.integers(0, 9), st.integers(0, 9))
def test_any_draw_is_a_whole_patch_and_the_same_again(seed, size, more_y, more_x):
    piece = photograph(size + more_y, size + more_x)
    first, again = (facades.facade(np.random.default_rng(seed), size, piece) for _ in range(2))
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize('cell', sorted({*facades.CELLS} - {facades._plain}, key=lambda draw: draw.__name__))
def test_every_kind_of_cell_has_edges(cell, monkeypatch):
    monkeypatch.setattr(facades, 'CELLS', (cell,))
    flat = np.full((64, 64, 3), 128, np.uint8)  # what is seen is drawn
    spreads = [float(facades.facade(np.random.default_rng(n), 64, flat).std(axis=(0, 1)).mean()) for n in range(8)]
    assert np.median(spreads) > 8


def test_plaster_is_smooth(monkeypatch):
    monkeypatch.setattr(facades, 'CELLS', (facades._plain,))
    flat = np.full((64, 64, 3), 128, np.uint8)
    steps = [np.abs(np.diff(facades._wall(np.random.default_rng(n), 64, flat), axis=1)).max() for n in range(8)]
    assert max(steps) < 1


def test_a_wall_may_end_at_an_edge_before_the_photograph():
    piece = photograph(64, 64)
    shares = [
        float((np.abs(facades.facade(np.random.default_rng(n), 64, piece).astype(int) - piece) < 2).all(2).mean())
        for n in range(24)
    ]
    assert max(shares) > 0.2  # the photograph itself, in some
    assert np.median(shares) < 0.05
