"""PSNR and SSIM against values computed another way: by hand, by scikit-image, by BasicSR."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import read_image
from vmambair_arch.metrics.psnr_ssim import luma, psnr, ssim


def _pair(h: int = 40, w: int = 53, c: int = 3, noise: float = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and a noisy copy, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (max(h // 8, 2), max(w // 8, 2), c)).astype(np.float32)
    clean = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w, c)
    noisy = clean + rng.normal(0, noise, clean.shape)
    return tuple(np.rint(x.clip(0, 255)).astype(np.uint8) for x in (noisy, clean))


def _colour(r: int, g: int, b: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), (r, g, b), np.uint8)


def test_psnr_by_hand() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    other = image.copy()
    other[0, 0, 0] = 30  # mean squared error 900 / 60
    assert psnr(image, other) == pytest.approx(10 * math.log10(65025 / 15), abs=1e-9)
    assert psnr(image, image) == math.inf
    assert ssim(_colour(9, 9, 9), _colour(9, 9, 9)) == pytest.approx(1, abs=1e-12)


def test_ssim_of_flat_images_by_hand() -> None:
    # No variance: only the luminance term (2ab + C1) / (a^2 + b^2 + C1) is left.
    c1 = 2.55**2
    assert ssim(_colour(10, 10, 10), _colour(50, 50, 50)) == pytest.approx((1000 + c1) / (2600 + c1), abs=1e-9)


@pytest.mark.parametrize(
    ('colour', 'y'),
    [((255, 0, 0), 81), ((0, 255, 0), 145), ((0, 0, 255), 41), ((255, 255, 255), 235), ((0, 0, 0), 16)],
)
def test_matlab_luma_of_the_primaries(colour: tuple[int, int, int], y: int) -> None:
    """MATLAB's rgb2ycbcr of 8-bit primaries is known; a PSNR against black shows it."""
    expected = 20 * math.log10(255 / (y - 16)) if y != 16 else math.inf
    assert psnr(_colour(*colour), _colour(0, 0, 0), y_channel=True, y_rounding='matlab') == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(16, 60), st.integers(16, 60), st.sampled_from([1, 3]), st.floats(0.5, 60), st.integers(0, 2),
    st.booleans(),
)  # fmt: skip
def test_equal_to_basicsr(h: int, w: int, c: int, noise: float, border: int, y: bool) -> None:
    from basicsr.metrics import calculate_psnr, calculate_ssim

    image, clean = _pair(h, w, c, noise)
    bgr, bgr_clean = image[..., ::-1], clean[..., ::-1]
    theirs = calculate_psnr(bgr, bgr_clean, border, test_y_channel=y)
    assert psnr(image, clean, y_channel=y, crop_border=border) == pytest.approx(theirs, abs=1e-4)
    theirs = calculate_ssim(bgr, bgr_clean, border, test_y_channel=y)
    assert ssim(image, clean, y_channel=y, crop_border=border) == pytest.approx(theirs, abs=1e-6)


def test_equal_to_scikit_image() -> None:
    metrics = pytest.importorskip('skimage.metrics')
    color = pytest.importorskip('skimage.color')
    image, clean = _pair()
    assert psnr(image, clean) == pytest.approx(metrics.peak_signal_noise_ratio(clean, image, data_range=255), abs=1e-4)
    gaussian = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False, 'data_range': 255}
    theirs = metrics.structural_similarity(image, clean, channel_axis=2, **gaussian)
    assert ssim(image, clean) == pytest.approx(theirs, abs=1e-6)
    y, y_clean = (color.rgb2ycbcr(x)[..., 0] for x in (image, clean))
    assert np.abs(luma(image.astype(float))[..., 0] - y).max() < 1e-9
    theirs = metrics.peak_signal_noise_ratio(y_clean, y, data_range=255)
    assert psnr(image, clean, y_channel=True) == pytest.approx(theirs, abs=1e-4)
    theirs = metrics.structural_similarity(y, y_clean, **gaussian)
    assert ssim(image, clean, y_channel=True) == pytest.approx(theirs, abs=1e-6)


