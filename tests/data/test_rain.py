"""The rain is worth removing, looks the way its configuration says, and repeats for a given seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch.data import rain
from vmambair_arch.data.photographs import photographs
from vmambair_arch.data.rain import RainConfig, add_rain, rain_layer
from vmambair_arch.errors import UserError

RAIN_OF_SEED_5 = 0.0683947  # mean opacity of 48x48 pixels of the default rain


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([65.481, 128.553, 24.966]) + 16


def one(low_high: float) -> tuple[float, float]:
    return (low_high, low_high)


@pytest.fixture(scope='module')
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """(clean, rainy) of every photograph with three seeds, both rounded to 8 bits."""
    result = []
    for photo in photographs():
        clean = photo.image[:600, :600].astype(np.float32) / 255
        for seed in range(3):
            rainy = add_rain(clean, np.random.default_rng(seed))
            result.append((clean, np.round(rainy * 255) / 255))
    return result


def test_default_rain_is_worth_removing(pairs):
    psnr = [10 * np.log10(255**2 / np.mean((luma(a) - luma(b)) ** 2)) for a, b in pairs]
    hit = [np.mean(np.abs(a - b).max(axis=-1) > 5 / 255) for a, b in pairs]
    assert 20 < np.mean(psnr) < 25
    assert min(hit) > 0.1
    assert np.ptp(psnr) > 3  # some light rain, some heavy


def test_rain_stays_in_range_and_only_moves_pixels_towards_its_light(pairs):
    for _, rainy in pairs:
        assert rainy.dtype == np.float32
        assert rainy.min() >= 0
        assert rainy.max() <= 1
    clean, _ = pairs[0]
    rainy = add_rain(clean, np.random.default_rng(0), RainConfig(light=one(1.0)))
    assert (rainy >= clean - 1e-6).all()


def test_same_seed_same_rain_other_seed_other_rain():
    layers = [rain_layer(64, 80, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(layers[0], layers[1])
    assert np.abs(layers[0] - layers[2]).max() > 0.1


@pytest.mark.parametrize('lean', [-30, 0, 30])
def test_streaks_lean_as_asked(lean):
    # Wide streaks: central differences turn the direction of thin ones.
    config = RainConfig(angle=one(lean), angle_spread=0, width=one(6))
    layer = rain_layer(200, 200, np.random.default_rng(0), config)
    dy, dx = np.gradient(layer)
    # The structure tensor's weak axis runs along the streaks: positive angles have their foot on the left.
    across = 0.5 * np.degrees(np.arctan2(2 * (dx * dy).sum(), (dx * dx - dy * dy).sum()))
    assert across == pytest.approx(lean, abs=3)


def test_density_length_width_and_opacity_do_what_they_say():
    def mean(**change) -> float:
        base = {'density': one(20), 'length': one(30), 'width': one(1.5), 'opacity': one(0.3), 'gust': 0.0}
        return float(rain_layer(300, 300, np.random.default_rng(0), RainConfig(**base | change)).mean())

    base = mean()
    assert mean(density=one(40)) == pytest.approx(2 * base, rel=0.15)
    assert mean(length=one(60)) == pytest.approx(2 * base, rel=0.2)
    assert mean(width=one(3)) == pytest.approx(2 * base, rel=0.15)
    assert mean(opacity=one(0.6)) == pytest.approx(2 * base, rel=0.15)
    assert mean(gust=1.0) == pytest.approx(0.5 * base, rel=0.25)
    assert mean(density=one(0)) == 0


def test_rain_of_twice_the_size_is_the_rain_of_the_picture_enlarged_twice():
    config = {'angle': one(0), 'angle_spread': 0, 'length': one(20), 'width': one(3), 'density': one(30), 'gust': 0.0}

    def wide(size: float) -> float:
        layers = [
            rain_layer(160, 160, np.random.default_rng(s), RainConfig(**config, size=one(size))) for s in range(8)
        ]
        across = np.mean([np.abs(np.diff(layer, axis=1)).mean() / layer.mean() for layer in layers])
        return 1 / float(across)

    assert wide(2) == pytest.approx(2 * wide(1), rel=0.2)

    def mean(size: float) -> float:
        layers = [
            rain_layer(160, 160, np.random.default_rng(s), RainConfig(**config, size=one(size))) for s in range(8)
        ]
        return float(np.mean(layers))

    assert mean(2) == pytest.approx(mean(1), rel=0.2)  # fewer and larger: as much of the picture


def test_sizes_are_drawn_with_each_doubling_as_often_as_the_next():
    config = RainConfig(angle=one(0), angle_spread=0, width=one(1.5), density=one(200), size=(1, 4), gust=0)
    layers = [rain_layer(64, 64, np.random.default_rng(s), config) for s in range(200)]
    edges = np.array([np.abs(np.diff(layer, axis=1)).mean() / layer.mean() for layer in layers])
    largest = np.array(
        [
            np.abs(np.diff(layer, axis=1)).mean() / layer.mean()
            for layer in (
                rain_layer(64, 64, np.random.default_rng(s), dataclasses.replace(config, size=one(2)))
                for s in range(40)
            )
        ]
    )
    assert 0.35 < np.mean(edges < np.median(largest)) < 0.65  # half of them above 2, half below


def test_blur_softens_the_streaks_and_keeps_their_light():
    sharp, soft = (
        rain_layer(100, 100, np.random.default_rng(0), RainConfig(width=one(1.5), blur=one(blur))) for blur in (0, 2)
    )
    assert soft.mean() == pytest.approx(sharp.mean(), rel=0.05)
    assert soft.max() < sharp.max()
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.5 * np.abs(np.diff(sharp, axis=1)).mean()


def test_a_new_key_leaves_the_rain_of_a_seed_as_it_was():
    # Figures of the past were measured on this rain.
    layer = rain_layer(48, 48, np.random.default_rng(5))
    assert layer.mean() == pytest.approx(RAIN_OF_SEED_5, abs=1e-5)


def test_rain_reaches_the_edges_as_often_as_the_middle():
    layers = np.mean([rain_layer(60, 60, np.random.default_rng(s)) for s in range(150)], axis=0)
    edge = np.concatenate([layers[:6].ravel(), layers[-6:].ravel(), layers[:, :6].ravel(), layers[:, -6:].ravel()])
    assert edge.mean() == pytest.approx(layers[20:40, 20:40].mean(), rel=0.15)


def test_veil_lies_over_everything():
    clean = np.zeros((32, 32, 3), np.float32)
    rainy = add_rain(clean, np.random.default_rng(0), RainConfig(density=one(0), veil=one(0.2), light=one(0.5)))
    np.testing.assert_allclose(rainy, 0.1, atol=1e-6)


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (3, 2)])
def test_tiny_images_get_rain_too(size):
    assert add_rain(np.zeros((*size, 3), np.float32), np.random.default_rng(0)).shape == (*size, 3)


def test_refuses_what_is_no_float_rgb_image():
    with pytest.raises(ValueError, match='float RGB'):
        add_rain(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0))
    with pytest.raises(ValueError, match='float RGB'):
        add_rain(np.zeros((8, 8)), np.random.default_rng(0))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'lenght': [1, 2]}, "unknown key 'lenght' \\(did you mean 'length'"),
        ({'opacity': [0.5, 1.5]}, 'opacity must be'),
        ({'density': [5, 1]}, 'density must be'),
        ({'length': 'long'}, 'length must be two numbers'),
        ({'size': [0, 2]}, 'size must be'),
        ({'blur': [-1, 2]}, 'blur must be'),
        ({'gust': 2}, 'gust must be a number from 0 to 1, not 2'),
        ({'angle_spread': '3'}, 'angle_spread must be a number'),
    ],
)
def test_bad_options_name_the_key(options, message):
    with pytest.raises(UserError, match=message):
        RainConfig.from_options(options)


PAIRS = [field.name for field in dataclasses.fields(RainConfig) if isinstance(field.default, tuple)]
NUMBERS = [field.name for field in dataclasses.fields(RainConfig) if not isinstance(field.default, tuple)]


@pytest.mark.parametrize('huge', [1001, 1e9, 1e300, float('inf'), float('nan'), 10**400])
@pytest.mark.parametrize('name', [*PAIRS, *NUMBERS])
def test_every_number_has_an_end(name, huge):
    """Of a density of 1e9 nothing was heard for a minute."""
    low = max(0, getattr(RainConfig(), name)[0]) if name in PAIRS else 0
    with pytest.raises(UserError, match=f'rain: {name} must be'):
        RainConfig.from_options({name: [low, huge] if name in PAIRS else huge})


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_all_the_rain_that_is_allowed_can_be_drawn(data):
    """Up to its ends; the numbers of streaks stay such that it does not take minutes."""
    chosen = {}
    for name in (*PAIRS, *NUMBERS):
        lowest, highest = rain._LIMITS.get(name, (0, 1))
        number = st.floats(lowest, highest) | st.sampled_from([lowest, highest])
        chosen[name] = sorted(data.draw(st.tuples(number, number))) if name in PAIRS else data.draw(number)
    layer = rain_layer(9, 12, np.random.default_rng(0), RainConfig.from_options(chosen))
    assert layer.shape == (9, 12)
    assert ((layer > -1e-6) & (layer <= 1)).all()  # the blur rounds


def test_options_override_the_defaults():
    config = RainConfig.from_options({'angle': [0, 5]})
    assert config.angle == (0.0, 5.0)
    assert config.density == RainConfig().density


def test_photographs_are_colour_and_the_splits_are_apart():
    train, unseen = photographs('train'), photographs('unseen')
    assert len(unseen) >= 2
    assert not {p.name for p in train} & {p.name for p in unseen}
    for photo in train + unseen:
        assert photo.image.dtype == np.uint8
        assert photo.image.shape[2] == 3
        assert np.ptp(photo.image.astype(int), axis=2).mean() > 3  # colour, not grey in three channels
        assert photo.licence
