"""Walls of windows, bricks and bars, drawn: regular lines for networks that enlarge photographs.

Free photographs of streets are rare and lines that repeat are what enlarging does worst, so `benchmarks.realworld_pairs
--facades SHARE` draws some of its patches: one cell (a window with its frame, a pane, a brick, louvres, slats, tiles),
repeated in both directions with small differences, seen in perspective at any angle, lit and coloured by a piece of a
photograph; or nothing but plaster. Some end at an edge, behind which another wall stands, or the photograph.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

OVER = 3
"""Drawn so many times larger and reduced by the mean of an area, as a lens and a sensor do."""

Pixels = np.ndarray
Colour = tuple[float, float, float]


def _near(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    r, g, b = (float(np.clip(value + rng.normal(0, spread), 0, 255)) for value in colour)
    return r, g, b


def _colours(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    """Of wall, frame and glass: mostly greyish, and far enough apart to be seen."""

    def greyish(low: float, high: float, spread: float) -> Colour:
        level = float(rng.uniform(low, high))
        return _near(rng, (level, level, level), spread)

    wall = greyish(40, 230, 22)
    light = sum(wall) / 3 < 130
    frame = greyish(150, 255, 8) if light else greyish(10, 110, 8)
    glass = greyish(5, 90, 14) if rng.random() < 0.7 else greyish(140, 250, 20)
    return wall, frame, glass


def _window(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """A window with crossbars, sometimes with a sill and a blind."""
    h, w = cell.shape[:2]
    margin_x, margin_y, line, columns, rows = kind
    x0, y0, x1, y1 = int(margin_x * w), int(margin_y * h), int((1 - margin_x) * w), int((1 - margin_y) * h)
    line = max(round(line * min(h, w)), 1)
    cv2.rectangle(cell, (x0, y0), (x1, y1), frame, -1)
    pane = _near(rng, glass, 18)
    for row in range(rows):
        for column in range(columns):
            left, right = (x0 + line + (x1 - x0 - line) * n // columns for n in (column, column + 1))
            top, bottom = (y0 + line + (y1 - y0 - line) * n // rows for n in (row, row + 1))
            cv2.rectangle(cell, (left, top), (right - line - 1, bottom - line - 1), _near(rng, pane, 6), -1)
    if rng.random() < 0.2:
        cv2.rectangle(cell, (x0 + line, y0 + line), (x1 - line, int(rng.uniform(y0, y1))), _near(rng, wall, 25), -1)
    cv2.line(cell, (x0 - line, y1 + line), (x1 + line, y1 + line), _near(rng, frame, 12), line)


def _panes(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """Glass from edge to edge, between thin bars."""
    h, w = cell.shape[:2]
    line = max(round(kind[2] * min(h, w)), 1)
    cell[:] = _near(rng, glass, 12)
    cv2.rectangle(cell, (0, 0), (w, line), frame, -1)
    cv2.rectangle(cell, (0, 0), (line, h), frame, -1)
    if kind[4] > 1:
        cv2.rectangle(cell, (0, h // 2), (w, h), _near(rng, wall, 4), -1)


def _bricks(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """Courses of bricks, each half a brick from the last."""
    h, w = cell.shape[:2]
    cell[:] = frame
    courses, line = 2 * (2 + kind[4]), max(int(kind[2] * h / 6), 1)
    height, width = h / courses, w / (1 + kind[3])
    for course in range(courses):
        for brick in range(-1, 2 + kind[3]):
            left, top = int((brick + course % 2 / 2) * width), int(course * height)
            corner = (int(left + width) - line - 1, int(top + height) - line - 1)
            cv2.rectangle(cell, (left, top), corner, _near(rng, wall, 9), -1)


def _louvres(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """Parallel slats, lit from one side: blinds, stairs, corrugated iron, railings when they stand."""
    h, _ = cell.shape[:2]
    slats = 2 + 2 * kind[3]
    for row in range(h):
        share = (row * slats / h) % 1
        cell[row] = np.array(wall) * (1 - share) + np.array(glass) * share if share > kind[2] else frame
    if kind[4] > 1:
        cell[:] = np.ascontiguousarray(cv2.resize(cell.transpose(1, 0, 2), (cell.shape[1], h)))


def _slats(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """Hard bars on a ground, alike from end to end: awnings, fences, girders; thin ones are the joints of a wall."""
    h, _ = cell.shape[:2]
    cell[:] = wall
    thick = max(int(h * (kind[2] if kind[4] == 1 else 0.2 + kind[0] + kind[1])), 1)
    cell[:thick] = frame if kind[3] == 1 else glass
    if kind[3] == 3:  # the shaded lower side of a bar
        cell[thick : thick + max(thick // 3, 1)] = _near(rng, frame, 2)


def _plain(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """Plaster: what is smooth must stay so under noise."""
    cell[:] = wall


def _tiles(cell: Pixels, rng: np.random.Generator, wall: Colour, frame: Colour, glass: Colour, kind: list) -> None:
    """Two kinds of tile by turns, or a lattice of holes."""
    h, w = cell.shape[:2]
    cell[:] = wall
    if kind[3] > 1:
        for x, y in ((w // 4, h // 4), (3 * w // 4, 3 * h // 4), (w // 4, 3 * h // 4), (3 * w // 4, h // 4)):
            cv2.ellipse(cell, (x, y), (max(w // 6, 1), max(h // 6, 1)), 0, 0, 360, _near(rng, glass, 5), -1)
        return
    cv2.rectangle(cell, (0, 0), (w // 2, h // 2), _near(rng, glass, 6), -1)
    cv2.rectangle(cell, (w // 2, h // 2), (w, h), _near(rng, glass, 6), -1)


CELLS: tuple[Callable[..., None], ...] = (
    _window, _window, _window, _panes, _panes, _panes, _bricks, _louvres, _slats, _slats, _slats, _slats, _tiles,
    _plain, _plain, _plain, _plain,
)  # fmt: skip


def facade(rng: np.random.Generator, size: int, photograph: Pixels) -> Pixels:
    """A patch of a wall, or of two, or of one before a photograph.

    Args:
        rng: every draw comes from it.
        size: pixels of a side.
        photograph: RGB uint8, at least as large; a piece of it lights and stains the wall.

    Returns:
        RGB uint8 (size, size, 3).
    """
    picture = _wall(rng, size, photograph)
    if rng.random() < 0.4:
        if rng.random() < 0.5:
            other = _wall(rng, size, photograph)
        else:
            top, left = (int(rng.integers(n - size + 1)) for n in photograph.shape[:2])
            other = photograph[top : top + size, left : left + size].astype(np.float32)
        mask = _behind(rng, size)[..., None]
        picture = picture * (1 - mask) + other * mask
    return np.rint(picture.clip(0, 255)).astype(np.uint8)


def _behind(rng: np.random.Generator, size: int) -> Pixels:
    """What lies beyond a straight edge through the patch, 0 to 1, float32 (size, size)."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2 + rng.uniform(-size / 3, size / 3, (2, 1, 1))
    distance: Pixels = np.cos(angle) * x + np.sin(angle) * y
    return np.clip(distance + 0.5, 0, 1).astype(np.float32)


