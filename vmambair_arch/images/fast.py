"""Pixels alone, as fast as they can be had: what training reads, to the same values as `image_io.decode_image`."""

from __future__ import annotations

import io
import re
import struct
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
from numpy.typing import NDArray

from ..errors import UserError
from .image_io import MAX_PIXELS, decode_image
from .jpeg import DamagedJpegError, decode_jpeg
from .whole import JPEG, PNG, fault_of, jpeg_head, png_fault

_ORIENTATION = 0x0112
_NOT_PLAIN = (b'eXIf', b'acTL')  # chunks of a PNG that a fast decoder passes over: orientation, animation


def decode_pixels(data: bytes, name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Decode an image as it is seen: EXIF orientation is applied, CMYK is colour, transparency is dropped.

    Returns:
        RGB (h, w, 3): uint8 for 8 bits a channel, else float32 in 0..1.

    Raises:
        UserError: for what is not an image or a damaged one, naming it.
    """
    if data.startswith(JPEG) and (jpeg := _plain_jpeg(data, name)) is not None:
        return jpeg
    # Three times as fast as the general reader, which knows every kind of image and says what is wrong with one.
    if _plain(data, name):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.dtype == np.uint8 and pixels.shape[2:] == (3,):
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    if data[:4] in (b'II*\0', b'MM\0*') and (plain := _plain_tiff(data)) is not None:
        return plain
    image = decode_image(data, name=name)
    return np.rint(image.rgb * 255).astype(np.uint8) if image.bits == 8 else image.rgb


_OPENCV_ALONE = re.compile(rb'P[1-7]\s|\x59\xa6\x6a\x95|#\?(RADIANCE|RGBE)')
"""How files begin that OpenCV makes pictures of and nothing here does: PNM and PAM, Sun raster, Radiance."""


def opencv_pixels(data: bytes, name: str, flags: int = cv2.IMREAD_COLOR) -> NDArray[Any] | None:
    """The pixels of a file in a format that BasicSR reads through OpenCV, and this package does not; None for others.

    Args:
        flags: OpenCV's, for what is returned.

    Raises:
        UserError: it is damaged.
    """
    if not _OPENCV_ALONE.match(data):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f'{name}: is a damaged or truncated image')
    return np.asarray(pixels)


def whole_pixels(data: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a colour JPEG as they lie in the file; None for other files, which are left to another decoder.

    Raises:
        ValueError: of any file: it is damaged, as far as can be told; says how.
    """
    if not data.startswith(JPEG):
        if fault := fault_of(data):
            raise ValueError(fault)
        return None
    head = jpeg_head(data)
    return decode_jpeg(data) if head.components == 3 and 0 < head.pixels <= MAX_PIXELS else None


def _plain(data: bytes, name: str) -> bool:
    """Whether OpenCV decodes this to the pixels that are meant, if to anything, and would notice what can be noticed.

    Raises:
        UserError: a PNG that is damaged.
    """
    if data.startswith(PNG):
        if fault := png_fault(data):
            raise UserError(f'{name}: is a damaged or truncated image ({fault})')
        return not any(chunk in data for chunk in _NOT_PLAIN)
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        whole = len(data) >= struct.unpack_from('<I', data, 4)[0] + 8
        return whole and data[12:16] in (b'VP8 ', b'VP8L')  # without EXIF and animation
    if data.startswith(b'BM') and len(data) >= 54:
        size, offset = struct.unpack_from('<I', data, 2)[0], struct.unpack_from('<I', data, 10)[0]
        width, height, _, bits, compression = struct.unpack_from('<iiHHI', data, 18)
        row = (abs(width) * bits + 31) // 32 * 4
        return len(data) >= max(size, offset + row * abs(height)) and bits == 24 and compression == 0
    return False  # TIFF among them, of whose damage OpenCV hands nothing on


def _plain_jpeg(data: bytes, name: str) -> NDArray[np.uint8] | None:
    """The pixels of an upright JPEG of three components; None for others.

    Raises:
        UserError: it is damaged.
    """
    head = jpeg_head(data)
    if not head.whole or head.components != 3 or not 0 < head.pixels <= MAX_PIXELS:
        return None
    if head.exif is not None and _orientation(head.exif) != 1:
        return None
    try:
        return decode_jpeg(data)
    except DamagedJpegError as error:
        raise UserError(f'{name}: is a damaged or truncated image ({error})') from None


def _plain_tiff(data: bytes) -> NDArray[np.uint8] | None:
    """The pixels of an upright TIFF of 8-bit colour, by Pillow, which hands on what libtiff notices; else None."""
    if (raw := _raw_tiff(data)) is not None:
        return raw
    try:
        with PIL.Image.open(io.BytesIO(data), formats=['TIFF']) as source:
            upright = source.getexif().get(_ORIENTATION, 1) == 1
            if source.mode == 'RGB' and upright and getattr(source, 'n_frames', 1) == 1 and not _is_deep(source):
                return np.asarray(source)
    except Exception:  # the general reader meets it too, and says what it is
        return None
    return None


_TIFF_VALUES = {3: 'H', 4: 'I'}  # types of numbers that sizes and places are written as
_TIFF_RGB = {  # TIFF 6.0, section 8: tags that say how pixels lie, and the plain way, which is the default of most
    259: 1, 262: 2, 266: 1, _ORIENTATION: 1, 277: 3, 284: 1, 317: 1, 339: 1,
}  # fmt: skip
_WIDTH, _HEIGHT, _BITS, _STRIPS, _COUNTS, _TILES = 256, 257, 258, 273, 279, 322


def _raw_tiff(data: bytes) -> NDArray[np.uint8] | None:
    """The pixels of an uncompressed TIFF of 8-bit colour whose strips are all there, one behind the other; else None.

    There is nothing to decode, and nothing to notice but that something is missing.
    """
    order = '<' if data[:2] == b'II' else '>'
    try:
        (at,) = struct.unpack_from(f'{order}I', data, 4)
        (number,) = struct.unpack_from(f'{order}H', data, at)
        if struct.unpack_from(f'{order}I', data, at + 2 + 12 * number)[0]:  # further pages
            return None
        tags: dict[int, tuple[int, ...]] = {}
        for place in range(at + 2, at + 2 + 12 * number, 12):
            tag, kind, count = struct.unpack_from(f'{order}HHI', data, place)
            if tag not in _TIFF_RGB and tag not in (_WIDTH, _HEIGHT, _BITS, _STRIPS, _COUNTS, _TILES):
                continue
            form = f'{order}{count}{_TIFF_VALUES[kind]}'
            if struct.calcsize(form) > 4:
                (place,) = struct.unpack_from(f'{order}I', data, place + 8)
                tags[tag] = struct.unpack_from(form, data, place)
            else:
                tags[tag] = struct.unpack_from(form, data, place + 8)
        (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
        starts, counts = tags[_STRIPS], tags[_COUNTS]
    except (KeyError, ValueError, struct.error):
        return None
    plain = all(set(tags.get(tag, (value,))) == {value} for tag, value in _TIFF_RGB.items())
    told = 262 in tags and 277 in tags and tags.get(_BITS) == (8, 8, 8) and _TILES not in tags
    joined = all(start + size == then for start, size, then in zip(starts, counts, starts[1:], strict=False))
    total = width * height * 3
    if not (plain and told and joined and len(starts) == len(counts)) or not 0 < total == sum(counts):
        return None
    if starts[0] + total > len(data):
        return None
    return np.frombuffer(data, np.uint8, total, starts[0]).reshape(height, width, 3).copy()


def _is_deep(source: PIL.Image.Image) -> bool:
    return set(getattr(source, 'tag_v2', {}).get(PIL.TiffImagePlugin.BITSPERSAMPLE, ())) != {8}


def _orientation(exif: bytes) -> int:
    try:
        parsed = PIL.Image.Exif()
        parsed.load(exif)
        return int(parsed.get(_ORIENTATION, 1))
    except Exception:  # anything can come out of a damaged block; the general reader drops it as well
        return 0
