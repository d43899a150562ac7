"""Pictures beside one another, with captions: how results are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

CAPTION, GAP = 30, 6


@dataclass(frozen=True)
class Panel:
    """One picture, RGB float (h, w, 3) in 0..1, and the line under it."""

    image: np.ndarray
    caption: str


def side_by_side(rows: Sequence[Sequence[Panel]], height: int = 360) -> np.ndarray:
    """A sheet of panels, RGB float32 (H, W, 3) in 0..1.

    Args:
        rows: panels from left to right; pictures of a row are brought to `height`, rows are centred.
        height: pixels of a picture in the sheet.
    """
    strips = []
    font = ImageFont.load_default(size=18)
    for row in rows:
        cells = []
        for panel in row:
            h, w = panel.image.shape[:2]
            size = (max(round(w * height / h), 1), height)
            shrinks = height < h
            picture = cv2.resize(panel.image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
            # As wide as the caption, which holds the figure: under a narrow picture it would be cut off.
            width = max(size[0], math.ceil(font.getlength(panel.caption)) + 8)
            cell = np.full((height + CAPTION, width + GAP, 3), 255, np.uint8)
            cell[:height, : size[0]] = np.rint(np.clip(picture, 0, 1) * 255)
            canvas = PIL.Image.fromarray(cell)
            ImageDraw.Draw(canvas).text((4, height + 4), panel.caption, fill=(20, 20, 20), font=font)
            cells.append(np.asarray(canvas))
        strips.append(np.concatenate(cells, axis=1))
    width = max(strip.shape[1] for strip in strips)
    centred = []
    for strip in strips:
        spare = width - strip.shape[1]
        centred.append(np.pad(strip, ((0, GAP), (spare // 2, spare - spare // 2), (0, 0)), constant_values=255))
    return np.concatenate(centred).astype(np.float32) / 255