def _wall(rng: np.random.Generator, size: int, photograph: Pixels) -> Pixels:
    """One wall, RGB float32 (size, size, 3)."""
    large = size * OVER
    wall, frame, glass = _colours(rng)
    draw = CELLS[int(rng.integers(len(CELLS)))]
    kind = [rng.uniform(0.08, 0.3), rng.uniform(0.08, 0.3), rng.uniform(0.02, 0.12), *rng.integers(1, 4, 2)]
    # Finer than 16 looks like noise in the input, and a network that learned it draws cloth into noise.
    high = int(OVER * np.exp(rng.uniform(np.log(16), np.log(80))))
    wide = max(int(high * rng.uniform(0.5, 2)), 4 * OVER)
    count_y, count_x = (2 * large // n + 1 for n in (high, wide))
    plane = np.empty((count_y * high, count_x * wide, 3), np.float32)
    plane[:] = wall
    some = []  # neighbours differ a little; a thousand cells need not
    for _ in range(12):
        cell = np.empty((high, wide, 3), np.float32)
        cell[:] = wall
        draw(cell, rng, wall, frame, glass, kind)
        some.append(cell)
    for row in range(count_y):
        for column in range(count_x):
            place = slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide)
            plane[place] = some[int(rng.integers(len(some)))]
    h, w = plane.shape[:2]
    # Where the corners of the patch lie on the wall: turned, and nearer on one side than on the other.
    angle = np.deg2rad(rng.normal(0, 12) + 90 * (rng.random() < 0.2) if rng.random() < 0.5 else rng.uniform(0, 360))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * large / 2
    corners = corners * (1 + rng.uniform(-0.35, 0.35, (4, 1))) @ turn.T * rng.uniform(0.7, 1.1) + (w / 2, h / 2)
    target = np.array([[0, 0], [large, 0], [large, large], [0, large]], np.float32)
    seen = cv2.warpPerspective(
        plane,
        cv2.getPerspectiveTransform(corners.astype(np.float32), target),
        (large, large),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    seen = cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA)
    grey = seen.mean(2, keepdims=True)
    seen = grey + rng.uniform(0, 0.8) * (seen - grey)
    top, left = (int(rng.integers(n - size + 1)) for n in photograph.shape[:2])
    piece = photograph[top : top + size, left : left + size].astype(np.float32)
    shade = cv2.GaussianBlur(piece, (0, 0), float(rng.uniform(4, 30)))
    shade += rng.uniform(0.3, 1) * (shade.mean(2, keepdims=True) - shade)
    strength = rng.uniform(0.1, 0.8)
    seen *= 1 - strength + strength * shade / max(float(shade.mean()), 1)
    seen += rng.uniform(0, 0.35) * (piece - shade)  # stains
    return seen
