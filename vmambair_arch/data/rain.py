"""Synthetic rain: motion-blurred streaks over a clean photograph.

A drop falls through the field of view during the exposure and leaves a streak, as long as its speed on the sensor, as
wide as the drop or its blur, partly transparent because the drop covered each pixel for part of the exposure only
(Garg and Nayar, Vision and Rain, IJCV 2007). Near drops make few, long, wide and faint streaks; far drops make many
short and thin ones. Wind leans all of them the same way, give or take a few degrees, and gusts thin them out in places.

All sizes are in pixels of the image that is given, so a patch gets the same rain as the whole image.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import UserError, nearest

Range = tuple[float, float]

# depth -> (share of the streaks, factor on length, factor on width, factor on opacity)
_DEPTHS = {'far': (0.65, 0.6, 0.7, 0.75), 'middle': (0.28, 1.0, 1.0, 1.0), 'near': (0.07, 1.8, 2.2, 0.6)}
_GUST_CELL = 96  # pixels between two independent values of the gust field
# What each number may be, 0..1 where nothing is said. More hides the picture, and takes longer than seconds to draw.
_LIMITS: dict[str, Range] = {
    'angle': (-90, 90),
    'angle_spread': (0, 90),
    'length': (1, 1000),
    'width': (0.5, 100),
    'density': (0, 1000),
    'size': (0.1, 100),
    'blur': (0, 100),
}
_EDGE = 3.0  # a streak's cross-section is cut off at this many standard deviations


@dataclass(frozen=True)
class RainConfig:
    """What rain to draw. Every pair is the (lowest, highest) value of a uniform draw.

    Attributes:
        angle: lean of the rain from the vertical in degrees, positive with the foot to the left; drawn per image.
        angle_spread: standard deviation in degrees of the streaks of one image around its lean.
        length: length of a streak at middle depth in pixels; an image draws a mean, a streak varies by a third.
        width: width of a streak at middle depth in pixels, full width at half maximum; drawn per streak.
        density: streaks per 10 000 pixels; drawn per image.
        opacity: how much of the scene a streak hides along its axis at middle depth, 0..1; drawn per streak.
        light: grey level of the rain, 0..1: drops show the sky; drawn per image.
        gust: how far rain is thinned out in places, 0 (even) to 1 (some places nearly dry).
        veil: share of the light of far, unresolved rain that lies evenly over the image, 0..1; drawn per image.
        size: factor on length and width, the number of streaks falling by its square: the same rain seen nearer, or in
            a picture of more pixels. Drawn per image, each doubling as often as the next.
        blur: standard deviation in pixels of a Gaussian blur of the streaks, by a lens out of focus; drawn per image.
    """

    angle: Range = (-25.0, 25.0)
    angle_spread: float = 3.0
    length: Range = (20.0, 60.0)
    width: Range = (1.4, 3.0)
    density: Range = (25.0, 65.0)
    opacity: Range = (0.25, 0.9)
    light: Range = (0.75, 1.0)
    gust: float = 0.5
    veil: Range = (0.0, 0.0)
    size: Range = (1.0, 1.0)
    blur: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, (lowest, highest) = getattr(self, field.name), _LIMITS.get(field.name, (0, 1))
            if isinstance(field.default, tuple):
                try:
                    low, high = (float(v) for v in value)
                except (TypeError, ValueError, OverflowError):
                    raise UserError(f'rain: {field.name} must be two numbers [low, high], not {value!r}') from None
                if not lowest <= low <= high <= highest:
                    bounds = f'{lowest} <= low <= high <= {highest}'
                    raise UserError(f'rain: {field.name} must be [low, high] with {bounds}, not {value!r}')
                object.__setattr__(self, field.name, (low, high))
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
                raise UserError(f'rain: {field.name} must be a number from {lowest} to {highest}, not {value!r}')

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> RainConfig:
        """The configuration that the `rain:` section of an option file describes; what it leaves out is the default.

        Raises:
            UserError: for an unknown key or a value out of range.
        """
        valid = [field.name for field in dataclasses.fields(cls)]
        for key in options:
            if key not in valid:
                raise UserError(f"rain: unknown key '{key}'{nearest(key, valid)}; valid are {', '.join(valid)}")
        return cls(**options)


def rain_layer(h: int, w: int, rng: np.random.Generator, config: RainConfig | None = None) -> np.ndarray:
    """Draw the streaks of one image.

    Args:
        h, w: size in pixels.
        rng: the only source of randomness; the same state draws the same rain.
        config: what rain to draw; the default rain where None.

    Returns:
        opacity of the rain, float32 (h, w), 0 (none) to 1 (hides the scene).
    """
    config = config or RainConfig()
    lean = rng.uniform(*config.angle)
    mean_length = rng.uniform(*config.length)
    density = rng.uniform(*config.density)
    gusts = _gust_field(h, w, rng, config.gust)
    # Drawn only where there is a choice, so that rain without it stays what a seed has always made.
    size = math.exp(rng.uniform(*np.log(config.size))) if config.size[0] < config.size[1] else config.size[0]
    blur = rng.uniform(*config.blur) if config.blur[0] < config.blur[1] else config.blur[0]
    mean_length *= size
    density /= size**2
    clear: np.ndarray = np.ones((h, w), np.float32)  # 1 - opacity: streaks over one another multiply

    for share, longer, wider, denser in _DEPTHS.values():
        # Streaks whose centre lies outside reach in: draw them over a frame as wide as half the longest.
        frame = 0.75 * mean_length * longer
        area = (h + 2 * frame) * (w + 2 * frame)
        count = rng.poisson(density * share * area / 1e4)
        ys = rng.uniform(-frame, h + frame, count)
        xs = rng.uniform(-frame, w + frame, count)
        angles = np.radians(lean + config.angle_spread * rng.standard_normal(count))
        lengths = mean_length * longer * rng.uniform(2 / 3, 4 / 3, count)
        sigmas = wider * size * rng.uniform(*config.width, count) / 2.355  # full width at half maximum = 2.355 sigma
        opacities = denser * rng.uniform(*config.opacity, count)
        keep = rng.random(count)
        for y, x, angle, length, sigma, opacity, chance in zip(
            ys, xs, angles, lengths, sigmas, opacities, keep, strict=True
        ):
            if chance < gusts[min(max(int(y), 0), h - 1), min(max(int(x), 0), w - 1)]:
                _draw_streak(clear, y, x, angle, length, sigma, opacity)
    if blur:
        clear = cv2.GaussianBlur(clear, (0, 0), blur, borderType=cv2.BORDER_REFLECT)
    return 1.0 - clear


def add_rain(image: np.ndarray, rng: np.random.Generator, config: RainConfig | None = None) -> np.ndarray:
    """Let it rain on a photograph: `image * (1 - opacity) + light * opacity`.

    Args:
        image: clean, float RGB (h, w, 3), 0..1.
        rng: the only source of randomness; the same state draws the same rain.
        config: what rain to draw; the default rain where None.

    Returns:
        the rainy image, float32 (h, w, 3), 0..1.

    Raises:
        ValueError: where the image is not a float (h, w, 3) array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f'add_rain wants a float RGB array (h, w, 3), got {image.dtype} {image.shape}')
    config = config or RainConfig()
    light = np.float32(rng.uniform(*config.light))
    veil = np.float32(rng.uniform(*config.veil))
    opacity = rain_layer(image.shape[0], image.shape[1], rng, config)[..., None]
    opacity = 1 - (1 - opacity) * (1 - veil)
    return image.astype(np.float32) * (1 - opacity) + light * opacity


