from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from realesrgan_pipeline import imresize
from realesrgan_pipeline.resize import resize


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('name', ['Set5', 'Set14'])
def test_imresize_gives_every_benchmark_image_to_the_last_bit(shared, name, scale):
    folder = shared / 'data' / 'sr' / name
    count = 0
    for path in sorted((folder / 'LR_bicubic' / f'X{scale}').iterdir()):
        hr = cv2.imread(str(folder / 'HR' / path.name.replace(f'x{scale}.', '.')), cv2.IMREAD_UNCHANGED)
        h, w = (n // scale * scale for n in hr.shape[:2])
        np.testing.assert_array_equal(imresize(hr[:h, :w], 1 / scale), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        count += 1
    assert count == {'Set5': 5, 'Set14': 14}[name]


def test_imresize_is_basicsrs_up_to_the_rounding_in_between(basicsr_degradations):
    from basicsr.utils.matlab_functions import imresize as float_imresize

    # No black and white side by side: MATLAB clips what overshoots in between.
    image = np.random.default_rng(0).integers(80, 180, (48, 60, 3), dtype=np.uint8)
    for scale in (1 / 4, 1 / 3, 1 / 2, 2):
        expected = float_imresize(image / 255, scale).clip(0, 1) * 255
        assert np.abs(imresize(image, scale) - expected).max() < 1.6


def test_imresize_rounds_to_8_bits_between_the_two_passes():
    # Columns of 0 and 255, weights that overshoot: the first pass clips, so a second pass over floats would differ.
    image = np.zeros((16, 16), np.uint8)
    image[8:, :8] = 255
    image[:8, 8:] = 255
    half = imresize(image, 1 / 2)
    assert half.dtype == np.uint8
    assert half.shape == (8, 8)
    np.testing.assert_array_equal(half + half[::-1], 255)


def test_imresize_of_odd_sizes_rounds_up():
    assert imresize(np.zeros((9, 5, 3), np.uint8), 1 / 4).shape == (3, 2, 3)
    assert imresize(np.zeros((1, 1, 3), np.uint8), 1 / 4).shape == (1, 1, 3)


@pytest.mark.parametrize('mode', ['area', 'bilinear', 'bicubic'])
def test_resize_by_a_factor_is_torchs(picture, mode):
    torch.testing.assert_close(resize(picture, mode, factor=0.37), F.interpolate(picture, scale_factor=0.37, mode=mode))
    assert resize(picture[..., :3, :50], mode, factor=0.15).shape == (1, 3, 1, 7)
