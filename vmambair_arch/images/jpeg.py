"""JPEGs, decoded so that what libjpeg notices is an error: OpenCV and Pillow drop its warnings and return an image.

A JPEG has no checksum. Where a bit of its scan has flipped, libjpeg goes on with other values, and notices only if it
meets a code that there is none of, or ends elsewhere than the data (libjpeg-turbo, jerror.h, JWRN_*).
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from .whole import jpeg_head

PADDING = 4
"""Bytes between scan and end that writers leave there; more of them count as padding where all are the same."""

_COLOURS = {1: 'GRAY', 3: 'RGB', 4: 'CMYK'}
_OF_PIXELS = ('Corrupt JPEG data', 'Premature end of JPEG file', 'Unsupported marker type')
_LEFT_OVER = re.compile(r'(\d+) extraneous bytes before marker 0x([0-9a-f]{2})')


class DamagedJpegError(ValueError):
    """What libjpeg noticed, in its words."""


def decode_jpeg(data: bytes, components: int = 3) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG as they lie in the file; None for a kind that libjpeg-turbo does not decode.

    Args:
        data: the file.
        components: 1 for grey, 3 for colour, 4 for CMYK, as `whole.jpeg_head` has them.

    Returns:
        (h, w, components) uint8, colour as RGB.

    Raises:
        DamagedJpegError: its scan holds, or lacks, what it must not.
    """
    try:
        return _decode(data, components, strict=True)
    except ValueError as error:
        said = str(error)
    if _is_damage(said, data):
        raise DamagedJpegError(said)
    try:  # past a warning of what is no damage
        return _decode(data, components, strict=False)
    except ValueError:
        return None


def _decode(data: bytes, components: int, strict: bool) -> NDArray[np.uint8]:
    return np.asarray(simplejpeg.decode_jpeg(data, _COLOURS.get(components, 'RGB'), strict=strict))


def _is_damage(said: str, data: bytes) -> bool:
    """Whether what libjpeg said first of a file is of its pixels, and not of a kind that it does not decode."""
    if (left := _LEFT_OVER.search(said)) is None:
        return 'ICC' not in said and said.startswith(_OF_PIXELS)
    head = jpeg_head(data)
    if head.scan == len(data):  # there are bytes between the parts of the header
        return False
    if left[2] != 'd9':
        return True
    end = data.find(b'\xff\xd9', head.scan)
    rest = data[max(head.scan, end - int(left[1])) : end]
    return len(rest) > PADDING and len(set(rest)) > 1


def jpeg_fault(data: bytes) -> str:
    """What libjpeg notices of a JPEG, for a message; '' where it is whole, or of a kind that it does not decode.

    Decodes it: its size must have been looked at.
    """
    head = jpeg_head(data)
    if head.components not in _COLOURS:
        return ''
    try:
        decode_jpeg(data, head.components)
    except DamagedJpegError as error:
        return str(error)
    return ''
