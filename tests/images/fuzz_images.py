"""Mutate image files and put them through the loader; anything but an image or a UserError is a failure.

    python -m tests.images.fuzz_images COUNT SEED

runs by itself, so that a crash of a decoder is seen, and prints what happened as JSON. Image n of a seed is always the
same: a failure names both.
"""

from __future__ import annotations

import faulthandler
import io
import json
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import FORMATS, decode_image, write_image

SECONDS = 20
"""Longer than this for one small file is a hang."""


def seeds() -> list[bytes]:
    """Valid files of every kind that is read."""
    y, x = np.mgrid[0:37, 0:45]
    rgb = np.stack([x * 5, y * 6, (x * y) % 256], 2).astype(np.uint8)
    picture = PIL.Image.fromarray(rgb)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, 'maker'
    meta = {'exif': exif.tobytes(), 'icc_profile': ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()}
    files = []

    def save(image: PIL.Image.Image, format: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files.append(buffer.getvalue())

    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        save(picture.convert(mode), 'PNG')
    for options in (meta, {'interlace': 1}):
        save(picture, 'PNG', **options)
    save(picture.quantize(9), 'PNG', transparency=2, bits=4)
    for mode in ('L', 'RGB', 'CMYK'):
        save(picture.convert(mode), 'JPEG', quality=80)
        save(picture.convert(mode), 'JPEG', progressive=True, **meta)
    save(picture, 'MPO', save_all=True, append_images=[picture])
    for mode in ('RGB', 'RGBA'):
        save(picture.convert(mode), 'WEBP', **meta)
        save(picture.convert(mode), 'WEBP', lossless=True)
    save(picture, 'WEBP', save_all=True, append_images=[picture.rotate(90)])
    for compression in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg'):
        save(picture, 'TIFF', compression=compression, **meta)
    for mode in ('1', 'L', 'CMYK', 'RGBA', 'F', 'LAB', 'I;16'):
        save(picture.convert('L').convert('I').convert(mode) if mode == 'I;16' else _convert(picture, mode), 'TIFF')
    save(picture, 'TIFF', save_all=True, append_images=[picture])
    for mode in ('1', 'L', 'P', 'RGB'):
        save(picture.convert(mode), 'BMP')
    for channels in (1, 3, 4):
        deep = np.dstack([rgb, rgb[..., :1]])[..., :channels].astype(np.uint16) * 257
        files += [cv2.imencode(suffix, deep)[1].tobytes() for suffix in ('.png', '.tif')]
    return files


def _convert(picture: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    return PIL.Image.new('LAB', picture.size, (50, 3, 4)) if mode == 'LAB' else picture.convert(mode)


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """`count` mutated files."""
    originals = seeds()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        data = bytearray(originals[rng.integers(len(originals))])
        for _ in range(rng.integers(1, 6)):
            _mutate(data, rng, originals)
        # Otherwise nearly every change of a PNG would end at a checksum and never reach a decoder.
        yield _mended_png(bytes(data)) if rng.random() < 0.8 else bytes(data)


def _mutate(data: bytearray, rng: np.random.Generator, originals: list[bytes]) -> None:
    # Headers and directories are where the interesting bytes are.
    size = max(1, len(data))
    at = int(rng.integers(min(size, 200)) if rng.random() < 0.5 else rng.integers(size))
    length = int(rng.integers(1, 40))
    kind = rng.integers(9)
    if kind == 0:
        data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))]) if data else b'\0'
    elif kind == 1:
        data[at : at + length] = rng.bytes(length)
    elif kind == 2:
        data[at : at + 4] = [b'\0\0\0\0', b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff', b'\0\0\xff\xff'][rng.integers(4)]
    elif kind == 3:
        data[at : at + 4] = struct.pack('<I' if rng.random() < 0.5 else '>I', int(rng.integers(2**17)))
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = rng.bytes(length)
    elif kind == 6:
        data[at:at] = data[at : at + length * 5]
    elif kind == 7:
        del data[at:]
    else:
        other = originals[rng.integers(len(originals))]
        start = int(rng.integers(len(other)))
        data[at : at + length] = other[start : start + length * 3]


def _mended_png(data: bytes) -> bytes:
    """The same PNG with right checksums; anything else as it is."""
    if not data.startswith(b'\x89PNG\r\n\x1a\n'):
        return data
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = struct.unpack_from('>I', data, at)[0]
        body = data[at + 4 : at + 8 + length]
        if len(body) < length + 4:
            break
        fixed += data[at : at + 4] + body + struct.pack('>I', zlib.crc32(body))
        at += 12 + length
    return bytes(fixed + data[at:])


def run(count: int, seed: int) -> dict[str, float]:
    """Read every file, and write again what could be read, in every format."""
    found = {'images': 0, 'read': 0, 'refused': 0, 'slowest': 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(mutations(seed, count)):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            start = time.monotonic()
            name = f'image {number} of seed {seed}'
            try:
                image = decode_image(data, name=name)
            except UserError as error:
                if not str(error).startswith(name) or '\n' in str(error):
                    raise RuntimeError(f'{name}: not one line that names the file') from error
                found['refused'] += 1
            else:
                assert image.rgb.dtype == np.float32, name
                assert image.rgb.size, name
                assert 0 <= image.rgb.min() <= image.rgb.max() <= 1, name
                if image.rgb.size < 10**6:
                    _write(image, Path(folder), name)
                found['read'] += 1
            found['images'] += 1
            found['slowest'] = max(found['slowest'], time.monotonic() - start)
            faulthandler.cancel_dump_traceback_later()
    return found


def _write(image: object, folder: Path, name: str) -> None:
    for suffix in FORMATS:
        try:
            write_image(folder / f'{name}{suffix}', image)
        except UserError as error:
            if 'cannot' not in str(error):
                raise RuntimeError(f'{name}: not a matter of the format') from error


if __name__ == '__main__':
    result = run(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(json.dumps(result) + '\n')