def _rounded_luma(image: np.ndarray) -> np.ndarray:
    """In whole numbers, half a level up: (h, w, 3) -> (h, w), uint8."""
    total = image.astype(np.int64) @ np.array([65481, 128553, 24966])
    return ((total + 127_500) // 255_000 + 16).astype(np.uint8)


def test_matlab_rounding_equals_metrics_of_rounded_grey_images() -> None:
    image, clean = _pair(200, 300, noise=2)
    grey, grey_clean = _rounded_luma(image), _rounded_luma(clean)
    rounded = {'y_channel': True, 'y_rounding': 'matlab'}
    assert psnr(image, clean, **rounded) == pytest.approx(psnr(grey, grey_clean), abs=1e-9)
    assert ssim(image, clean, **rounded) == pytest.approx(ssim(grey, grey_clean), abs=1e-9)
    assert abs(psnr(image, clean, **rounded) - psnr(image, clean, y_channel=True)) > 0.01


def test_half_levels_round_up() -> None:
    """Colours whose luma lies in the middle of two levels, in floating point too."""
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 3)] * 3), -1).reshape(-1, 1, 3).astype(np.uint8)
    total = levels.astype(np.int64) @ np.array([65481, 128553, 24966])
    halves = levels[total % 255_000 == 127_500][:, None]
    assert len(halves) > 10
    assert np.array_equal(np.floor(luma(halves.astype(np.float64)) + 0.5)[..., 0], _rounded_luma(halves))


def test_float_images_are_the_same_images() -> None:
    image, clean = _pair()
    floats = [(x / 255).astype(np.float32) for x in (image, clean)]
    for options in ({}, {'y_channel': True}, {'y_channel': True, 'y_rounding': 'matlab'}, {'crop_border': 3}):
        assert psnr(*floats, **options) == pytest.approx(psnr(image, clean, **options), abs=1e-4)
        assert ssim(*floats, **options) == pytest.approx(ssim(image, clean, **options), abs=1e-6)


def test_crop_border_leaves_the_border_out() -> None:
    image, clean = _pair()
    ruined = image.copy()
    ruined[:2] = ruined[:, -2:] = 0
    assert psnr(ruined, clean, crop_border=2) == psnr(image, clean, crop_border=2)
    assert psnr(ruined, clean) < psnr(image, clean) - 3


def test_bad_input_is_named() -> None:
    image, clean = _pair(12, 20)
    with pytest.raises(UserError, match='12 x 20 x 3 against 12 x 19 x 3'):
        psnr(image, clean[:, 1:])
    with pytest.raises(UserError, match='11 x 11 pixels after the crop, got 10 x 18'):
        ssim(image, clean, crop_border=1)
    with pytest.raises(UserError, match='crop_border 6'):
        psnr(image, clean, crop_border=6)
    with pytest.raises(UserError, match='uint16'):
        psnr(image.astype(np.uint16), clean.astype(np.uint16))
    with pytest.raises(UserError, match="'matlb'"):
        psnr(image, clean, y_channel=True, y_rounding='matlb')
    with pytest.raises(UserError, match='Y channel'):
        psnr(image, clean, y_rounding='matlab')
    with pytest.raises(UserError, match='12 x 20 x 4'):
        psnr(np.zeros((12, 20, 4)), np.zeros((12, 20, 4)))


def test_registered_with_basicsr() -> None:
    from basicsr.metrics import calculate_metric

    image, clean = _pair()
    data = {'img': image[..., ::-1], 'img2': clean[..., ::-1]}
    options = {'type': 'calculate_psnr_y', 'crop_border': 4, 'y_rounding': 'matlab', 'better': 'higher'}
    expected = psnr(image, clean, y_channel=True, crop_border=4, y_rounding='matlab')
    assert calculate_metric(data, options) == expected
    expected = ssim(image, clean, y_channel=True)
    assert calculate_metric(data, {'type': 'calculate_ssim_y'}) == expected


def test_rain100l(shared: Path) -> None:
    """All 200 rainy inputs, measured by others at 26.71 dB on Y."""
    values = []
    for rainy in sorted((shared / 'data/rain100l_train/input').glob('*.webp')):
        clean = shared / 'data/rain100l_train/target' / rainy.name
        values.append(psnr(read_image(rainy).rgb, read_image(clean).rgb, y_channel=True))
    assert len(values) == 200
    assert np.mean(values) == pytest.approx(26.71, abs=0.005)


def test_set5_bicubic(shared: Path) -> None:
    """Bicubic x4 on Set5, border of 4 left out: measured by others at 28.43 dB on Y (28.42 in the papers)."""
    from basicsr.utils.matlab_functions import imresize

    values = []
    for low in sorted((shared / 'data/sr/Set5/LR_bicubic/X4').iterdir()):
        truth = read_image(shared / 'data/sr/Set5/HR' / low.name.replace('x4', '')).rgb
        up = np.rint(imresize(read_image(low).rgb, 4).clip(0, 1) * 255).astype(np.uint8)
        truth = np.rint(truth * 255).astype(np.uint8)[: up.shape[0], : up.shape[1]]
        values.append(psnr(up, truth, y_channel=True, crop_border=4))
    assert len(values) == 5
    assert np.mean(values) == pytest.approx(28.43, abs=0.005)
