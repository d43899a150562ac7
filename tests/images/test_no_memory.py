"""Memory that runs out is no fault of a file, and not of what stands beside its pixels."""

from __future__ import annotations

import cv2
import numpy as np
import PIL.Image
import pytest

from vmambair_arch.errors import UserError
from vmambair_arch.images import codecs, image_io, metadata, pixels
from vmambair_arch.images.frames import read_frames
from vmambair_arch.images.image_io import Image, decode_image, encode_image, inspect_image, read_image, write_image
from vmambair_arch.images.pixels import upright

RAN_OUT = {
    'Python': MemoryError(),
    'NumPy': np._core._exceptions._ArrayMemoryError((9, 9), np.dtype(float)),
    'Pillow': OSError('out of memory error when reading image file'),
    'OpenCV': cv2.error('OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes'),
    'libjpeg': ValueError('Insufficient memory (case 4)'),
}
OTHERS = {
    'OpenCV': cv2.error('OpenCV(5.0.0) error: (-215:Assertion failed) !_img.empty()'),
    'Pillow': OSError('encoder error -2 when writing image file'),
    'ours': ValueError('no'),
}
WAYS = {
    'read_image': lambda path: read_image(path),
    'decode_image': lambda path: decode_image(path.read_bytes(), name=str(path)),
    'read_frames': lambda path: list(read_frames(path)[0]),
}
PLACES = ('PIL.ImageFile.ImageFile.load', f'{image_io.__name__}.from_pil', f'{pixels.__name__}.from_array')


def fails(error):
    def fail(*_args, **_options):
        raise error

    return fail


def textured(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize('error', RAN_OUT.values(), ids=RAN_OUT)
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('suffix', ['.png', '.webp', '.tif', '.jpg', '.bmp'])
@pytest.mark.parametrize('place', PLACES)
def test_a_sound_file_is_not_called_damaged(tmp_path, monkeypatch, error, way, suffix, place):
    path = tmp_path / f'a{suffix}'
    write_image(path, Image(textured(20, 30, 3)))
    if way == 'read_frames' and place != PLACES[0]:
        pytest.skip('frames become floating point one by one, later')
    monkeypatch.setattr(place, fails(error))
    with pytest.raises(UserError, match=r'^\S*a\.\w+: is too large for the memory that is free here; free some'):
        WAYS[way](path)


@pytest.mark.parametrize('error', OTHERS.values(), ids=OTHERS)
def test_other_errors_of_a_decoder_are_damage_as_before(tmp_path, monkeypatch, error):
    write_image(tmp_path / 'a.png', Image(textured(20, 30, 3)))
    monkeypatch.setattr(f'{image_io.__name__}.from_pil', fails(error))
    with pytest.raises(UserError, match=r'a\.png: is a damaged or truncated image'):
        read_image(tmp_path / 'a.png')


@pytest.mark.parametrize('error', RAN_OUT.values(), ids=RAN_OUT)
def test_deep_pixels_too(tmp_path, monkeypatch, error):
    write_image(tmp_path / 'a.png', Image(textured(20, 30, 3), bits=16))
    monkeypatch.setattr(codecs.cv2, 'imdecode', fails(error))
    with pytest.raises(UserError, match='is too large for the memory'):
        read_image(tmp_path / 'a.png')


def test_what_is_beside_the_pixels_is_not_dropped_for_want_of_memory(monkeypatch):
    source = PIL.Image.new('RGB', (4, 4))
    monkeypatch.setattr(PIL.Image.Image, 'getexif', fails(MemoryError()))
    for read in (metadata.read_exif, upright):
        with pytest.raises(MemoryError):
            read(source)


@pytest.mark.parametrize('error', [RAN_OUT[name] for name in ('Python', 'NumPy', 'Pillow')])
@pytest.mark.parametrize(('suffix', 'place'), [('.jpg', f'{image_io.__name__}._save'), ('.tif', 'zlib.compress'),
                                               ('.tif', f'{codecs.__name__}._directory')])  # fmt: skip
def test_exif_is_not_left_out_for_want_of_memory(tmp_path, monkeypatch, caplog, error, suffix, place):
    monkeypatch.setattr(place, fails(error))
    with pytest.raises(UserError, match=r'is too large for the memory'):
        write_image(tmp_path / f'a{suffix}', Image(textured(8, 9, 3), orientation=6))
    assert not caplog.records
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('call', ['imencode', 'cvtColor'])
@pytest.mark.parametrize(
    ('error', 'kind', 'said'),
    [
        (RAN_OUT['OpenCV'], MemoryError, r'a\.png: is too large for the memory'),
        (OTHERS['OpenCV'], ValueError, r'a\.png: cannot be written as PNG \(.*Assertion failed'),
    ],
)
def test_what_opencv_raises_as_it_writes_is_one_line(tmp_path, monkeypatch, call, error, kind, said):
    image = Image(textured(8, 9, 3), bits=16)
    monkeypatch.setattr(codecs.cv2, call, fails(error))
    with pytest.raises(kind):
        encode_image(image, 'PNG')
    with pytest.raises(UserError, match=said):
        write_image(tmp_path / 'a.png', image)


def test_headers_need_no_pixels(tmp_path, monkeypatch):
    write_image(tmp_path / 'a.png', Image(textured(8, 9, 3)))
    monkeypatch.setattr('PIL.Image.open', fails(MemoryError()))
    with pytest.raises(UserError, match='is too large for the memory'):
        inspect_image(tmp_path / 'a.png')
