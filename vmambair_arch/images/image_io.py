"""The one door between image files and arrays: RGB float32 0..1 inside, files outside.

| in the file | inside | written back as |
| --- | --- | --- |
| grey, 1 bit | the same value three times | grey, the mean of the three |
| RGB, palette, YCbCr | RGB | RGB |
| CMYK | RGB, through the embedded profile to sRGB where there is one | RGB without that profile |
| alpha or a transparent palette entry | apart, in `Image.alpha` | alpha |
| 16 bit (PNG, TIFF) | the same 0..1 | 16 bit where the format has it (PNG, TIFF), else 8 |
| EXIF orientation | pixels turned upright | pixels turned back and the tag kept: the file lies as the source did |
| ICC profile, EXIF | carried along | kept |

The content of a file decides what it is, not its name. More than one frame or page is refused, since a still picture
in its place would lose the rest; the second picture that phones put in a JPEG (MPO) does not count.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

from ..errors import UserError
from ..files import replacing
from .codecs import decode_deep, encode_png16, encode_tiff16, is_deep
from .metadata import ORIENTATION, exif_to_write, read_exif, turn, turn_back
from .pixels import Image, from_array, from_pil, to_array, to_pil

__all__ = [
    'FORMATS',
    'MAX_PIXELS',
    'Image',
    'check_regular',
    'decode_image',
    'encode_image',
    'format_of',
    'from_array',
    'from_pil',
    'image_size',
    'read_image',
    'to_array',
    'to_pil',
    'write_image',
]

MAX_PIXELS = 2**27
"""Largest image that is decoded unless the caller says otherwise: 134 megapixels, 1.6 GB as float32."""

FORMATS = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.webp': 'WEBP',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
    '.bmp': 'BMP',
}
"""Suffixes that are read and written, and Pillow's name of each format."""

_DECODERS = tuple(dict.fromkeys(FORMATS.values()))
_MAX_BYTES_PER_PIXEL = 32  # several times what four channels of 16 bits take
_limit_lock = threading.Lock()
logger = logging.getLogger('vmambair_arch')


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file.

    Args:
        path: PNG, JPEG, WebP, TIFF or BMP, whatever its name says.
        max_pixels: a file that declares more is refused before anything is decoded.

    Raises:
        UserError: missing, empty, truncated, no image, animated, too large, of a colour space that is not supported.
    """
    path = Path(path)
    check_regular(path)
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES_PER_PIXEL * max_pixels:
            raise UserError(_too_large(str(path), f'{size} bytes', max_pixels))
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    return decode_image(data, name=str(path), max_pixels=max_pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image file as `read_image` returns it, from its header.

    Raises:
        UserError: missing, or no image.
    """
    path = Path(path)
    check_regular(path)
    try:
        with _no_pillow_limit(), PIL.Image.open(path, formats=_DECODERS) as source:
            sideways = read_exif(source)[1] >= 5
            return source.size[::-1] if sideways else source.size
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f'{path}: is no PNG, JPEG, WebP, TIFF or BMP image, or its header is damaged') from error


def check_regular(path: Path) -> None:
    """Refuse what cannot be read to an end: pipes and devices, which a symlink may lead to.

    Raises:
        UserError: missing, a folder, or no regular file.
    """
    if path.is_dir():
        raise UserError(f'{path}: is a folder, not an image')
    if not path.exists():
        raise UserError(f'{path}: no such file')
    if not path.is_file():
        raise UserError(f'{path}: is no regular file')


def decode_image(data: bytes, *, name: str = 'image', max_pixels: int = MAX_PIXELS) -> Image:
    """`read_image` for the bytes of a file; `name` stands in its messages."""
    if not data:
        raise UserError(f'{name}: is empty (0 bytes)')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # damaged EXIF and the like: what matters is raised
            return _decode(data, name, max_pixels)
    except UserError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise UserError(f'{name}: is no PNG, JPEG, WebP, TIFF or BMP image, or its header is damaged') from error
    except PIL.Image.DecompressionBombError as error:
        raise UserError(_too_large(name, str(error), max_pixels)) from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise UserError(f'{name}: is a damaged or truncated image ({error or type(error).__name__})') from error


