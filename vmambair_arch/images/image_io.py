"""The one door between image files and arrays: RGB float32 0..1 inside, files outside.

| in the file | inside | written back as |
| --- | --- | --- |
| grey, 1 bit | the same value three times | grey, the mean of the three |
| RGB, palette, YCbCr | RGB | RGB |
| CMYK | RGB, through the embedded profile to sRGB where there is one | RGB without that profile |
| alpha or a transparent palette entry | apart, in `Image.alpha` | alpha |
| 16 bit (PNG, TIFF) | the same 0..1 | 16 bit where the format has it (PNG, TIFF), else 8 |
| EXIF orientation | pixels turned upright | turned back and the tag kept; upright in a format without EXIF |
| EXIF thumbnail and size | | no thumbnail, the size of the result |
| ICC profile, EXIF, XMP, resolution, texts of a PNG | carried along | kept where the format can (`formats.KINDS`) |
| lossless WebP | noted | lossless, unless a quality is asked for |

The content of a file decides what it is, not its name. More than one frame or page is refused here, since a still
picture in its place would lose the rest (`frames` takes moving ones); the second picture that phones put in a JPEG or
HEIC does not count.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import PngImagePlugin

from ..errors import UserError
from ..files import replacing
from .alpha import fit_alpha
from .codecs import decode_deep, encode_png16, encode_tiff, is_deep, png_texts, warn_of_depth
from .formats import FORMATS, HELD, KINDS, SUFFIXES, decoders, format_of, looks_like_heif, open_heif, what_it_is
from .jpeg import jpeg_fault
from .metadata import JPEG_HOLDS, ORIENTATION, exif_to_write, not_carried, read_exif, read_notes, turn, turn_back
from .pixels import Image, beyond_memory, from_array, from_pil, ran_out_of_memory, to_array, to_pil
from .whole import fault_of

__all__ = [
    'FORMATS',
    'MAX_PIXELS',
    'SUFFIXES',
    'Facts',
    'Image',
    'check_regular',
    'decode_image',
    'encode_image',
    'format_of',
    'from_array',
    'from_pil',
    'image_size',
    'inspect_image',
    'read_image',
    'to_array',
    'to_pil',
    'write_image',
]

MAX_PIXELS = 2**27
"""Largest image that is decoded unless the caller says otherwise: 134 megapixels, 1.6 GB as float32."""
QUALITY = 95
"""Of lossy formats, where none is asked for."""

_MAX_BYTES_PER_PIXEL = 32  # several times what four channels of 16 bits take
_HEAD = 2**16
_limit_lock = threading.Lock()
logger = logging.getLogger('vmambair_arch')


@dataclass(frozen=True)
class Facts:
    """What a header says.

    Attributes:
        format: Pillow's name.
        width, height: pixels, upright.
        alpha: whether there is transparency.
        frames: 1 for a still picture.
        lossy: it was stored with losses.
    """

    format: str
    width: int
    height: int
    alpha: bool
    frames: int
    lossy: bool


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file.

    Args:
        path: any format of `formats.KINDS`, or a GIF of one frame, whatever its name says.
        max_pixels: a file that declares more is refused before anything is decoded.

    Raises:
        UserError: missing, empty, truncated, no image, animated, too large, of a colour space that is not supported.
    """
    return decode_image(read_bytes(path, max_pixels=max_pixels), name=str(path), max_pixels=max_pixels)


