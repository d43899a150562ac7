"""What is drawn as hard negatives: thin things, mostly light or dark, the same for a seed, inside the range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmambair_arch.data.lines import THINGS, draw_lines


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_image_stays_an_image_in_range(h, w, seed):
    image = np.random.default_rng(seed).random((h, w, 3), np.float32)
    before = image.copy()
    drawn = draw_lines(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_same_seed_same_things_other_seed_others():
    grey = np.full((64, 64, 3), 0.5, np.float32)
    first, again, other = (draw_lines(grey, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_most_draws_are_seen_and_most_of_the_picture_stays():
    grey = np.full((96, 96, 3), 0.5, np.float32)
    changed = np.array(
        [np.mean(np.abs(draw_lines(grey, np.random.default_rng(seed)) - grey).max(-1) > 0.02) for seed in range(100)]
    )
    assert np.mean(changed > 0.002) > 0.9
    assert np.median(changed) < 0.3


@pytest.mark.parametrize('thing', sorted({thing.__name__ for thing in THINGS}))
def test_every_thing_can_be_thin_and_straight(thing):
    draw = next(candidate for candidate in THINGS if candidate.__name__ == thing)
    thinnest = 1.0
    for seed in range(30):
        coverage = np.zeros((96, 96), np.uint8)
        draw(coverage, np.random.default_rng(seed))
        if coverage.any():
            thinnest = min(thinnest, coverage.mean() / 255)
    assert thinnest < 0.05


def test_refuses_what_is_no_float_rgb_image():
    with pytest.raises(ValueError, match='float RGB'):
        draw_lines(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0))
