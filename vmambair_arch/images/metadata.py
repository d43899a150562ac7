"""What a file says beside its pixels: EXIF with the orientation, which is applied to pixels here as well; XMP,
resolution, texts."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from typing import TypedDict

import numpy as np
import PIL.Image

from .pixels import Image, packed

ORIENTATION = 0x0112
"""EXIF's tag of how pixels lie, 1 to 8; 1 is upright."""
EXIF_START = b'Exif\0\0'
"""What a JPEG's EXIF block starts with; other formats leave it out."""
XMP_KEYWORD = 'XML:com.adobe.xmp'
"""PNG's name of the text that is an XMP packet."""
JPEG_HOLDS = 65_000
"""Bytes of EXIF or of XMP that one segment of a JPEG holds."""
_MOST = 2**24  # of what a file that is not damaged says beside its pixels
_SIDES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension
DIRECTORIES = (34665, 34853)
"""Tags of the Exif and GPS directories."""
TIFF_EXIF = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 33432, *DIRECTORIES)
"""What of a TIFF's directory is EXIF: description, maker, model, orientation, resolution, software, date, artist,
copyright, and the two directories."""


def read_exif(source: PIL.Image.Image) -> tuple[bytes | None, int]:
    """The EXIF block, as JPEG has it, and its orientation; a block that cannot be parsed is dropped."""
    try:
        parsed = source.getexif()
        orientation = parsed.get(ORIENTATION, 1)
        if source.format == 'TIFF':  # its tags and those of its pixels are one directory
            for tag in set(parsed) - set(TIFF_EXIF):
                del parsed[tag]
            exif = parsed.tobytes()
        else:
            # Absent where a PNG has it as a text (ImageMagick's), or where the orientation is XMP's alone.
            exif = source.info.get('exif') or (parsed.tobytes() if len(parsed) else b'')
            PIL.Image.Exif().load(exif)
    except MemoryError:
        raise
    except Exception:  # as above: anything can come out of a damaged block, and the picture is worth more
        return None, 1
    if orientation not in range(1, 9):
        orientation = 1
    exif = EXIF_START + exif.removeprefix(EXIF_START)
    return exif if len(parsed) and len(exif) <= _MOST else None, int(orientation)


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
    fits = isinstance(xmp, bytes) and 0 < len(xmp) <= _MOST
    return {'xmp': xmp if fits else None, 'dpi': dpi, 'text': text}


def not_carried(source: PIL.Image.Image) -> tuple[str, ...]:
    """What an image that has been loaded says and an `Image` has no place for, in words."""
    gamma = source.info.get('gamma')
    looks = isinstance(gamma, float) and not math.isclose(gamma, 1 / 2.2, rel_tol=0.02)
    found = {
        'IPTC captions': source.format in ('JPEG', 'MPO') and 'photoshop' in source.info,
        'the comment': source.format in ('JPEG', 'MPO') and 'comment' in source.info,
        f'its gamma of {gamma}': looks and not source.info.get('icc_profile') and 'srgb' not in source.info,
    }
    return tuple(what for what, there in found.items() if there)


def exif_to_write(image: Image) -> bytes | None:
    """The EXIF block of a result: of its size, and without the thumbnail, which shows what the input looked like."""
    if image.exif:
        with suppress(struct.error):
            return _of_the_result(image.exif, *image.rgb.shape[1::-1][:: 1 if image.orientation < 5 else -1])
        return image.exif
    if image.orientation == 1:
        return None
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = image.orientation
    return exif.tobytes()


def _of_the_result(exif: bytes, width: int, height: int) -> bytes:
    """The block with two numbers changed and the link to the thumbnail cut: makers' notes hold offsets into it, so that
    nothing may move.

    Raises:
        struct.error: it is damaged.
    """
    block = bytearray(exif.removeprefix(EXIF_START))
    order = '<' if block[:2] == b'II' else '>'
    (first,) = struct.unpack_from(f'{order}I', block, 4)
    entries = _entries(block, order, first)
    (count,) = struct.unpack_from(f'{order}H', block, first)
    struct.pack_into(f'{order}I', block, first + 2 + 12 * count, 0)
    if DIRECTORIES[0] in entries:
        (second,) = struct.unpack_from(f'{order}I', block, entries[DIRECTORIES[0]] + 8)
        below = _entries(block, order, second)
        for tag, value in zip(_SIDES, (width, height), strict=True):
            if tag in below:
                struct.pack_into(f'{order}HII', block, below[tag] + 2, 4, 1, value)  # a LONG
    return EXIF_START + bytes(block)


def _entries(block: bytearray, order: str, start: int) -> dict[int, int]:
    """Where the entries of a directory stand, by tag."""
    (count,) = struct.unpack_from(f'{order}H', block, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return {struct.unpack_from(f'{order}H', block, place)[0]: place for place in places}


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (h, w, ...) turned upright by EXIF's orientation 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return packed(pixels)


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `turn`; all but the two quarter turns are their own."""
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))
