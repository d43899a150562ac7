"""Decoded pictures: RGB float32 0..1, to and from arrays and Pillow images."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import DTypeLike
from PIL import ImageCms
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from ..errors import UserError

ROUNDING = 1e-3
"""How far floating-point values may be outside of 0..1, as arithmetic leaves them; they are clipped in the end."""

_WHITE_IS_ZERO = 0
_BAND = 2**15  # pixels that are converted at one time
_MEMORY = ('out of memory', 'insufficient memory')


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
        xmp: the XMP packet.
        dpi: resolution across and down, in pixels an inch.
        text: PNG's pairs of keyword and text.
        format: Pillow's name of the format that it was read from.
        lossy: it was stored with losses there.
        dropped: what else that file said, which nothing here has a place for, in words.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    orientation: int = 1
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    format: str | None = None
    lossy: bool = False
    dropped: tuple[str, ...] = ()


def packed(pixels: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray:
    """The array, or a copy of it, in C order with strides that torch takes: none is negative.

    NumPy calls a mirrored side of one pixel contiguous and leaves its stride as it is, which torch refuses.

    Args:
        pixels: of any shape.
        dtype: default: its own.
    """
    pixels = np.ascontiguousarray(pixels, dtype)
    return pixels.copy() if min(pixels.strides, default=0) < 0 else pixels


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, Pillow, OpenCV or libjpeg say that memory ran out, which is no fault of a file."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _MEMORY)


def beyond_memory(name: object, device: str = 'cpu') -> UserError:
    """The error of a picture that there is not the memory for."""
    there = 'here; free some,' if device == 'cpu' else f'on {device}; free some, use --device cpu,'
    return UserError(f'{name}: is too large for the memory that is free {there} or cut it into parts')


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
        key = source.info.get('transparency')
        alpha = (values != key).astype(np.float32) if isinstance(key, int) else None
        white = 65535
        if isinstance(source, TiffImageFile):
            bits = max(source.tag_v2.get(BITSPERSAMPLE, (16,)))
            white = 2**bits - 1 if bits < 16 else white  # 12 bits come as they are
            if source.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
                values = white - values  # Pillow does so for 8 bits
        whole = values.astype(np.uint16) if white == 65535 else (values / white).astype(np.float32)
        return replace(from_array(whole), icc=icc, alpha=alpha)
    if mode in ('F', 'LAB', 'HSV'):
        what = 'pictures of floating-point values' if mode == 'F' else f'{mode} images'
        raise UserError(f'{what} are not supported; convert it to RGB with 8 or 16 bits a channel')
    if mode == 'CMYK':
        source, icc = _cmyk_to_rgb(source, icc), None
        mode = 'RGB'
    grey = mode in ('1', 'L', 'LA', 'La')
    transparent = source.has_transparency_data
    mode = ('LA' if transparent else 'L') if grey else ('RGBA' if transparent else 'RGB')
    return replace(from_array(np.asarray(source.convert(mode))), icc=icc)


def upright(source: PIL.Image.Image) -> PIL.Image.Image:
    """A Pillow image turned as its EXIF says, as reading its file would; what cannot be parsed turns nothing."""
    try:
        return PIL.ImageOps.exif_transpose(source)
    except MemoryError:
        raise
    except Exception:  # anything can come out of a damaged block, and the picture is worth more
        return source


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
        UserError: another shape or type, no pixels, or values that are not in 0..1.
    """
    array = np.asarray(array)  # without the ways of a matrix or a masked array
    channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
    if channels not in (1, 2, 3, 4) or array.size == 0:
        raise UserError(f'an image must be (h, w) or (h, w, 1 to 4) with pixels in it, got {array.shape}')
    if array.dtype.type in (np.uint8, np.uint16):  # in either order of bytes
        values = array.astype(np.float32)
        values /= np.iinfo(array.dtype).max
    elif np.issubdtype(array.dtype, np.floating):
        values = array.astype(np.float32)
        _check_range(values)
    else:
        raise UserError(f'an image must be uint8, uint16 or floating point in 0..1, got {array.dtype}')
    values = values.reshape(*array.shape[:2], channels)
    grey = channels < 3
    return Image(
        rgb=np.repeat(values[..., :1], 3, axis=2) if grey else packed(values[..., :3]),
        alpha=packed(values[..., -1]) if channels in (2, 4) else None,
        grey=grey,
        bits=8 if array.dtype.type == np.uint8 else 16,
    )


def _check_range(values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError('an image must have finite values, got nan or infinity')
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = '; divide it by 255, or give it as uint8' if low >= -ROUNDING and 2 < high <= 255 else ''
        raise UserError(f'floating-point images must be in 0..1, got values from {low:g} to {high:g}{hint}')


def to_array(image: Image, dtype: DTypeLike = np.float32) -> np.ndarray:
    """(h, w) for grey, else (h, w, c) with c = 2 grey and alpha, 3 RGB, 4 RGB and alpha; upright.

    Values are clipped to 0..1, and for an integer `dtype` rounded to its levels.
    """
    height, width = image.rgb.shape[:2]
    result = np.empty((height, width, (1 if image.grey else 3) + (image.alpha is not None)), dtype)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):  # which are in the cache from the first step to the last
        band = slice(top, top + rows)
        values = image.rgb[band].mean(axis=2, keepdims=True) if image.grey else image.rgb[band]
        if image.alpha is not None:
            values = np.concatenate([values, image.alpha[band, :, None]], axis=2)
        values = np.clip(values, 0, 1)
        if np.issubdtype(dtype, np.integer):
            values = np.rint(values * np.iinfo(dtype).max)
        result[band] = values
    return result[..., 0] if result.shape[2] == 1 else result


def _cmyk_to_rgb(source: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    if icc:
        try:
            converted = ImageCms.profileToProfile(
                source, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile('sRGB'), outputMode='RGB'
            )
            assert converted is not None  # only in place it returns nothing
            return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile that is damaged or not for CMYK says nothing
    return source.convert('RGB')
