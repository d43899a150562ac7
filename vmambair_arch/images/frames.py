"""Moving pictures of a few frames: GIF, animated WebP, animated PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
from PIL import ImageSequence

from ..errors import UserError
from ..files import replacing
from .formats import MOVING
from .image_io import MAX_PIXELS, opened, read_bytes, stored
from .pixels import Image, from_pil, to_pil


@dataclass(frozen=True)
class Timing:
    """How frames are shown.

    Attributes:
        milliseconds: of each frame.
        loop: how often they are shown again, or in WebP and PNG, shown; 0: for ever; None: shown once.
    """

    milliseconds: list[int]
    loop: int | None


def read_frames(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[list[Image], Timing]:
    """The frames of a moving picture as they are seen, RGB, with alpha where there is any.

    Args:
        path: GIF, WebP or PNG.
        max_pixels: of all frames together.

    Raises:
        UserError: missing, damaged, too large.
    """
    with opened(read_bytes(path, max_pixels=max_pixels), str(path), max_pixels) as source:
        kind, lossy = stored(source)
        loop = source.info.get('loop', None if kind == 'GIF' else 0)
        first = 1 if getattr(source, 'default_image', False) else 0  # a PNG's cover, which is no frame
        frames = [replace(frame, format=kind, lossy=lossy) for frame in _frames(source)][first:]
        return frames, Timing(_durations(source)[first:], None if loop is None else int(loop))


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
        quality: 1 to 100 of WebP, whose 100 is lossless; default 95, and lossless for frames from a lossless WebP.

    Raises:
        UserError: it cannot be written.
    """
    format = MOVING[Path(path).suffix.lower()]
    again = quality is None and frames[0].format == 'WEBP' and not frames[0].lossy
    first, *rest = (to_pil(frame) for frame in frames)
    options: dict[str, Any] = {
        'WEBP': {'quality': quality or 95, 'lossless': quality == 100 or again, 'exact': True},
        'GIF': {'disposal': 2},
    }.get(format, {})
    if timing.loop is not None or format != 'GIF':
        options['loop'] = 1 if timing.loop is None else timing.loop
    buffer = io.BytesIO()
    try:
        first.save(buffer, format, save_all=True, append_images=rest, duration=timing.milliseconds, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{path}: cannot be written as {format} ({reason})') from error
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
