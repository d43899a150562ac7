"""A sheet of pictures that shows what the degradation does to a photograph, and what was drawn for each."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .config import DegradationConfig
from .degradation import Degradation
from .draws import image_generator

SIDE, GAP, LINE, FONT_SIZE = 320, 10, 15, 12


def contact_sheet(
    photograph: NDArray[np.float32], seed: int, cells: int, config: DegradationConfig | None = None
) -> NDArray[np.uint8]:
    """The middle of a photograph, then degradations of it, each enlarged to its pixels, with its draws below.

    Args:
        photograph: (h, w, 3) RGB, 0..1.
        seed: degradation i is the one that image i of a batch gets from `image_generator(seed, i)`.
        cells: number of pictures, the photograph included, from 2 up.
        config: of the degradation.

    Returns:
        The sheet, (H, W, 3) RGB.

    Raises:
        ValueError: a photograph smaller than one low-resolution pixel, or too few cells.
    """
    if cells < 2:
        raise ValueError(f'a sheet has at least 2 pictures, not {cells}')
    degrade = Degradation(config)
    top, left = (max(n - SIDE, 0) // 2 for n in photograph.shape[:2])
    middle = photograph[top : top + SIDE, left : left + SIDE]
    gt = torch.from_numpy(middle.transpose(2, 0, 1).copy())[None].float()
    lq, drawn = degrade(gt.expand(cells - 1, -1, -1, -1), [image_generator(seed, i) for i in range(cells - 1)])

    h, w = middle.shape[:2]
    scale = degrade.config.scale
    # Every pixel that a network would see is seen.
    pictures = [gt[0], *lq.repeat_interleave(scale, 2).repeat_interleave(scale, 3)]
    font = ImageFont.load_default(size=FONT_SIZE)
    letters = max(int(w / font.getlength('n')), 12)
    captions = [[f'the photograph, {w} x {h}']]
    for i in range(cells - 1):
        first, second = drawn.describe(i)
        paragraphs = (f'{i}: {first};', second)
        captions.append([line for p in paragraphs for line in textwrap.wrap(p, letters, subsequent_indent='   ')])

    columns = math.ceil(math.sqrt(cells))
    cell = (max(w, 12 * FONT_SIZE) + GAP, h + max(map(len, captions)) * LINE + GAP)
    sheet = Image.new('RGB', (columns * cell[0] + GAP, math.ceil(cells / columns) * cell[1] + GAP), 'white')
    draw = ImageDraw.Draw(sheet)
    for number, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + number % columns * cell[0], GAP + number // columns * cell[1]
        sheet.paste(Image.fromarray((picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()), (x, y))
        for i, line in enumerate(lines):
            draw.text((x, y + h + i * LINE), line, fill='black', font=font)
    return np.asarray(sheet)
