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
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms, TiffImagePlugin

from ..errors import UserError
from ..files import replacing

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
_PNG = b'\x89PNG\r\n\x1a\n'
_ORIENTATION, _ICC = 0x0112, 34675
_EXIF = b'Exif\0\0'
_MAX_EXIF = 65_000  # what one JPEG segment holds
# description, maker, model, orientation, resolution, software, date, artist, copyright, the Exif and GPS directories
_TIFF_EXIF = (270, 271, 272, _ORIENTATION, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)
_MAX_BYTES_PER_PIXEL = 32  # several times what four channels of 16 bits take
_limit_lock = threading.Lock()
logger = logging.getLogger('vmambair_arch')


@dataclass(frozen=True)
class Image:
    """A decoded picture and what must not get lost on the way back into a file.

    Attributes:
        rgb: (h, w, 3) float32 in 0..1, upright.
        alpha: (h, w) float32 in 0..1, upright; None where there is none.
        grey: written back with one channel.
        bits: 8 or 16 a channel.
        icc: the embedded ICC profile.
        exif: the EXIF block as it was, orientation tag included.
        orientation: that tag, 1 to 8; 1 is upright.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    orientation: int = 1


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
            sideways = _exif(source)[1] >= 5
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
    pixels = _turn_back(to_array(image, np.uint16 if deep else np.uint8), image.orientation)
    if deep and pixels.ndim == 3:  # Pillow has no mode for it
        if pixels.shape[2] == 2:  # which hardly any program reads with 16 bits
            pixels = pixels[..., [0, 0, 0, 1]]
        encode = _encode_png16 if format == 'PNG' else _encode_tiff16
        return encode(pixels, image)
    options: dict[str, object] = {
        'JPEG': {'quality': quality, 'subsampling': 0},
        'WEBP': {'quality': quality, 'lossless': quality == 100, 'exact': True},
        'TIFF': {'compression': 'tiff_adobe_deflate'},
    }.get(format, {})
    if image.icc:
        options['icc_profile'] = image.icc
    if exif := _exif_to_write(image):
        try:
            return _save(pixels, format, exif=exif, **options)
        except Exception as error:  # a block that can be parsed can still hold what cannot be written
            logger.warning('EXIF left out but for the orientation: it cannot be written as %s (%s)', format, error)
            if exif := _exif_to_write(replace(image, exif=None)):
                options['exif'] = exif
    return _save(pixels, format, **options)


def from_pil(source: PIL.Image.Image) -> Image:
    """A Pillow image of any mode but LAB, HSV and F, as it lies (an orientation tag is not applied).

    Raises:
        UserError: a mode that has no meaning as a picture here.
    """
    icc = source.info.get('icc_profile')
    mode = source.mode
    if mode.startswith('I'):
        values = np.asarray(source).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise UserError('32-bit integer images are not supported; convert it to 16 or 8 bits a channel')
        return replace(from_array(values.astype(np.uint16)), icc=icc)
    if mode in ('F', 'LAB', 'HSV'):
        raise UserError(f'{mode} images are not supported; convert it to RGB with 8 or 16 bits a channel')
    if mode == 'CMYK':
        source, icc = _cmyk_to_rgb(source, icc), None
        mode = 'RGB'
    grey = mode in ('1', 'L', 'LA', 'La')
    transparent = source.has_transparency_data
    mode = ('LA' if transparent else 'L') if grey else ('RGBA' if transparent else 'RGB')
    return replace(from_array(np.asarray(source.convert(mode))), icc=icc)


def to_pil(image: Image) -> PIL.Image.Image:
    """The upright Pillow image of mode L, LA, RGB or RGBA with 8 bits a channel, or I;16 for 16-bit grey."""
    deep = image.bits == 16 and image.grey and image.alpha is None
    result = PIL.Image.fromarray(to_array(image, np.uint16 if deep else np.uint8))
    if image.icc:
        result.info['icc_profile'] = image.icc
    return result


def from_array(array: np.ndarray) -> Image:
    """An array as an image.

    Args:
        array: (h, w), or (h, w, c) with c = 1 grey, 2 grey and alpha, 3 RGB (not OpenCV's BGR), 4 RGB and alpha;
            uint8, uint16 or floating point in 0..1.

    Raises:
        UserError: another shape or type, or no pixels.
    """
    channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
    if channels not in (1, 2, 3, 4) or array.size == 0:
        raise UserError(f'an image must be (h, w) or (h, w, 1 to 4) with pixels in it, got {array.shape}')
    if array.dtype in (np.uint8, np.uint16):
        values = array.astype(np.float32) / np.iinfo(array.dtype).max
    elif np.issubdtype(array.dtype, np.floating):
        values = array.astype(np.float32)
    else:
        raise UserError(f'an image must be uint8, uint16 or floating point in 0..1, got {array.dtype}')
    values = values.reshape(*array.shape[:2], channels)
    grey = channels < 3
    return Image(
        rgb=np.repeat(values[..., :1], 3, axis=2) if grey else np.ascontiguousarray(values[..., :3]),
        alpha=np.ascontiguousarray(values[..., -1]) if channels in (2, 4) else None,
        grey=grey,
        bits=8 if array.dtype == np.uint8 else 16,
    )


def to_array(image: Image, dtype: type = np.float32) -> np.ndarray:
    """(h, w) for grey, else (h, w, c) with c = 2 grey and alpha, 3 RGB, 4 RGB and alpha; upright.

    Values are clipped to 0..1, and for an integer `dtype` rounded to its levels.
    """
    values = image.rgb.mean(axis=2, keepdims=True) if image.grey else image.rgb
    if image.alpha is not None:
        values = np.concatenate([values, image.alpha[..., None]], axis=2)
    values = np.clip(values, 0, 1)
    if np.issubdtype(dtype, np.integer):
        values = np.rint(values * np.iinfo(dtype).max)
    values = values.astype(dtype)
    return values[..., 0] if values.shape[2] == 1 else values


# decoding


def _decode(data: bytes, name: str, max_pixels: int) -> Image:
    with _no_pillow_limit():
        source = PIL.Image.open(io.BytesIO(data), formats=_DECODERS)
    with source:
        if source.width * source.height > max_pixels:
            raise UserError(_too_large(name, f'{source.width}x{source.height} pixels', max_pixels))
        frames = getattr(source, 'n_frames', 1)
        if frames > 1 and source.format != 'MPO':
            raise UserError(f'{name}: has {frames} frames or pages; extract those you want as single images first')
        deep = _is_deep(source, data)
        exif, orientation = _exif(source)
        source.load()
        turned = source.format == 'TIFF' and _ORIENTATION not in source.getexif()  # by Pillow, as it loads
        image = _decode16(data, source, orientation, name) if deep and source.mode in ('RGB', 'RGBA', 'LA') else None
        if image is None:
            try:
                image = from_pil(source)
            except UserError as error:
                raise UserError(f'{name}: {error}') from error
    pending = 1 if turned else orientation
    alpha = None if image.alpha is None else _turn(image.alpha, pending)
    return replace(image, rgb=_turn(image.rgb, pending), alpha=alpha, exif=exif, orientation=orientation)


def _is_deep(source: PIL.Image.Image, data: bytes) -> bool:
    """Whether the file has 16 bits a channel, whatever Pillow makes of it."""
    if source.format == 'PNG':
        return data[24] == 16
    return source.format == 'TIFF' and set(source.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())) == {16}


def _decode16(data: bytes, source: PIL.Image.Image, orientation: int, name: str) -> Image | None:
    """The image with all 16 bits, which Pillow cuts to 8 where there is more than one channel and OpenCV keeps.

    None for a variant of the format that OpenCV does not know. Two decoders must agree on the upper 8 bits; that rules
    out any doubt about channel order or orientation.
    """
    plain = _plain_png(data) if source.format == 'PNG' else data
    deep = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    shallow = np.asarray(source)
    if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3:
        deep = cv2.cvtColor(deep, cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        if shallow.shape[-1] == 2:  # OpenCV has no grey with alpha
            deep = deep[..., [0, -1]]
        for pixels in (deep, _turn(deep, orientation)):
            if pixels.shape == shallow.shape and np.array_equal(pixels >> 8, shallow):
                return replace(from_array(pixels), icc=source.info.get('icc_profile'))
    if deep is None and source.format == 'PNG':  # of which OpenCV knows every variant
        raise OSError('its data cannot be decoded')
    logger.warning('%s: read with 8 of its 16 bits a channel; this variant of the format is not known', name)
    return None


def _plain_png(data: bytes) -> bytes:
    """The header and the pixels alone: OpenCV makes room for what any chunk claims to hold, Pillow does not."""
    chunks, at = [], len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from('>I', data, at)
        kind, following = data[at + 4 : at + 8], at + 12 + length
        if following <= len(data) and kind == (b'IDAT' if chunks else b'IHDR'):
            chunks.append(data[at:following])
        at = following
    return _PNG + b''.join(chunks) + _png_chunk(b'IEND', b'')


def _exif(source: PIL.Image.Image) -> tuple[bytes | None, int]:
    """The EXIF block, as JPEG has it, and its orientation; a block that cannot be parsed is dropped."""
    try:
        parsed = source.getexif()
        orientation = parsed.get(_ORIENTATION, 1)
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
    exif = _EXIF + exif.removeprefix(_EXIF)
    return exif if len(parsed) and len(exif) <= _MAX_EXIF else None, int(orientation)


def _save(pixels: np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def _exif_to_write(image: Image) -> bytes | None:
    if image.exif or image.orientation == 1:
        return image.exif
    exif = PIL.Image.Exif()
    exif[_ORIENTATION] = image.orientation
    return exif.tobytes()


def _cmyk_to_rgb(source: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    if icc:
        try:
            return ImageCms.profileToProfile(
                source, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile('sRGB'), outputMode='RGB'
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile that is damaged or not for CMYK says nothing
    return source.convert('RGB')


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (h, w, ...) turned upright by EXIF's orientation 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `_turn`; all but the two quarter turns are their own."""
    return _turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))


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


