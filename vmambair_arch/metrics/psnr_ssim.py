"""PSNR and SSIM, on RGB or on the luma Y, as plain functions.

Two definitions of Y are in use. BasicSR keeps Y = 16 + 65.481 R + 128.553 G + 24.966 B (BT.601, R, G, B in 0..1)
as a real number; the MATLAB scripts of the deraining papers call `rgb2ycbcr` on 8-bit images, which rounds Y to whole
levels. Near 38 dB the two are 0.1 dB apart, so a table has to say which it used.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from ..errors import UserError

YRounding = Literal['none', 'matlab']
Y_ROUNDINGS: tuple[YRounding, ...] = ('none', 'matlab')

_Y_WEIGHTS = np.array([65481.0, 128553.0, 24966.0])
_Y_OFFSET = 16.0
WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(
    image: np.ndarray,
    reference: np.ndarray,
    *,
    y_channel: bool = False,
    crop_border: int = 0,
    y_rounding: YRounding = 'none',
) -> float:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE), in dB; infinite for equal images.

    Example:
        >>> grey = np.full((32, 32), 100, np.uint8)
        >>> round(psnr(grey + 1, grey), 2)
        48.13

    Args:
        image, reference: (h, w, 3) RGB, or (h, w) or (h, w, 1) grey; uint8, or float 0..1, which is neither clipped
            nor rounded (round to 8 bits first where the figure is to be that of saved files).
        y_channel: compare the luma of RGB images.
        crop_border: pixels left out at every edge.
        y_rounding: 'none' is BasicSR's definition; 'matlab' rounds images and luma to 8 bits (see the module).

    Raises:
        UserError: sizes differ, nothing is left after the crop, no such type or option.
    """
    a, b = _levels(image, reference, y_channel, crop_border, y_rounding)
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float('inf')


def ssim(
    image: np.ndarray,
    reference: np.ndarray,
    *,
    y_channel: bool = False,
    crop_border: int = 0,
    y_rounding: YRounding = 'none',
) -> float:
    """Structural similarity (Wang et al., TIP 2004), averaged over the channels; 1 for equal images.

    Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, only where the window lies inside the image, no
    prior downsampling: Wang's `ssim_index.m`, BasicSR, and the deraining papers' script.

    Arguments and errors as in `psnr`; at least 11 x 11 pixels must be left after the crop.
    """
    a, b = _levels(image, reference, y_channel, crop_border, y_rounding)
    if min(a.shape[:2]) < WINDOW:
        raise UserError(f'SSIM needs {WINDOW} x {WINDOW} pixels after the crop, got {a.shape[0]} x {a.shape[1]}')
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = _window_mean(a * a) - mean_a**2
    var_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return float(np.mean(luminance * structure))


def luma(levels: np.ndarray) -> np.ndarray:
    """Y of BT.601, 16..235, of RGB in 0..255: (h, w, 3) -> (h, w, 1), float64, not rounded."""
    # Whole weights: of 8-bit images, half levels come out as such and round one way everywhere.
    return (levels @ _Y_WEIGHTS)[..., None] / 255_000 + _Y_OFFSET


def crop(image: np.ndarray, border: int) -> np.ndarray:
    """Leave out `border` pixels at every edge of (h, w, ...).

    Raises:
        UserError: nothing is left, or the border is negative.
    """
    h, w = image.shape[:2]
    if not 0 <= 2 * border < min(h, w):
        raise UserError(f'crop_border {border} does not fit an image of {h} x {w} pixels')
    return image[border : h - border, border : w - border]


def _levels(
    image: np.ndarray, reference: np.ndarray, y_channel: bool, crop_border: int, y_rounding: YRounding
) -> tuple[np.ndarray, np.ndarray]:
    """What is compared: two float64 arrays (h, w, c) in 0..255."""
    if y_rounding not in Y_ROUNDINGS:
        raise UserError(f"y_rounding must be one of {', '.join(Y_ROUNDINGS)}, not '{y_rounding}'")
    if y_rounding == 'matlab' and not y_channel:
        raise UserError('y_rounding: matlab needs the Y channel')
    if image.shape != reference.shape:
        raise UserError(f'sizes differ: {_size(image)} against {_size(reference)}')
    pair = []
    for values in (image, reference):
        levels = _to_levels(crop(values, crop_border))
        if y_rounding == 'matlab':
            levels = _round(levels)
        if y_channel and levels.shape[2] == 3:
            levels = luma(levels)
        pair.append(_round(levels) if y_rounding == 'matlab' else levels)
    return pair[0], pair[1]


def _to_levels(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise UserError(f'images must be (h, w, 3) RGB or (h, w) grey, got {_size(values)}')
    factor = 255 // white(values)
    return values.astype(np.float64) * factor


def white(image: np.ndarray) -> int:
    """The value of white in an image that a metric is given: 255, or 1.

    Raises:
        UserError: it is neither uint8 nor float.
    """
    if image.dtype == np.uint8:
        return 255
    if np.issubdtype(image.dtype, np.floating):
        return 1
    raise UserError(f'images must be uint8, or float in 0..1, got {image.dtype}')


def _round(levels: np.ndarray) -> np.ndarray:
    """Half a level goes up, as in MATLAB; numpy would take the even neighbour."""
    return np.floor(levels + 0.5).clip(0, 255)


def _window_mean(x: np.ndarray) -> np.ndarray:
    """Gaussian mean of (h, w, c) where the window fits: (h - 10, w - 10, c)."""
    half = WINDOW // 2
    blurred = cv2.GaussianBlur(x, (WINDOW, WINDOW), _SIGMA).reshape(x.shape)
    return blurred[half:-half, half:-half]


def _size(x: np.ndarray) -> str:
    return ' x '.join(str(n) for n in x.shape)
