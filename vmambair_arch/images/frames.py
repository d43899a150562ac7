"""Moving pictures of a few frames: GIF, animated WebP, animated PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from PIL import ImageSequence

from ..errors import UserError
from ..files import replacing
from .formats import MOVING
from .image_io import MAX_PIXELS, opened, read_bytes
from .pixels import Image, from_pil, to_pil


@dataclass(frozen=True)
class Timing:
    """How frames are shown.

    Attributes:
        milliseconds: of each frame.
        loop: how often; 0: for ever.
    """

    milliseconds: list[int]
    loop: int


def read_frames(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[list[Image], Timing]:
    """The frames of a moving picture as they are seen, RGB, with alpha where there is any.

    Args:
        path: GIF, WebP or PNG.
        max_pixels: of all frames together.

    Raises:
        UserError: missing, damaged, too large.
    """
    with opened(read_bytes(path, max_pixels=max_pixels), str(path), max_pixels) as source:
        return list(_frames(source)), Timing(_durations(source), int(source.info.get('loop', 0) or 0))


def _frames(source: PIL.Image.Image) -> Iterator[Image]:
    for frame in ImageSequence.Iterator(source):
        yield from_pil(frame.convert('RGBA' if frame.has_transparency_data else 'RGB'))


def _durations(source: PIL.Image.Image) -> list[int]:
    found = []
    for frame in ImageSequence.Iterator(source):
        frame.load()  # WebP says how long with the pixels
        found.append(round(float(frame.info.get('duration', 0) or 0)) or 100)  # as browsers do
    return found


def write_frames(path: str | Path, frames: list[Image], timing: Timing, *, quality: int | None = None) -> None:
    """Write a moving picture, whole or not at all.

    Args:
        path: its suffix is one of `formats.MOVING`.
        frames: of one size.
        timing: see `Timing`.
        quality: 1 to 100 of WebP, whose 100 is lossless; default 95.

    Raises:
        UserError: it cannot be written.
    """
    format = MOVING[Path(path).suffix.lower()]
    first, *rest = (to_pil(frame) for frame in frames)
    options: dict[str, Any] = {
        'WEBP': {'quality': quality or 95, 'lossless': quality == 100},
        'GIF': {'disposal': 2},
    }.get(format, {})
    buffer = io.BytesIO()
    try:
        first.save(
            buffer, format, save_all=True, append_images=rest, duration=timing.milliseconds, loop=timing.loop, **options
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{path}: cannot be written as {format} ({reason})') from error
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
