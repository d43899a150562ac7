"""What a file says beside its pixels: EXIF with the orientation, which is applied to pixels here as well; XMP,
resolution, texts."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import PIL.Image

from .pixels import Image

ORIENTATION = 0x0112
"""EXIF's tag of how pixels lie, 1 to 8; 1 is upright."""
EXIF_START = b'Exif\0\0'
"""What a JPEG's EXIF block starts with; other formats leave it out."""
XMP_KEYWORD = 'XML:com.adobe.xmp'
"""PNG's name of the text that is an XMP packet."""
_MAX_EXIF = 65_000  # what one JPEG segment holds
# description, maker, model, orientation, resolution, software, date, artist, copyright, the Exif and GPS directories
_TIFF_EXIF = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)


def read_exif(source: PIL.Image.Image) -> tuple[bytes | None, int]:
    """The EXIF block, as JPEG has it, and its orientation; a block that cannot be parsed is dropped."""
    try:
        parsed = source.getexif()
        orientation = parsed.get(ORIENTATION, 1)
        if source.format == 'TIFF':  # its tags and those of its pixels are one directory
            for tag in set(parsed) - set(_TIFF_EXIF):
                del parsed[tag]
            exif = parsed.tobytes()
        else:
            exif = source.info.get('exif') or b''
            PIL.Image.Exif().load(exif)
    except Exception:  # as above: anything can come out of a damaged block, and the picture is worth more
        return None, 1
    if orientation not in range(1, 9):
        orientation = 1
    exif = EXIF_START + exif.removeprefix(EXIF_START)
    return exif if len(parsed) and len(exif) <= _MAX_EXIF else None, int(orientation)


class Notes(TypedDict):
    """What `read_notes` returns, by the names of `Image`'s attributes."""

    xmp: bytes | None
    dpi: tuple[float, float] | None
    text: tuple[tuple[str, str], ...]


def read_notes(source: PIL.Image.Image) -> Notes:
    """XMP, resolution and texts of an image that has been loaded; what is damaged is left out."""
    xmp = source.info.get('xmp') or source.info.get(XMP_KEYWORD)
    if isinstance(xmp, str):
        xmp = xmp.encode()
    dpi: tuple[float, float] | None = None
    try:
        across, down = (float(value) for value in source.info.get('dpi') or ())
        dpi = (across, down) if all(math.isfinite(v) and 1 <= v <= 1e5 for v in (across, down)) else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        dpi = None
    pairs = getattr(source, 'text', {}) if source.format == 'PNG' else {}
    text = tuple((str(k), str(v)) for k, v in pairs.items() if k != XMP_KEYWORD and not k.startswith('Raw profile'))
    fits = isinstance(xmp, bytes) and 0 < len(xmp) <= _MAX_EXIF
    return {'xmp': xmp if fits else None, 'dpi': dpi, 'text': text}


def exif_to_write(image: Image) -> bytes | None:
    if image.exif or image.orientation == 1:
        return image.exif
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = image.orientation
    return exif.tobytes()


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (h, w, ...) turned upright by EXIF's orientation 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `turn`; all but the two quarter turns are their own."""
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))
