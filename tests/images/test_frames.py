"""Moving pictures: what a file says beside its frames is kept as for a still picture, or named."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from vmambair_arch.errors import UserError
from vmambair_arch.images import frames as frames_module
from vmambair_arch.images.formats import MOVING
from vmambair_arch.images.frames import Timing, read_frames, write_frames
from vmambair_arch.images.image_io import Image, decode_image, encode_image, lost_in
from vmambair_arch.images.metadata import turn

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def stills(count=3, mode='RGB'):
    """Few colours, which a GIF holds."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 2, (count, 20, 30, len(mode)), np.uint8) * 255
    levels[..., 0] //= np.arange(1, count + 1, dtype=np.uint8)[:, None, None]
    return [PIL.Image.fromarray(still) for still in levels]


def moving(path, mode='RGB', **options):
    first, *rest = stills(mode=mode)
    known = {'loop': 0, 'duration': [50, 70, 90], 'lossless': True, 'exact': True, 'disposal': 2}
    taken = {'.webp': ('loop', 'duration', 'lossless', 'exact'), '.gif': ('loop', 'duration', 'disposal')}
    for key in set(known) - set(taken.get(path.suffix, ('loop', 'duration'))):
        del known[key]
    first.save(path, save_all=True, append_images=rest, **known, **options)
    return path


def exif(orientation):
    block = PIL.Image.Exif()
    block[274], block[271] = orientation, 'maker'
    return block.tobytes()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('source', ['.png', '.webp'])
@pytest.mark.parametrize('target', MOVING)
@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_frames_are_seen_as_they_were_and_what_is_beside_them_is_kept_or_named(
    tmp_path, orientation, source, target, mode
):
    path = moving(tmp_path / f'a{source}', mode, icc_profile=PROFILE, exif=exif(orientation))
    frames, timing = read_frames(path)
    for frame, still in zip(frames, stills(mode=mode), strict=True):
        seen = turn(np.asarray(still), orientation)
        visible = slice(None) if frame.alpha is None else frame.alpha > 0
        np.testing.assert_array_equal(np.rint(frame.rgb[visible] * 255), seen[visible][..., :3])
    assert (frames[0].icc, frames[0].orientation) == (PROFILE, orientation)
    write_frames(tmp_path / f'b{target}', frames, timing, quality=100)
    again, timing_again = read_frames(tmp_path / f'b{target}')
    assert timing_again.milliseconds == [50, 70, 90]
    for frame, other in zip(frames, again, strict=True):
        visible = slice(None) if frame.alpha is None else frame.alpha > 0
        if target != '.gif' or mode == 'RGB':
            np.testing.assert_array_equal(other.rgb[visible], frame.rgb[visible])
        assert other.rgb.shape == frame.rgb.shape
    lost = lost_in(frames[0], MOVING[target])
    if target == '.gif':
        assert lost == ['the colour profile', 'EXIF']
        assert again[0].orientation == 1
    else:
        assert lost == []
        assert (again[0].icc, again[0].orientation) == (PROFILE, orientation)
        assert b'maker' in again[0].exif


@pytest.mark.parametrize('target', MOVING)
def test_xmp_resolution_and_texts(tmp_path, target):
    look = {'xmp': XMP, 'dpi': (72.0, 96.0), 'text': (('Title', 'rain'),)}
    write_frames(
        tmp_path / f'a{target}', [Image(np.full((9, 8, 3), n / 3, np.float32), **look) for n in range(3)],
        Timing([50] * 3, 0),
    )  # fmt: skip
    frame = read_frames(tmp_path / f'a{target}')[0][0]
    image = Image(frame.rgb, **look)
    names = {'xmp': 'XMP', 'dpi': 'the resolution (dpi)', 'text': 'texts'}
    assert {names[key] for key in look if not getattr(frame, key)} == set(lost_in(image, MOVING[target]))


