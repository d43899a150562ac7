"""Mixed samples: what comes from where, in every image of a sample alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmambair_arch.data.mixing import cutblur, cutmix, mixup, permute_colours, read_mixing
from vmambair_arch.errors import UserError


def sample(value: float, size: int = 12, scale: int = 1) -> dict[str, np.ndarray]:
    return {
        'lq': np.full((size, size, 3), value, np.float32),
        'gt': np.full((size * scale, size * scale, 3), value, np.float32),
    }


@given(st.integers(0, 1000), st.sampled_from([1, 2, 4]), st.floats(0.2, 3))
def test_cutmix_takes_the_same_rectangle_of_every_image(seed, scale, beta):
    mixed = cutmix(sample(0, scale=scale), sample(1, scale=scale), np.random.default_rng(seed), beta)
    assert set(np.unique(mixed['lq'])) <= {0, 1}
    assert np.array_equal(mixed['lq'].repeat(scale, 0).repeat(scale, 1), mixed['gt'])
    rows, columns = mixed['lq'][..., 0].any(1), mixed['lq'][..., 0].any(0)
    assert mixed['lq'][..., 0].sum() == rows.sum() * columns.sum(), 'one rectangle'


def test_mixup_weighs_every_image_alike():
    mixed = mixup(sample(0), sample(1), np.random.default_rng(0), 1.2)
    assert len(np.unique(mixed['lq'])) == 1
    assert 0 < mixed['lq'][0, 0, 0] == mixed['gt'][0, 0, 0] < 1


def test_cutblur_puts_the_target_inside_or_outside_of_a_rectangle():
    clean = {'lq': np.zeros((10, 10, 3), np.float32), 'gt': np.ones((10, 10, 3), np.float32)}
    shares = [cutblur(clean, np.random.default_rng(seed), 0.7)['lq'].mean() for seed in range(20)]
    assert {round(float(share), 2) for share in shares} == {0.49, 0.51}
    assert (clean['lq'] == 0).all(), 'the sample itself stays'


def test_colours_are_permuted_alike():
    rng = np.random.default_rng(3)
    pair = {'lq': rng.random((4, 4, 3), np.float32), 'gt': rng.random((8, 8, 3), np.float32)}
    permuted = permute_colours(pair, np.random.default_rng(2))
    orders = {tuple(int(np.argmax(pair[k][0, 0] == v)) for v in permuted[k][0, 0]) for k in pair}
    assert len(orders) == 1
    assert orders != {(0, 1, 2)}


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'mixup': {'alpha': 1}}, 'mixup takes beta and probability'),
        ({'cutmix': {'beta': 0}}, 'cutmix takes beta > 0'),
        ({'cutblur': {'ratio': 1.5}}, 'cutblur takes ratio in 0..1'),
        ({'cutmix': {'probability': True}}, 'cutmix takes'),
        ({'cutmix': 3}, 'cutmix takes'),
    ],
)
def test_what_cannot_be_is_named(section, message):
    with pytest.raises(UserError, match=message):
        read_mixing(section, 'data set x', 1)


def test_cutblur_is_for_inputs_as_large_as_targets():
    with pytest.raises(UserError, match='cutblur is for scale 1'):
        read_mixing({'cutblur': {}}, 'data set x', 4)
    assert read_mixing({'cutblur': {}, 'cutmix': {'beta': 2}}, 'x', 1) == {
        'cutblur': {'ratio': 0.7, 'probability': 0.5},
        'cutmix': {'beta': 2, 'probability': 0.5},
    }
