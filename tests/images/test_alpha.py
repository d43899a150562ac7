"""Colours under an alpha of 0 reach nothing that is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vmambair_arch.images.alpha import visible_colours
from vmambair_arch.images.pixels import Image

masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda size: arrays(bool, size))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 99))
def test_what_is_hidden_takes_the_colour_of_the_nearest_that_is_seen(hidden, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.random((*hidden.shape, 3), np.float32)  # each pixel is known by its colour
    before = rgb.copy()
    alpha = np.where(hidden, 0, rng.uniform(1 / 255, 1, hidden.shape)).astype(np.float32)
    filled = visible_colours(Image(rgb, alpha))
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(filled[~hidden], rgb[~hidden])
    if hidden.all():
        np.testing.assert_array_equal(filled, rgb)
        return
    seen = np.argwhere(~hidden)
    for y, x in np.argwhere(hidden):
        distances = np.hypot(*(seen - (y, x)).T)
        chosen = [d for (v, u), d in zip(seen, distances, strict=True) if (rgb[v, u] == filled[y, x]).all()]
        assert chosen
        assert min(chosen) <= 1.05 * distances.min()  # OpenCV's mask is within 2 % of Euclid, for either of two


@pytest.mark.parametrize('alpha', [None, 1.0, 1 / 65535, 0.0])
def test_where_nothing_or_all_is_hidden_nothing_is_touched(alpha):
    rgb = np.random.default_rng(0).random((5, 7, 3), np.float32)
    image = Image(rgb, None if alpha is None else np.full((5, 7), alpha, np.float32))
    assert visible_colours(image) is rgb
