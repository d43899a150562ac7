"""Whether an image file is whole, told from its bytes: what its decoder notices or could, at hardly any cost.

OpenCV returns an image although libpng or libtiff gave up in its middle, and Pillow does not test the checksums of a
PNG's pixels. A JPEG has no checksum; what can be told of it by decoding is told by `jpeg`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

PNG = b'\x89PNG\r\n\x1a\n'
JPEG = b'\xff\xd8\xff'
BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of a frame, whatever the process


def fault_of(data: bytes) -> str:
    """What is wrong with the bytes of a file, for a message; '' where nothing can be told."""
    return png_fault(data) if data.startswith(PNG) else ''


def png_fault(data: bytes) -> str:
    """A chunk of a PNG that does not fit its checksum, or a missing end; what follows the end is not looked at."""
    at, view = len(PNG), memoryview(data)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from('>I', data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from('>I', data, end)[0]:
            name = data[at + 4 : at + 8].decode('latin-1')
            return f'the checksum of its part {name!r} is wrong'
        if data[at + 4 : at + 8] == b'IEND':
            return ''
        at = end + 4
    return 'it is cut off, the end of the PNG is missing'


@dataclass(frozen=True)
class JpegHead:
    """What stands before the pixels of a JPEG.

    Attributes:
        components: 1 grey, 3 colour, 4 CMYK; 0 where there is no frame.
        exif: the EXIF block, without its name.
        whole: the end is there.
        scan: where the first scan begins; the length of the file where there is none.
        progressive: there are several scans.
        pixels: how many the frame has; 0 where there is none, or the height stands behind the pixels.
    """

    components: int = 0
    exif: bytes | None = None
    whole: bool = False
    scan: int = 0
    progressive: bool = False
    pixels: int = 0


def jpeg_head(data: bytes) -> JpegHead:
    """The markers of a JPEG up to its first scan."""
    components, exif, at, progressive, pixels = 0, None, 2, False, 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from('>H', data, at + 2)
        if marker in FRAMES and at + 10 <= len(data):
            height, width = struct.unpack_from('>HH', data, at + 5)
            components, progressive, pixels = data[at + 9], marker in PROGRESSIVE, height * width
        elif marker == 0xE1 and data[at + 4 : at + 10] == b'Exif\0\0':
            exif = data[at + 10 : at + 2 + length]
        elif marker == 0xDA:
            return JpegHead(components, exif, data.rfind(b'\xff\xd9') > at, at, progressive, pixels)
        at += 2 + length
    return JpegHead(components, exif, scan=len(data), progressive=progressive, pixels=pixels)