# encoding


def _encode_png16(pixels: np.ndarray, image: Image) -> bytes:
    """16 bits and several channels: OpenCV writes the pixels, profile and EXIF go in as chunks behind the header."""
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    png = cv2.imencode('.png', cv2.cvtColor(pixels, order))[1].tobytes()
    chunks = b''
    if image.icc:
        chunks += _png_chunk(b'iCCP', b'ICC profile\0\0' + zlib.compress(image.icc))
    if exif := _exif_to_write(image):
        chunks += _png_chunk(b'eXIf', exif.removeprefix(_EXIF))
    header = len(_PNG) + 25  # and IHDR
    return png[:header] + chunks + png[header:]


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def _encode_tiff16(pixels: np.ndarray, image: Image) -> bytes:
    """16 bits and several channels: a directory that Pillow writes and one deflated strip (TIFF 6.0, section 2)."""
    height, width, channels = pixels.shape
    strip = zlib.compress(pixels.astype('<u2').tobytes())
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (16,) * channels
    directory[TiffImagePlugin.COMPRESSION] = 8  # deflate
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2  # RGB
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = len(strip)
    directory[_ORIENTATION] = image.orientation
    if channels == 4:
        directory[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha, not premultiplied
    if image.icc:
        directory[_ICC] = image.icc
    directory[TiffImagePlugin.STRIPOFFSETS] = 0  # behind the directory, which Pillow adds
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + strip
