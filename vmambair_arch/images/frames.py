"""Moving pictures of a few frames: GIF, animated WebP, animated PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL.Image
from PIL import ImageSequence

from ..files import replacing
from .codecs import is_deep
from .formats import MOVING
from .image_io import MAX_PIXELS, as_held, beside_pixels, encoding, opened, read_bytes, save_with_notes
from .metadata import turn, turn_back
from .pixels import Image, from_pil, to_array, to_pil


@dataclass(frozen=True)
class Timing:
    """How frames are shown.

    Attributes:
        milliseconds: of each frame.
        loop: how often they are shown again, or in WebP and PNG, shown; 0: for ever; None: shown once.
    """

    milliseconds: list[int]
    loop: int | None


class Frames(Sequence[Image]):
    """The frames of a moving picture, RGB, upright, with alpha where there is any.

    They are kept with 8 bits a channel, as they will be written; each is floating point only while somebody has it.
    """

    def __init__(self, stills: Sequence[PIL.Image.Image], look: dict[str, Any]) -> None:
        self._stills, self._look = stills, look

    def __len__(self) -> int:
        return len(self._stills)

    @overload
    def __getitem__(self, which: int) -> Image: ...

    @overload
    def __getitem__(self, which: slice) -> Frames: ...

    def __getitem__(self, which: int | slice) -> Image | Frames:
        if isinstance(which, slice):
            return Frames(self._stills[which], self._look)
        image = from_pil(self._stills[which])
        how = self._look['orientation']
        alpha = None if image.alpha is None else turn(image.alpha, how)
        return replace(image, rgb=turn(image.rgb, how), alpha=alpha, **self._look)


def read_frames(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[Frames, Timing]:
    """The frames of a moving picture as they are seen, each with what the file says beside its pixels.

    Args:
        path: GIF, WebP or PNG.
        max_pixels: of all frames together.

    Raises:
        UserError: missing, damaged, too large.
    """
    data = read_bytes(path, max_pixels=max_pixels)
    with opened(data, str(path), max_pixels) as source:
        loop = source.info.get('loop', None if source.format == 'GIF' else 0)
        first = 1 if getattr(source, 'default_image', False) else 0  # a PNG's cover, which is no frame
        look = beside_pixels(source)
        look['icc'] = icc = source.info.get('icc_profile')
        if icc and icc[16:20] == b'GRAY':  # frames are RGB, which it is not for
            look |= {'icc': None, 'dropped': (*look['dropped'], 'the colour profile')}
        if is_deep(source, data):
            look['dropped'] = (*look['dropped'], '8 of 16 bits a channel')
        stills, milliseconds = [], []
        for frame in ImageSequence.Iterator(source):
            stills.append(_still(frame))  # WebP says how long with the pixels
            milliseconds.append(round(float(frame.info.get('duration', 0) or 0)) or 100)  # as browsers do
        return Frames(stills[first:], look), Timing(milliseconds[first:], None if loop is None else int(loop))


def _still(frame: PIL.Image.Image) -> PIL.Image.Image:
    """A frame of mode RGB or RGBA, without what its file says."""
    if frame.mode.startswith('I'):  # which Pillow would cut off at 255
        frame = to_pil(replace(from_pil(frame), bits=8))
    still = frame.convert('RGBA' if frame.has_transparency_data else 'RGB')
    still.info = {}
    return still


def write_frames(path: str | Path, frames: Iterable[Image], timing: Timing, *, quality: int | None = None) -> None:
    """Write a moving picture, whole or not at all.

    Args:
        path: its suffix is one of `formats.MOVING`.
        frames: of one size; read one by one, and kept with 8 bits a channel. What the first has beside its pixels is
            that of the picture.
        timing: see `Timing`.
        quality: 1 to 100 of WebP, whose 100 is lossless; default 95, and lossless for frames from a lossless WebP.

    Raises:
        UserError: it cannot be written.
    """
    format = MOVING[Path(path).suffix.lower()]
    look: Image | None = None
    stills = []
    for frame in frames:
        held = as_held(frame, format)
        look = look or held
        stills.append(PIL.Image.fromarray(turn_back(to_array(held, np.uint8), held.orientation)))
    assert look is not None, 'there is at least one frame'
    more: dict[str, Any] = {'disposal': 2} if format == 'GIF' else {}
    if timing.loop is not None or format != 'GIF':
        more['loop'] = 1 if timing.loop is None else timing.loop
    more |= {'save_all': True, 'append_images': stills[1:], 'duration': timing.milliseconds}

    def save(**options: Any) -> bytes:
        buffer = io.BytesIO()
        stills[0].save(buffer, format, **more, **options)
        return buffer.getvalue()

    with encoding(path, format):
        data = save_with_notes(look, format, quality, save)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
