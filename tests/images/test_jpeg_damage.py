"""Damage of JPEGs that libjpeg notices is an error at every door; what is no damage is none."""

from __future__ import annotations

import io

import cv2
import numpy as np
import PIL.Image
import pytest

from vmambair_arch.errors import UserError
from vmambair_arch.images.fast import decode_pixels, whole_pixels
from vmambair_arch.images.image_io import decode_image
from vmambair_arch.images.jpeg import jpeg_fault

FORMS = {
    'baseline': ('RGB', {'quality': 85}),
    'full colour': ('RGB', {'quality': 90, 'subsampling': 0}),
    'progressive': ('RGB', {'quality': 85, 'progressive': True}),
    'restarts': ('RGB', {'quality': 85, 'restart_marker_blocks': 4}),
    'optimised': ('RGB', {'quality': 85, 'optimize': True}),
    'grey': ('L', {'quality': 85}),
    'CMYK': ('CMYK', {'quality': 85}),
}


def picture(mode: str = 'RGB', **options: object) -> bytes:
    y, x = np.mgrid[0:75, 0:98]
    noise = np.random.default_rng(0).normal(0, 12, (75, 98, 3))
    rgb = np.clip(np.stack([x * 2, y * 3, (x * y) % 256], 2) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(rgb).convert(mode).save(buffer, 'JPEG', **options)
    return buffer.getvalue()


def opencv(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize('form', [form for form in FORMS if form not in ('grey', 'CMYK')])
def test_pixels_are_those_of_opencv(form):
    data = picture(*FORMS[form][:1], **FORMS[form][1])
    np.testing.assert_array_equal(decode_pixels(data, 'a.jpg'), opencv(data))
    np.testing.assert_array_equal(whole_pixels(data), opencv(data))


@pytest.mark.parametrize('form', FORMS)
def test_what_libjpeg_says_of_a_flipped_bit_is_an_error(form, capfd):
    """OpenCV's libjpeg writes its warnings to stderr, whatever becomes of the image."""
    mode, options = FORMS[form]
    good, rng, noticed = picture(mode, **options), np.random.default_rng(1), 0
    start = good.rindex(b'\xff\xda') + 14
    for _ in range(150):
        damaged = bytearray(good)
        damaged[rng.integers(start, len(good) - 2)] ^= 1 << int(rng.integers(8))
        cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR)
        warning = capfd.readouterr().err
        extraneous = [int(word) for word in warning.split() if word.isdigit()] if 'extraneous' in warning else []
        if 'Corrupt' in warning and 'resync' not in warning and not (extraneous and extraneous[0] <= 4):
            noticed += 1
            for door in (decode_pixels, decode_image):
                with pytest.raises(UserError, match=r'a\.jpg: is a damaged or truncated image'):
                    door(bytes(damaged), name='a.jpg')
    assert noticed >= 5
    capfd.readouterr()


WHOLE = {
    'two bytes before the end': lambda data: data[:-2] + b'\x12\x34' + data[-2:],
    'zeros before the end': lambda data: data[:-2] + bytes(50) + data[-2:],
    'fill before the end': lambda data: data[:-2] + b'\xff' * 50 + data[-2:],
    'bytes behind the end': lambda data: data + b'of the camera',
    'a second picture behind the end': lambda data: data + picture(quality=20),
    'an unknown revision of JFIF': lambda data: data.replace(b'JFIF\0\x01', b'JFIF\0\x07', 1),
    'a bad profile': lambda data: data[:2] + b'\xff\xe2\0\x10ICC_PROFILE\0\x05\x02' + data[2:],
}


@pytest.mark.parametrize('form', ['baseline', 'progressive'])
@pytest.mark.parametrize('kind', WHOLE)
def test_what_writers_leave_in_a_jpeg_is_no_damage(form, kind):
    good = picture(*FORMS[form][:1], **FORMS[form][1])
    odd = WHOLE[kind](good)
    assert odd != good
    np.testing.assert_array_equal(decode_pixels(odd, 'a.jpg'), opencv(good))
    assert jpeg_fault(odd) == ''


def test_a_frame_of_four_gigapixels_is_refused_before_it_is_decoded():
    data = bytearray(picture())
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = b'\xff\xdc\xff\xdc'
    with pytest.raises(UserError, match='too large'):
        decode_pixels(bytes(data), 'a.jpg')
    assert whole_pixels(bytes(data)) is None


def test_photographs_of_the_pipeline_come_through_the_same_door(tmp_path):
    from vmambair_arch.data.realesrgan_pipeline_dataset import RealESRGANPipelineDataset

    good = picture(quality=90)
    (tmp_path / 'a.jpg').write_bytes(good)
    dataset = RealESRGANPipelineDataset({'dataroot_gt': str(tmp_path), 'crop_pad_size': 32})
    np.testing.assert_array_equal(dataset.photographs.read(0), opencv(good))
    damaged = next(
        flipped
        for at in range(good.rindex(b'\xff\xda') + 14, len(good) - 2)
        if jpeg_fault(flipped := good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
    )
    (tmp_path / 'a.jpg').write_bytes(damaged)
    with pytest.raises(UserError, match=r'a\.jpg: is a damaged or truncated image \(Corrupt JPEG data'):
        dataset[0]
