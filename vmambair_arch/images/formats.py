"""Formats of image files: their suffixes, what each can hold, and the names of those that are refused."""

from __future__ import annotations

import importlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import TiffImagePlugin

from ..errors import UserError, nearest


@dataclass(frozen=True)
class Format:
    """What a format can hold.

    Attributes:
        suffixes: the first is the usual one.
        alpha: transparency.
        deep: 16 bits a channel as we write it.
        keeps: what is written beside the pixels: 'icc', 'exif', 'xmp', 'dpi', 'text'.
        lossy: whether quality below 100 loses something.
        largest: pixels of a side; 0: none that matters.
    """

    suffixes: tuple[str, ...]
    alpha: bool = True
    deep: bool = False
    keeps: frozenset[str] = frozenset()
    lossy: bool = False
    largest: int = 0


_PHOTO = frozenset({'icc', 'exif', 'xmp'})
KINDS = {
    'PNG': Format(('.png',), deep=True, keeps=_PHOTO | {'dpi', 'text'}),
    'JPEG': Format(('.jpg', '.jpeg', '.jfif', '.jpe'), alpha=False, keeps=_PHOTO | {'dpi'}, lossy=True, largest=65_535),
    'WEBP': Format(('.webp',), keeps=_PHOTO, lossy=True, largest=16_383),
    'TIFF': Format(('.tif', '.tiff'), deep=True, keeps=_PHOTO | {'dpi'}),
    'BMP': Format(('.bmp',), alpha=False, keeps=frozenset({'dpi'})),
    'AVIF': Format(('.avif',), keeps=_PHOTO, lossy=True, largest=65_535),
    'HEIF': Format(('.heic', '.heif'), keeps=_PHOTO, lossy=True, largest=16_384),
    'JPEG2000': Format(('.jp2', '.j2k', '.jpx')),
}
"""Formats that are read and written, by Pillow's names."""

HELD = {**KINDS, 'GIF': Format(('.gif',))}
"""With GIF, which moving pictures are written in, and which holds nothing beside its pixels."""

SUFFIXES = {suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes}
"""Suffixes of pictures that are restored, and Pillow's name of each format."""

FORMATS = {suffix: SUFFIXES[suffix] for suffix in ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')}
"""Suffixes that data sets may have: those that every decoder of a training reads."""

MOVING = {'.gif': 'GIF', '.webp': 'WEBP', '.png': 'PNG'}
"""Suffixes that several frames can be written with."""

HEIC = 'HEIC needs the package pillow-heif: pip install pillow-heif'
LISTED = 'PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC or JPEG 2000'

_REFUSED = (  # offset, bytes, what it is
    (0, b'v/1\x01', 'an OpenEXR picture of floating-point values; save it as a 16-bit PNG or TIFF first'),
    (0, b'#?RADIANCE', 'a Radiance picture of floating-point values; save it as a 16-bit PNG or TIFF first'),
    *((0, b'P%d\n' % kind, 'a PNM picture (.ppm, .pgm, .pbm); save it as PNG first') for kind in range(1, 8)),
    (0, b'PF\n', 'a PFM picture of floating-point values; save it as a 16-bit PNG or TIFF first'),
    (0, b'\xff\x0a', 'a JPEG XL picture, which is not supported; save it as PNG or JPEG first'),
    (4, b'JXL ', 'a JPEG XL picture, which is not supported; save it as PNG or JPEG first'),
    (0, b'8BPS', 'a Photoshop document; export it as a flat PNG or TIFF first'),
    (0, b'%PDF', 'a PDF document; export its pages as PNG first'),
    (0, b'FUJIFILM', 'a raw photograph; develop it to JPEG or a 16-bit TIFF first'),
    (8, b'CR\x02', 'a raw photograph; develop it to JPEG or a 16-bit TIFF first'),
    (4, b'ftypcrx', 'a raw photograph; develop it to JPEG or a 16-bit TIFF first'),
    (0, b'<svg', 'a drawing (SVG); export it as PNG first'),
    (0, b'version https://git-lfs', 'a Git LFS pointer, not the picture itself; run git lfs pull'),
)
_HEIF_BRANDS = (b'heic', b'heix', b'hevc', b'heim', b'heis', b'mif1', b'msf1')
_DNG_VERSION, _SAMPLE_FORMAT, _FLOAT = 50706, 339, 3


def format_of(path: str | Path) -> str:
    """Pillow's name of the format that the suffix of an output names.

    Raises:
        UserError: unknown suffix, or one whose package is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        hint = nearest(suffix, list(SUFFIXES)) if suffix else ''
        raise UserError(f"{path}: no image format has the suffix '{suffix}'{hint}; use one of {', '.join(SUFFIXES)}")
    if SUFFIXES[suffix] == 'HEIF' and not open_heif():
        raise UserError(f'{path}: {HEIC}')
    return SUFFIXES[suffix]


def check_side(format: str, longest: int, name: object) -> None:
    """Refuse a picture whose longest side, in pixels, is more than a format holds.

    Raises:
        UserError: it is.
    """
    most = KINDS[format].largest
    if most and longest > most:
        raise UserError(f'{name}: {format} holds {most} pixels a side, not {longest}; use png')


def decoders() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here."""
    return (*(name for name in KINDS if name != 'HEIF' or open_heif()), 'GIF')


def open_heif() -> bool:
    """Make HEIC known to Pillow; whether it is."""
    try:
        pillow_heif = importlib.import_module('pillow_heif')
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def looks_like_heif(data: bytes) -> bool:
    return data[4:8] == b'ftyp' and data[8:12] in _HEIF_BRANDS and b'avif' not in data[8:64]


def what_it_is(data: bytes) -> str:
    """What a file is that no decoder knows, for the end of a sentence that starts with its name."""
    for offset, magic, what in _REFUSED:
        if data[offset : offset + len(magic)] == magic:
            return f'is {what}'
    if looks_like_heif(data) and not open_heif():
        return f'is a HEIC picture. {HEIC}'
    if data[:4] in (b'II*\0', b'MM\0*') and (what := _kind_of_tiff(data)):
        return f'is {what}'
    return f'is no {LISTED} image, or its header is damaged'


def _kind_of_tiff(data: bytes) -> str:
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next, os.SEEK_SET)
        directory.load(file)
        if _FLOAT in directory.get(_SAMPLE_FORMAT, ()):
            return 'a TIFF of floating-point values; save it with 16 bits a channel first'
        if _DNG_VERSION in directory:
            return 'a raw photograph; develop it to JPEG or a 16-bit TIFF first'
    except Exception:  # a damaged directory says nothing
        return ''
    return ''