def add_8bit_rain(image: np.ndarray, rng: np.random.Generator, config: RainConfig | None = None) -> np.ndarray:
    """`add_rain`, rounded to the 256 levels that a rainy image file would have."""
    return np.round(add_rain(image, rng, config) * 255) / np.float32(255)


def _gust_field(h: int, w: int, rng: np.random.Generator, gust: float) -> np.ndarray:
    """Smooth share of the streaks that are kept at each pixel, (h, w), from 1 - gust to 1."""
    cells = rng.uniform(1 - gust, 1, (h // _GUST_CELL + 2, w // _GUST_CELL + 2)).astype(np.float32)
    return cv2.resize(cells, (w, h), interpolation=cv2.INTER_LINEAR)


def _draw_streak(
    clear: np.ndarray, y: float, x: float, angle: float, length: float, sigma: float, opacity: float
) -> None:
    """Multiply one streak, centred at (y, x), into `clear`: Gaussian across, tapering over its outer fifths along."""
    sin, cos = math.sin(angle), math.cos(angle)
    reach_y = 0.5 * length * abs(cos) + _EDGE * sigma
    reach_x = 0.5 * length * abs(sin) + _EDGE * sigma
    top, bottom = max(math.ceil(y - reach_y), 0), min(math.floor(y + reach_y) + 1, clear.shape[0])
    left, right = max(math.ceil(x - reach_x), 0), min(math.floor(x + reach_x) + 1, clear.shape[1])
    if top >= bottom or left >= right:
        return
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
    along = dy * np.float32(cos) - dx * np.float32(sin)
    across = dy * np.float32(sin) + dx * np.float32(cos)
    profile = np.exp(across * across * np.float32(-0.5 / sigma**2))
    profile *= np.clip((0.5 * length - np.abs(along)) * np.float32(5 / length), 0, 1)
    clear[top:bottom, left:right] *= 1 - np.float32(opacity) * profile