def read_bytes(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of a file that may be an image of at most `max_pixels`.

    Raises:
        UserError: missing, no regular file, larger than any such image.
    """
    path = Path(path)
    check_regular(path)
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES_PER_PIXEL * max_pixels:
            raise UserError(_too_large(str(path), f'{size} bytes', max_pixels))
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error


def inspect_image(path: str | Path, *, max_pixels: int | None = None) -> Facts:
    """What the header of an image file says; no pixel is decoded.

    Raises:
        UserError: missing, no image, or more pixels than `max_pixels`.
    """
    path = Path(path)
    check_regular(path)
    with opened(path, str(path), max_pixels) as source:
        width, height = source.size[::-1] if read_exif(source)[1] >= 5 else source.size
        kind, lossy = stored(source)
        return Facts(kind, width, height, source.has_transparency_data, _frames(source), lossy)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image file as `read_image` returns it, from its header.

    Raises:
        UserError: missing, or no image.
    """
    facts = inspect_image(path)
    return facts.width, facts.height


def check_regular(path: Path) -> None:
    """Refuse what cannot be read to an end: pipes and devices, which a symlink may lead to.

    Raises:
        UserError: missing, a folder, or no regular file.
    """
    try:
        if path.is_dir():
            raise UserError(f'{path}: is a folder, not an image')
        if not path.exists():
            raise UserError(f'{path}: no such file')
        if not path.is_file():
            raise UserError(f'{path}: is not a regular file')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error


def decode_image(data: bytes, *, name: str = 'image', max_pixels: int = MAX_PIXELS) -> Image:
    """`read_image` for the bytes of a file; `name` stands in its messages."""
    if fault := fault_of(data):
        raise UserError(f'{name}: is a damaged or truncated image ({fault})')
    with opened(data, name, max_pixels) as source:
        frames = _frames(source)
        if frames > 1:
            raise UserError(f'{name}: has {frames} frames or pages; extract those you want as single images first')
        if source.format in ('JPEG', 'MPO') and (fault := jpeg_fault(data)):
            raise UserError(f'{name}: is a damaged or truncated image ({fault})')
        deep = is_deep(source, data)
        warn_of_depth(data, name)
        beside = beside_pixels(source)
        orientation = beside['orientation']
        turned = source.format == 'TIFF' and ORIENTATION not in source.getexif()  # by Pillow, as it loads
        image = decode_deep(data, source, orientation, name) if deep and source.mode in ('RGB', 'RGBA', 'LA') else None
        if deep and source.mode == 'CMYK':
            logger.warning('%s: read with 8 of its 16 bits a channel: CMYK becomes RGB', name)
        image = from_pil(source) if image is None else image
        pending = 1 if turned else orientation
        return replace(
            image,
            rgb=turn(image.rgb, pending),
            alpha=None if image.alpha is None else turn(image.alpha, pending),
            **beside,
        )


def beside_pixels(source: PIL.Image.Image) -> dict[str, Any]:
    """What an image says beside its pixels and its profile, by the names of `Image`'s attributes; it is loaded."""
    if source.format == 'PNG':  # to look for its EXIF decodes it, and hides what is wrong with it
        source.load()
    exif, orientation = read_exif(source)
    kind, lossy = stored(source)
    source.load()
    return {
        'exif': exif,
        'orientation': orientation,
        'format': kind,
        'lossy': lossy,
        'dropped': not_carried(source),
        **read_notes(source),
    }


def write_image(path: str | Path, image: Image, *, quality: int | None = None) -> None:
    """Encode `image` in the format that the suffix of `path` names, whole or not at all.

    Args:
        path: one of `SUFFIXES`; missing folders are made.
        image: values are clipped to 0..1 and rounded to the nearest level.
        quality: 1 to 100 of JPEG, WebP, AVIF and HEIC, 4:4:4 but for WebP, which has 4:2:0 only; 100 is lossless for
            WebP. Default: 95, and lossless for a picture from a lossless WebP that becomes one again.

    Raises:
        UserError: unknown suffix, transparency in a JPEG or BMP, too large for the format or the memory, or the file
            cannot be written.
    """
    path = Path(path)
    format = format_of(path)
    image = fit_alpha(image, format, path)
    with encoding(path, format):
        data = encode_image(image, format, quality=quality, suffix=path.suffix)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def encoding(path: str | Path, format: str) -> Iterator[None]:
    """What goes wrong in the block, as a picture becomes bytes, is one UserError that names the file."""
    try:
        yield
    except (OSError, ValueError, MemoryError, struct.error) as error:
        if ran_out_of_memory(error):
            raise beyond_memory(path) from error
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{path}: cannot be written as {format} ({reason})') from error


def encode_image(image: Image, format: str, *, quality: int | None = None, suffix: str = '') -> bytes:
    """The bytes of a file of Pillow's format `format`; see `write_image`. A `.j2k` has no boxes round its stream."""
    image = as_held(fit_alpha(image, format), format)
    deep = image.bits == 16 and KINDS[format].deep
    pixels = turn_back(to_array(image, np.uint16 if deep else np.uint8), image.orientation)
    if deep and pixels.ndim == 3:  # Pillow has no mode for it
        if pixels.shape[2] == 2:  # which hardly any program reads with 16 bits
            pixels = pixels[..., [0, 0, 0, 1]]
        if format == 'PNG':
            return encode_png16(pixels, image)
    if format == 'TIFF':
        return encode_tiff(pixels, image)
    if format in ('AVIF', 'HEIF') and (pixels.ndim == 2 or pixels.shape[2] == 2):
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        pixels = pixels[..., [0, 0, 0, *range(1, pixels.shape[2])]]
    more = {'no_jp2': True} if suffix.lower() == '.j2k' else {}
    return save_with_notes(image, format, quality, lambda **options: _save(pixels, format, **options, **more))


def save_with_notes(image: Image, format: str, quality: int | None, save: Callable[..., bytes]) -> bytes:
    """What `save` makes of Pillow's options for an image as it is held: quality, profile, EXIF and the rest."""
    options = _options(image, format, quality)
    exif = exif_to_write(image)
    if exif:
        try:
            return save(exif=exif, **options)
        except Exception as error:  # a block that can be parsed can still hold what cannot be written
            if ran_out_of_memory(error):
                raise
            logger.warning('EXIF left out but for the orientation: it cannot be written as %s (%s)', format, error)
            exif = exif_to_write(replace(image, exif=None))
    if exif:
        options['exif'] = exif
    return save(**options)


def lost_in(image: Image, format: str) -> list[str]:
    """What of an image a format does not hold, in words."""
    held = as_held(image, format)
    words = {'icc': 'the colour profile', 'exif': 'EXIF', 'xmp': 'XMP', 'dpi': 'the resolution (dpi)', 'text': 'texts'}
    lost = [word for key, word in words.items() if getattr(image, key) and not getattr(held, key)]
    return lost + (['8 of 16 bits a channel'] if image.bits == 16 and image.format and not HELD[format].deep else [])


def as_held(image: Image, format: str) -> Image:
    """The image with what the format can hold of it; upright where there is no place to say how it lies."""
    keeps = HELD[format].keeps
    held: dict[str, Any] = {key: None for key in ('icc', 'exif', 'xmp', 'dpi') if key not in keeps}
    if 'text' not in keeps:
        held['text'] = ()
    if 'exif' not in keeps:
        held['orientation'] = 1
    if format == 'JPEG':
        held |= {key: None for key in ('exif', 'xmp') if len(getattr(image, key) or b'') > JPEG_HOLDS}
    coloured = format in ('WEBP', 'AVIF', 'HEIF') or image.bits == 16 and image.alpha is not None
    if image.grey and coloured and (image.icc or b'')[16:20] == b'GRAY':  # written as RGB, which it is not for
        held['icc'] = None
    return replace(image, **held)


def _options(image: Image, format: str, quality: int | None) -> dict[str, Any]:
    again = quality is None and image.format == 'WEBP' and not image.lossy
    asked = QUALITY if quality is None else quality
    known: dict[str, dict[str, Any]] = {
        'JPEG': {'quality': asked, 'subsampling': 0},
        'WEBP': {'quality': asked, 'lossless': asked == 100 or again, 'exact': True},
        'AVIF': {'quality': asked, 'subsampling': '4:4:4'},
        'HEIF': {'quality': asked, 'chroma': 444},
    }
    options = known.get(format, {})
    if image.icc:
        options['icc_profile'] = image.icc
    if image.dpi:
        options['dpi'] = image.dpi
    if format == 'PNG':
        options['pnginfo'] = chunks = PngImagePlugin.PngInfo()
        for keyword, text in png_texts(image):
            chunks.add_itxt(keyword, text)
    elif image.xmp:
        options['xmp'] = image.xmp
    return options


def stored(source: PIL.Image.Image) -> tuple[str, bool]:
    """Pillow's name of the format, the usual one, and whether pixels were stored with losses."""
    kind = {'MPO': 'JPEG'}.get(source.format or '', source.format or '')
    if kind == 'WEBP':
        return kind, b'VP8L' not in _head(source)
    return kind, KINDS[kind].lossy if kind in KINDS else False


def _head(source: PIL.Image.Image) -> bytes:
    """The start of a WebP: its first picture chunk, behind a colour profile."""
    file = getattr(source, 'fp', None)
    if file is None:
        return b''
    at = file.tell()
    file.seek(0)
    head = b''
    file.seek(12)
    while len(chunk := file.read(8)) == 8:
        head += chunk[:4]
        if chunk[:4] in (b'VP8L', b'VP8 ', b'ANMF'):
            head += file.read(24)[16:20] if chunk[:4] == b'ANMF' else b''
            break
        length = struct.unpack('<I', chunk[4:])[0]
        file.seek(length + length % 2, 1)
    file.seek(at)
    return head


def _frames(source: PIL.Image.Image) -> int:
    """The second picture of a phone's JPEG or HEIC is the same in another form."""
    return 1 if source.format in ('MPO', 'HEIF') else getattr(source, 'n_frames', 1)


@contextmanager
def opened(data: bytes | Path, name: str, max_pixels: int | None) -> Iterator[PIL.Image.Image]:
    """An image whose header has been read and is within the limit; what goes wrong in the block is one UserError."""
    if isinstance(data, bytes) and not data:
        raise UserError(f'{name}: is empty (0 bytes)')
    try:
        head = data[:_HEAD] if isinstance(data, bytes) else _first_bytes(data)
        if not head:
            raise UserError(f'{name}: is empty (0 bytes)')
        if looks_like_heif(head) and not open_heif():
            raise UserError(f'{name}: {what_it_is(head)}')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # damaged EXIF and the like: what matters is raised
            with _no_pillow_limit():
                source = PIL.Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=decoders())
            with source:
                if max_pixels is not None and source.width * source.height > max_pixels:
                    raise UserError(_too_large(name, f'{source.width}x{source.height} pixels', max_pixels))
                yield source
    except UserError as error:
        message = str(error)
        raise (error if message.startswith(f'{name}: ') else UserError(f'{name}: {message}')) from error.__cause__
    except PIL.UnidentifiedImageError as error:
        raise UserError(f'{name}: {what_it_is(head)}') from error
    except PIL.Image.DecompressionBombError as error:
        raise UserError(_too_large(name, str(error), max_pixels or 0)) from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(f'{name}: cannot be read ({error.strerror})') from error
        if ran_out_of_memory(error):
            raise beyond_memory(name) from error
        raise UserError(f'{name}: is a damaged or truncated image ({error or type(error).__name__})') from error


def _first_bytes(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(_HEAD)


def _save(pixels: np.ndarray, format: str, **options: Any) -> bytes:
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