def write_image(path: str | Path, image: Image, *, quality: int = 95) -> None:
    """Encode `image` in the format that the suffix of `path` names, whole or not at all.

    Args:
        path: one of the suffixes of `FORMATS`; missing folders are made.
        image: values are clipped to 0..1 and rounded to the nearest level.
        quality: 1 to 100, JPEG (always 4:4:4) and WebP, whose 100 is lossless.

    Raises:
        UserError: unknown suffix, alpha in a JPEG or BMP, too large for the format, or the file cannot be written.
    """
    path = Path(path)
    format = format_of(path)
    if image.alpha is not None and format in ('JPEG', 'BMP'):
        raise UserError(f'{path}: {format} cannot hold the transparency of this image; write it as png, webp or tiff')
    try:
        data = encode_image(image, format, quality=quality)
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f'{path}: cannot be written as {format} ({error})') from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def format_of(path: str | Path) -> str:
    """Pillow's name of the format that the suffix of an output names.

    Raises:
        UserError: unknown suffix.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise UserError(f"{path}: no image format has the suffix '{suffix}'; use one of {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


def encode_image(image: Image, format: str, *, quality: int = 95) -> bytes:
    """The bytes of a file of Pillow's format `format`; see `write_image`."""
    deep = image.bits == 16 and format in ('PNG', 'TIFF')
    pixels = turn_back(to_array(image, np.uint16 if deep else np.uint8), image.orientation)
    if deep and pixels.ndim == 3:  # Pillow has no mode for it
        if pixels.shape[2] == 2:  # which hardly any program reads with 16 bits
            pixels = pixels[..., [0, 0, 0, 1]]
        encode = encode_png16 if format == 'PNG' else encode_tiff16
        return encode(pixels, image)
    options: dict[str, object] = {
        'JPEG': {'quality': quality, 'subsampling': 0},
        'WEBP': {'quality': quality, 'lossless': quality == 100, 'exact': True},
        'TIFF': {'compression': 'tiff_adobe_deflate'},
    }.get(format, {})
    if image.icc:
        options['icc_profile'] = image.icc
    if exif := exif_to_write(image):
        try:
            return _save(pixels, format, exif=exif, **options)
        except Exception as error:  # a block that can be parsed can still hold what cannot be written
            logger.warning('EXIF left out but for the orientation: it cannot be written as %s (%s)', format, error)
            if exif := exif_to_write(replace(image, exif=None)):
                options['exif'] = exif
    return _save(pixels, format, **options)


def _decode(data: bytes, name: str, max_pixels: int) -> Image:
    with _no_pillow_limit():
        source = PIL.Image.open(io.BytesIO(data), formats=_DECODERS)
    with source:
        if source.width * source.height > max_pixels:
            raise UserError(_too_large(name, f'{source.width}x{source.height} pixels', max_pixels))
        frames = getattr(source, 'n_frames', 1)
        if frames > 1 and source.format != 'MPO':
            raise UserError(f'{name}: has {frames} frames or pages; extract those you want as single images first')
        deep = is_deep(source, data)
        exif, orientation = read_exif(source)
        source.load()
        turned = source.format == 'TIFF' and ORIENTATION not in source.getexif()  # by Pillow, as it loads
        image = decode_deep(data, source, orientation, name) if deep and source.mode in ('RGB', 'RGBA', 'LA') else None
        if image is None:
            try:
                image = from_pil(source)
            except UserError as error:
                raise UserError(f'{name}: {error}') from error
    pending = 1 if turned else orientation
    alpha = None if image.alpha is None else turn(image.alpha, pending)
    return replace(image, rgb=turn(image.rgb, pending), alpha=alpha, exif=exif, orientation=orientation)


def _save(pixels: np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def _too_large(name: str, what: str, max_pixels: int) -> str:
    return f'{name}: too large ({what}, the limit is {max_pixels} pixels); shrink it, or raise that where you trust it'


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Pillow's own limit is a global: out of the way while a header is read, since the caller's limit follows."""
    with _limit_lock:
        before = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before
