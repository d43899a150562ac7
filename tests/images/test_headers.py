"""Headers of images: what they say, and what is wrong with a file, without decoding it."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vmambair_arch.images import headers as images
from vmambair_arch.images.headers import Header, read_header, read_headers

PICTURE = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ('name', 'mode', 'channels'),
    [
        ('a.png', 'RGB', 3), ('a.png', 'L', 1), ('a.png', 'RGBA', 4), ('a.png', 'LA', 2), ('a.png', 'P', 3),
        ('a.png', '1', 1),
        ('a.jpg', 'RGB', 3), ('a.jpg', 'L', 1), ('a.webp', 'RGB', 3), ('a.webp', 'RGBA', 4),
        ('a.bmp', 'RGB', 3), ('a.tif', 'RGB', 3), ('a.tif', 'L', 1),
    ],
)  # fmt: skip
def test_what_headers_say(tmp_path, name, mode, channels):
    picture = Image.fromarray(PICTURE).convert(mode)
    if mode == 'RGBA':
        picture.putalpha(128)  # WebP stores no alpha that is opaque everywhere
    picture.save(tmp_path / name)
    assert read_header(tmp_path / name) == Header(47, 31, channels, 8)


@pytest.mark.parametrize('shape', [(31, 47, 3), (31, 47)])
def test_sixteen_bits(tmp_path, shape):
    cv2.imwrite(str(tmp_path / 'a.png'), np.ones(shape, np.uint16))
    assert read_header(tmp_path / 'a.png') == Header(47, 31, 3 if len(shape) == 3 else 1, 16)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'bmp'])
@pytest.mark.parametrize('left', [0.02, 0.5, 0.98])
def test_files_that_are_cut_off(tmp_path, suffix, left):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(PICTURE).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    assert read_header(path).fault


def test_a_jpeg_with_much_behind_its_end_is_whole(tmp_path):
    """Cameras and phones append their own data."""
    path = tmp_path / 'a.jpg'
    Image.fromarray(PICTURE).save(path)
    path.write_bytes(path.read_bytes() + bytes(200_000))
    assert not read_header(path).fault


def test_a_suffix_that_lies_is_no_fault(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').rename(tmp_path / 'a.png')
    assert read_header(tmp_path / 'a.png') == Header(47, 31, 3, 8)


@pytest.mark.parametrize(
    ('content', 'fault'), [(b'', 'empty'), (b'hello', 'is no PNG, JPEG'), (b'\x89PNG\r\n\x1a\n', 'damaged')]
)
def test_what_is_no_image(tmp_path, content, fault):
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    assert fault in read_header(path).fault


def test_a_missing_file(tmp_path):
    assert 'No such file' in read_header(tmp_path / 'a.png').fault


def test_files_are_opened_once_until_they_change(tmp_path, monkeypatch):
    opened: list[Path] = []
    monkeypatch.setattr(images, 'read_header', lambda path: opened.append(path) or read_header(path))
    paths = [tmp_path / 'a.png', tmp_path / 'b.png']
    for path in paths:
        Image.fromarray(PICTURE).save(path)
    cache = tmp_path / 'cache'
    first = list(read_headers(paths, cache))
    assert len(opened) == 2
    assert list(read_headers(paths, cache)) == first
    assert len(opened) == 2
    Image.fromarray(PICTURE[:9]).save(paths[1])
    os.utime(paths[1], ns=(1, 1))
    assert list(read_headers(paths, cache)) == [first[0], Header(47, 9, 3, 8)]
    assert opened[2:] == [paths[1]]


def test_the_cache_is_where_the_user_wants_it(tmp_path, monkeypatch):
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path / 'cache'))
    Image.fromarray(PICTURE).save(tmp_path / 'a.png')
    list(read_headers([tmp_path / 'a.png']))
    assert len(list((tmp_path / 'cache/headers').iterdir())) == 1


def test_a_fault_is_looked_at_again(tmp_path):
    path, cache = tmp_path / 'a.png', tmp_path / 'cache'
    path.write_bytes(b'')
    assert next(read_headers([path], cache)).fault
    status = path.stat()
    Image.fromarray(PICTURE).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not list(read_headers([path], cache))[0].fault


@pytest.mark.parametrize('content', ['', '{', '[]', 'null'])
def test_a_damaged_cache_is_none(tmp_path, content):
    path, cache = tmp_path / 'a.png', tmp_path / 'cache'
    Image.fromarray(PICTURE).save(path)
    list(read_headers([path], cache))
    (file,) = cache.iterdir()
    file.write_text(content)
    assert list(read_headers([path], cache)) == [Header(47, 31, 3, 8)]


def test_a_cache_that_cannot_be_written_is_none(tmp_path):
    path, cache = tmp_path / 'a.png', tmp_path / 'cache'
    Image.fromarray(PICTURE).save(path)
    cache.write_text('a file, no folder')
    assert list(read_headers([path], cache)) == [Header(47, 31, 3, 8)]