@pytest.mark.parametrize('target', ['.png', '.webp'])
def test_exif_that_cannot_be_written_costs_the_rest_nothing(tmp_path, monkeypatch, target, caplog):
    real = PIL.Image.Image.save

    def save(self, *args, **options):
        if b'maker' in options.get('exif', b''):
            raise ValueError('no such tag')
        return real(self, *args, **options)

    path = moving(tmp_path / f'a{target}', exif=exif(6))
    monkeypatch.setattr(PIL.Image.Image, 'save', save)
    frames, timing = read_frames(path)
    write_frames(tmp_path / f'b{target}', frames, timing)
    assert read_frames(tmp_path / f'b{target}')[0][0].orientation == 6
    assert 'EXIF left out but for the orientation' in caplog.text


def deep_animation(colour_type, channels):
    """An animated PNG of 16 bits a channel, which nothing here writes: 2 frames, each one value of a channel."""

    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    def rows(value):
        return zlib.compress(b''.join(b'\0' + struct.pack('>H', value) * 6 * channels for _ in range(5)))

    def control(number):
        return chunk(b'fcTL', struct.pack('>IIIIIHHBB', number, 6, 5, 0, 0, 1, 10, 0, 0))

    parts = chunk(b'IHDR', struct.pack('>IIBBBBB', 6, 5, 16, colour_type, 0, 0, 0)) + chunk(b'acTL', bytes([0, 0, 0, 2, 0, 0, 0, 0]))  # fmt: skip  # noqa: E501
    parts += control(0) + chunk(b'IDAT', rows(0x4000)) + control(1)
    return b'\x89PNG\r\n\x1a\n' + parts + chunk(b'fdAT', struct.pack('>I', 2) + rows(0xC000)) + chunk(b'IEND', b'')


@pytest.mark.parametrize(('colour_type', 'channels'), [(0, 1), (2, 3)])
def test_16_bits_are_read_as_8_and_it_is_said(tmp_path, colour_type, channels):
    (tmp_path / 'a.png').write_bytes(deep_animation(colour_type, channels))
    frames, _ = read_frames(tmp_path / 'a.png')
    assert frames[0].dropped == ('8 of 16 bits a channel',)
    assert [round(float(frame.rgb.mean()), 2) for frame in frames] == [0.25, 0.75]


def test_a_grey_profile_is_not_put_on_colour(tmp_path):
    grey = bytearray(PROFILE)
    grey[16:20] = b'GRAY'
    frame = read_frames(moving(tmp_path / 'a.webp', icc_profile=bytes(grey)))[0][0]
    assert (frame.icc, frame.dropped) == (None, ('the colour profile',))


def test_frames_are_floating_point_one_at_a_time(tmp_path, monkeypatch):
    path = moving(tmp_path / 'a.webp', 'RGBA')
    alive, most = [], []
    real = frames_module.from_pil

    def counted(still):
        alive.append(None)
        most.append(len(alive))
        return real(still)

    monkeypatch.setattr(frames_module, 'from_pil', counted)
    frames, timing = read_frames(path)
    assert (len(frames), alive) == (3, [])

    def given() -> Iterable[Image]:
        for number in range(len(frames)):
            yield frames[number]
            alive.pop()

    write_frames(tmp_path / 'b.webp', given(), timing)
    assert most == [1, 1, 1]
    assert [frame.rgb.shape for frame in frames[1:]] == [(20, 30, 3)] * 2


def test_what_makes_the_frames_may_fail_in_its_own_words(tmp_path):
    def broken() -> Iterable[Image]:
        yield Image(np.zeros((4, 4, 3), np.float32))
        raise UserError('the network returned NaN')

    with pytest.raises(UserError, match='^the network returned NaN$'):
        write_frames(tmp_path / 'a.gif', broken(), Timing([50, 50], 0))
    assert not list(tmp_path.iterdir())


def test_a_still_picture_says_the_same_beside_its_pixels_as_a_frame(tmp_path):
    buffer = io.BytesIO()
    stills()[0].save(buffer, 'PNG', icc_profile=PROFILE, exif=exif(6))
    still = decode_image(buffer.getvalue())
    frame = read_frames(moving(tmp_path / 'a.png', icc_profile=PROFILE, exif=exif(6)))[0][0]
    for name in ('icc', 'exif', 'orientation', 'xmp', 'dpi', 'text', 'format', 'lossy', 'dropped'):
        assert getattr(still, name) == getattr(frame, name)
    assert decode_image(encode_image(frame, 'PNG')).exif == still.exif
