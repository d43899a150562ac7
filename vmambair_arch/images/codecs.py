"""What Pillow leaves to us: several channels of 16 bits, in PNG and TIFF, and EXIF in a TIFF that is compressed."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import PIL.Image
from PIL import TiffImagePlugin

from .metadata import DIRECTORIES, EXIF_START, ORIENTATION, TIFF_EXIF, XMP_KEYWORD, exif_to_write, turn
from .pixels import Image, from_array, ran_out_of_memory

_PNG = b'\x89PNG\r\n\x1a\n'
_ICC, _XMP = 34675, 700
logger = logging.getLogger('vmambair_arch')


def is_deep(source: PIL.Image.Image, data: bytes) -> bool:
    """Whether the file has 16 bits a channel, whatever Pillow makes of it."""
    if source.format == 'PNG':
        return data[24] == 16
    return isinstance(source, TiffImagePlugin.TiffImageFile) and (
        set(source.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())) == {16}
    )


def decode_deep(data: bytes, source: PIL.Image.Image, orientation: int, name: str) -> Image | None:
    """The image with all 16 bits, which Pillow cuts to 8 where there is more than one channel and OpenCV keeps.

    None for a variant of the format that OpenCV does not know. Two decoders must agree on the upper 8 bits; that rules
    out any doubt about channel order or orientation.
    """
    plain = _plain_png(data) if source.format == 'PNG' else data
    deep: np.ndarray | None = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    shallow = np.asarray(source)
    if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3:
        deep = cv2.cvtColor(deep, cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        if shallow.shape[-1] == 2:  # OpenCV has no grey with alpha
            deep = deep[..., [0, -1]]
        pixels: np.ndarray
        for pixels in (deep, turn(deep, orientation)):
            if pixels.shape == shallow.shape and np.array_equal(np.right_shift(pixels, 8), shallow):
                image = from_array(pixels)
                key = source.info.get('transparency')
                alpha = _opaque(pixels, key) if pixels.shape[2] == 3 and isinstance(key, tuple) else image.alpha
                return replace(image, icc=source.info.get('icc_profile'), alpha=alpha)
    if deep is None and source.format == 'PNG':  # of which OpenCV knows every variant
        raise OSError('its data cannot be decoded')
    logger.warning('%s: read with 8 of its 16 bits a channel; this variant of the format is not known', name)
    return None


def _opaque(pixels: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Alpha of RGB in which one colour is transparent (PNG, tRNS)."""
    alpha: np.ndarray = (pixels != np.array(key)).any(2).astype(np.float32)
    return alpha


def warn_of_depth(data: bytes, name: str) -> None:
    """Say that Pillow reads a JPEG 2000 or AVIF of more than 8 bits a channel with 8."""
    bits = 8
    head = data[:4096]
    if (at := head.find(b'\xff\x4f\xff\x51')) >= 0 and len(head) > at + 42:  # SOC, SIZ: ISO/IEC 15444-1, A.5.1
        bits = (head[at + 42] & 0x7F) + 1
        channels = struct.unpack('>H', head[at + 40 : at + 42])[0]
        bits = 8 if channels == 1 else bits  # grey keeps them
    elif data[4:8] == b'ftyp' and (at := head.find(b'av1C')) >= 0 and len(head) > at + 6:
        bits = 10 if head[at + 6] & 0x40 else 8  # high_bitdepth
    if bits > 8:
        logger.warning('%s: read with 8 of its %d or more bits a channel', name, bits)


def _plain_png(data: bytes) -> bytes:
    """The header and the pixels alone: OpenCV makes room for what any chunk claims to hold, Pillow does not."""
    chunks: list[bytes] = []
    at = len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from('>I', data, at)
        kind, following = data[at + 4 : at + 8], at + 12 + length
        if following <= len(data) and kind == (b'IDAT' if chunks else b'IHDR'):
            chunks.append(data[at:following])
        at = following
    return _PNG + b''.join(chunks) + _png_chunk(b'IEND', b'')


def encode_png16(pixels: np.ndarray, image: Image) -> bytes:
    """16 bits and several channels: OpenCV writes the pixels, profile and EXIF go in as chunks behind the header."""
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    try:
        png = cv2.imencode('.png', cv2.cvtColor(pixels, order))[1].tobytes()
    except cv2.error as error:  # neither a ValueError nor a MemoryError, whatever it means
        raise (MemoryError if ran_out_of_memory(error) else ValueError)(str(error)) from error
    chunks = b''
    if image.icc:
        chunks += _png_chunk(b'iCCP', b'ICC profile\0\0' + zlib.compress(image.icc))
    if image.dpi:
        metres = (round(value / 0.0254) for value in image.dpi)
        chunks += _png_chunk(b'pHYs', struct.pack('>IIB', *metres, 1))
    if exif := exif_to_write(image):
        chunks += _png_chunk(b'eXIf', exif.removeprefix(EXIF_START))
    for keyword, text in png_texts(image):
        chunks += _png_chunk(b'iTXt', keyword.encode('latin-1', 'replace') + b'\0\0\0\0\0' + text.encode())
    header = len(_PNG) + 25  # and IHDR
    return png[:header] + chunks + png[header:]


def encode_tiff(pixels: np.ndarray, image: Image) -> bytes:
    """(h, w) or (h, w, c) of 8 or 16 bits: a directory that Pillow writes and one deflated strip (TIFF 6.0, part 1)."""
    strip = zlib.compress(pixels.astype(pixels.dtype.newbyteorder('<')).tobytes())
    try:
        return _directory(pixels, image, len(strip), exif_to_write(image)) + strip
    except Exception as error:  # a block that can be parsed can still hold what cannot be written
        if ran_out_of_memory(error):
            raise
        logger.warning('EXIF left out but for the orientation: it cannot be written as TIFF (%s)', error)
        return _directory(pixels, image, len(strip), None) + strip


def _directory(pixels: np.ndarray, image: Image, strip: int, exif: bytes | None) -> bytes:
    """All of a TIFF but its strip of so many bytes."""
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if exif:
        block = PIL.Image.Exif()
        block.load(exif)
        for tag in set(block) & set(TIFF_EXIF):
            directory[tag] = block.get_ifd(tag) if tag in DIRECTORIES else block[tag]
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (8 * pixels.itemsize,) * channels
    directory[TiffImagePlugin.COMPRESSION] = 8  # deflate
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2 if channels > 2 else 1  # RGB, or black is zero
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = strip
    directory[ORIENTATION] = image.orientation
    if channels in (2, 4):
        directory[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha, not premultiplied
    if image.icc:
        directory[_ICC] = image.icc
    if image.xmp:
        directory[_XMP] = image.xmp
        directory.tagtype[_XMP] = 1  # bytes
    if image.dpi:
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = image.dpi
        directory[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inches
    directory[TiffImagePlugin.STRIPOFFSETS] = 0  # behind the directory, which Pillow adds
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue()


def png_texts(image: Image) -> list[tuple[str, str]]:
    """Keyword and text of every text chunk, the XMP packet among them."""
    packet = [(XMP_KEYWORD, image.xmp.decode('utf-8', 'replace'))] if image.xmp else []
    return packet + list(image.text)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
