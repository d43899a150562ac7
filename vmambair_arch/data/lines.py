"""Hard negatives for deraining: thin straight things that look like rain and are not, drawn into a clean photograph.

Lane lines, rails, cables, railings, window bars, snow poles and lettering are bright or dark, long and narrow, as
streaks are. A network that has seen streaks alone removes them too. Drawn into the target and the input alike, they are
what the loss holds it to keep. What sets them apart from rain: they are opaque, have hard edges and even colour along
their length, are often longer than a streak, repeat at even distances, converge or run into lettering.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

_SHIFT = 4  # OpenCV takes coordinates in 1/16 pixels
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_PLAIN,
)
_LETTERS = np.array(list('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/|!lI1-:.'))


def draw_lines(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one to three straight-lined things into a photograph.

    Args:
        image: float RGB (h, w, 3), 0..1; it is left as it is.
        rng: the only source of randomness; the same state draws the same things.

    Returns:
        the image with them, float32 (h, w, 3), 0..1.

    Raises:
        ValueError: where the image is not a float (h, w, 3) array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f'draw_lines wants a float RGB array (h, w, 3), got {image.dtype} {image.shape}')
    result = np.array(image, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        coverage: np.ndarray = np.zeros(image.shape[:2], np.uint8)
        THINGS[int(rng.integers(len(THINGS)))](coverage, rng)
        if rng.random() < 0.4:  # out of focus, as most of a picture is
            coverage = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.4, 1.2))
        opacity = coverage.astype(np.float32)[..., None] * np.float32(rng.uniform(0.6, 1) / 255)
        result += opacity * (_colour(rng) - result)
    return result


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Mostly the light greys of paint and metal, which rain has too; also dark ones, and any colour."""
    kind = rng.random()
    if kind < 0.55:
        colour = rng.uniform(0.6, 1) + rng.normal(0, 0.02, 3)
    elif kind < 0.8:
        colour = rng.uniform(0, 0.35) + rng.normal(0, 0.02, 3)
    else:
        colour = rng.uniform(0, 1, 3)
    return np.clip(colour, 0, 1).astype(np.float32)


Point = tuple[float, float] | np.ndarray


def _line(coverage: np.ndarray, start: Point, end: Point, width: float) -> None:
    """An antialiased line of `width` pixels between two points (x, y)."""
    direction = np.subtract(end, start)
    length = math.hypot(*direction)
    if length == 0:
        return
    side = np.array([-direction[1], direction[0]]) * (max(width, 1.0) / 2 / length)
    corners = np.array([start + side, end + side, end - side, start - side])
    if width < 1:  # thinner than a pixel: it covers a part of each
        layer = np.zeros_like(coverage)
        cv2.fillConvexPoly(layer, _fixed(corners), int(255 * width), cv2.LINE_AA, _SHIFT)
        np.maximum(coverage, layer, out=coverage)
    else:
        cv2.fillConvexPoly(coverage, _fixed(corners), 255, cv2.LINE_AA, _SHIFT)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _width(rng: np.random.Generator) -> float:
    """From hair to bar, small ones as often as large ones."""
    return float(np.exp(rng.uniform(math.log(0.7), math.log(8))))


def _through(coverage: np.ndarray, rng: np.random.Generator, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """A random point of the image and the unit vector at `angle` from the vertical."""
    h, w = coverage.shape
    return rng.uniform((0, 0), (w, h)), np.array([math.sin(angle), math.cos(angle)])


def _pole(coverage: np.ndarray, rng: np.random.Generator) -> None:
    """A line right through, or one that ends, where it could not be a streak: a pole, a cable, an edge of a roof."""
    angle = rng.uniform(-math.pi / 2, math.pi / 2)
    point, along = _through(coverage, rng, angle)
    reach = 2 * max(coverage.shape)
    whole = abs(angle) < math.pi / 4  # a short one that leans as rain does cannot be told from rain
    ends = [reach if rng.random() < 0.6 or whole else rng.uniform(0.1, 0.6) * reach / 2 for _ in range(2)]
    _line(coverage, point - ends[0] * along, point + ends[1] * along, _width(rng))


def _railing(coverage: np.ndarray, rng: np.random.Generator) -> None:
    """Parallel lines at even distances: railings, window bars, blinds, the wires of a fence."""
    point, along = _through(coverage, rng, rng.normal(0, 0.25) + rng.integers(2) * math.pi / 2)
    across = np.array([-along[1], along[0]])
    distance, width = rng.uniform(5, 30), _width(rng)
    reach = 2 * max(coverage.shape) if rng.random() < 0.6 else rng.uniform(10, 60)
    for number in range(-int(rng.integers(1, 12)), int(rng.integers(1, 12))):
        middle = point + number * distance * across
        _line(coverage, middle - reach * along, middle + reach * along, min(width, 0.5 * distance))


def _road(coverage: np.ndarray, rng: np.random.Generator) -> None:
    """Lines that meet in a point far away and widen towards the viewer, whole or dashed: lane lines, rails."""
    h, w = coverage.shape
    vanishing = np.array([rng.uniform(-w, 2 * w), -rng.uniform(0.2, 2) * h])
    width, dashed, period = 1.5 * _width(rng), rng.random() < 0.4, rng.uniform(0.15, 0.5)
    for _ in range(int(rng.integers(1, 4))):
        foot = np.array([rng.uniform(-0.5 * w, 1.5 * w), 1.2 * h])
        direction = foot - vanishing
        normal = np.array([-direction[1], direction[0]]) / max(math.hypot(*direction), 1e-6)
        parts = np.arange(0.05, 1, period) if dashed else np.array([0.0])
        for part in parts:
            near = part + (0.55 * period if dashed else 1.0)
            corners = [
                vanishing + at * direction + sign * at * width / 2 * normal
                for at, sign in ((part, 1), (near, 1), (near, -1), (part, -1))
            ]
            cv2.fillConvexPoly(coverage, _fixed(np.array(corners)), 255, cv2.LINE_AA, _SHIFT)


def _text(coverage: np.ndarray, rng: np.random.Generator) -> None:
    """A line or two of lettering, as signs and captions have it."""
    h, w = coverage.shape
    font, scale = _FONTS[int(rng.integers(len(_FONTS)))], rng.uniform(0.4, 1.8)
    for row in range(int(rng.integers(1, 3))):
        text = ''.join(rng.choice(_LETTERS, int(rng.integers(3, 12))))
        place = int(rng.uniform(-0.3 * w, 0.7 * w)), int(rng.uniform(0.1, 0.9) * h + row * 30 * scale)
        cv2.putText(coverage, text, place, font, scale, 255, int(rng.integers(1, 4)), cv2.LINE_AA)


THINGS: tuple[Callable[[np.ndarray, np.random.Generator], None], ...] = (_pole, _pole, _railing, _road, _text)
"""What may be drawn; poles twice, since one straight line is nearest to a streak."""
