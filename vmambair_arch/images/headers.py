"""Headers of image files: size, channels, depth, and whether the file is whole; only what is odd is decoded."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
from PIL import Image

from ..errors import UserError
from ..files import cache_folder, replacing
from .fast import opencv_pixels
from .formats import FORMATS
from .image_io import read_bytes, read_image
from .metadata import read_exif
from .whole import JPEG, PNG

_PNG_END = b'\x00\x00\x00\x00IEND\xaeB`\x82'
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; a palette is colour
_JPEG_END = b'\xff\xd9'
_HEAD = 1 << 12  # the chunks of a PNG that stand before its pixels
_TAIL = 1 << 16  # cameras append kilobytes of their own after the end of a JPEG
_PILLOW = {  # channels and bits by mode
    '1': (1, 8), 'L': (1, 8), 'P': (3, 8), 'LA': (2, 8), 'RGB': (3, 8), 'RGBA': (4, 8), 'RGBX': (3, 8),
    'I;16': (1, 16), 'I;16B': (1, 16), 'I': (1, 16), 'CMYK': (3, 8), 'YCbCr': (3, 8),
}  # fmt: skip
_FORMATS = tuple(dict.fromkeys(FORMATS.values()))


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        width, height: pixels as seen, EXIF orientation applied.
        channels: 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha.
        bits: 8, 16 or 32 a channel.
        fault: why the file cannot be used; the rest is 0 then.
    """

    width: int = 0
    height: int = 0
    channels: int = 0
    bits: int = 0
    fault: str = ''


def read_header(path: str | Path) -> Header:
    """The header of an image file; where it says something odd, as a file that is cut off, the decoder decides.

    Raises nothing.
    """
    try:
        with Path(path).open('rb') as file:
            head = file.read(_HEAD)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (_TAIL if head.startswith(JPEG) else _HEAD)))
            tail = file.read()
    except OSError as error:
        return Header(fault=f'cannot be read ({error.strerror or error})')
    if not size:
        return Header(fault='is empty (0 bytes)')
    found = _png(head, tail) if head.startswith(PNG) else _other(Path(path), head, tail, size)
    return found or _decoded(Path(path))


def _png(head: bytes, tail: bytes) -> Header | None:
    if len(head) < 33 or head[12:16] != b'IHDR' or zlib.crc32(head[12:29]) != struct.unpack('>I', head[29:33])[0]:
        return None
    if not tail.endswith(_PNG_END) or any(b'eXIf' in part or b'acTL' in part for part in (head, tail)):
        return None
    width, height, bits, colour = struct.unpack('>IIBB', head[16:26])
    return Header(width, height, _PNG_CHANNELS.get(colour, 0), max(bits, 8))


def _other(path: Path, head: bytes, tail: bytes, size: int) -> Header | None:
    """Every format but PNG, where Pillow does not tell 16 bits a channel from 8."""
    if head.startswith(JPEG) and _JPEG_END not in tail:
        return None
    if head[:4] == b'RIFF' and struct.unpack('<I', head[4:8])[0] + 8 > size:
        return None
    if head[:2] == b'BM' and struct.unpack('<I', head[2:6])[0] > size:
        return None
    try:
        with warnings.catch_warnings(), Image.open(path, formats=_FORMATS) as image:
            warnings.simplefilter('ignore')
            if image.mode not in _PILLOW or (image.format != 'MPO' and getattr(image, 'n_frames', 1) > 1):
                return None
            if _ends(image) > size:
                return None
            (width, height), (channels, bits) = image.size, _PILLOW[image.mode]
            if read_exif(image)[1] >= 5:
                width, height = height, width
    except Exception:  # decoders raise nearly anything on a damaged file
        return None
    return Header(width, height, channels, bits)


def _ends(image: Image.Image) -> int:
    """Where the last strip or tile of a TIFF ends; 0 for other formats."""
    tags = getattr(image, 'tag_v2', {})
    places = [(tags.get(at) or (), tags.get(count) or ()) for at, count in ((273, 279), (324, 325))]
    return max((start + length for at, count in places for start, length in zip(at, count, strict=False)), default=0)


def _decoded(path: Path) -> Header:
    """What the decoder makes of a file, in which alone there is a fault."""
    try:
        image = read_image(path)
    except UserError as error:
        return Header(fault=str(error).removeprefix(f'{path}: '))
    height, width = image.rgb.shape[:2]
    return Header(width, height, (1 if image.grey else 3) + (image.alpha is not None), image.bits)


def _with_opencv(path: Path) -> Header:
    """The header of a picture; one that OpenCV alone reads is decoded for it."""
    header = read_header(path)
    if not header.fault:
        return header
    try:
        pixels = opencv_pixels(read_bytes(path), str(path), cv2.IMREAD_UNCHANGED)
    except UserError as error:
        return Header(fault=str(error).removeprefix(f'{path}: '))
    if pixels is None:
        return header
    height, width, channels = (*pixels.shape, 1)[:3]
    return Header(width, height, channels, 8 * pixels.itemsize)


def read_headers(
    paths: Iterable[str | Path], cache: Path | None = None, *, by_opencv: bool = False
) -> Iterator[Header]:
    """The headers of files in their order; those that have not changed since the last time are not opened again.

    Args:
        paths: image files.
        cache: folder of what was read before, one file for each folder of images; default: `headers` in
            `files.cache_folder`.
        by_opencv: whether pictures count that OpenCV alone reads, as PPM, which BasicSR's data sets take.
    """
    folder = cache or cache_folder() / 'headers'
    shelf = _Shelf(folder / 'opencv', _with_opencv) if by_opencv else _Shelf(folder, read_header)
    for path in paths:
        yield shelf.header(Path(path))
    shelf.write()


class _Shelf:
    """Headers by folder and file name, with the size and time of the file that they were read from."""

    def __init__(self, folder: Path, read: Callable[[Path], Header]) -> None:
        self._folder, self._read_header = folder, read
        self._known: dict[Path, dict[str, list]] = {}
        self._changed: set[Path] = set()

    def header(self, path: Path) -> Header:
        folder = path.parent
        if folder not in self._known:
            self._known[folder] = self._read(folder)
        try:
            status = path.stat()
        except OSError as error:
            return Header(fault=f'cannot be read ({error.strerror or error})')
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self._known[folder].get(path.name)
        if entry and entry[:2] == stamp:
            return Header(*entry[2:])
        header = self._read_header(path)
        if not header.fault:  # a fault may be fixed without a trace in size and time, as a permission
            self._known[folder][path.name] = [*stamp, *astuple(header)]
            self._changed.add(folder)
        return header

    def _file(self, folder: Path) -> Path:
        return self._folder / f'{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}.json'

    def _read(self, folder: Path) -> dict[str, list]:
        try:
            known = json.loads(self._file(folder).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def write(self) -> None:
        """A cache that cannot be written is none."""
        for folder in self._changed:
            try:
                with replacing(self._file(folder)) as temporary:
                    temporary.write_text(json.dumps(self._known[folder]), encoding='utf-8')
            except UserError:
                return
