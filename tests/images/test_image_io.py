"""Image files: what goes in comes out, what is bad is named."""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import cache

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageCms

from vmambair_arch.errors import UserError
from vmambair_arch.images import codecs, image_io
from vmambair_arch.images.formats import KINDS, SUFFIXES, open_heif
from vmambair_arch.images.image_io import Image, decode_image, encode_image, from_pil, read_image, to_pil, write_image
from vmambair_arch.images.metadata import turn, turn_back
from vmambair_arch.images.pixels import packed

ORIENTATION = 0x0112


def pixels(h=11, w=17, c=3, dtype=np.uint8, seed=0):
    """Smooth in space, so that JPEG keeps it, and different in every channel and corner."""
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    planes = [0.1 + 0.3 * (k + 1) / c + 0.4 * x - 0.2 * y * (k - 1) for k in range(c)]
    noise = np.random.default_rng(seed).uniform(0, 0.004, (h, w, c))
    return np.rint((np.stack(planes, 2) + noise).clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


@cache  # it holds the second at which it was made
def icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def exif(orientation: int) -> bytes:
    block = PIL.Image.Exif()
    block[ORIENTATION] = orientation
    block[0x010F] = 'maker'
    return block.tobytes()


def stored_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Width and height in the file; Pillow itself turns TIFF."""
    return (image.tag_v2[256], image.tag_v2[257]) if image.format == 'TIFF' else image.size


def levels(image: Image, top: int = 255) -> np.ndarray:
    return np.rint(image.rgb * top).astype(np.int64)


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.tiff', '.bmp', '.webp'])
def test_eight_bits_come_back_exactly(tmp_path, suffix):
    source = pixels()
    write_image(tmp_path / f'a{suffix}', Image(source.astype(np.float32) / 255), quality=100)
    again = read_image(tmp_path / f'a{suffix}')
    assert again.bits == 8
    assert not again.grey
    assert again.rgb.dtype == np.float32
    np.testing.assert_array_equal(levels(again), source)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / f'a{suffix}').convert('RGB')), source)


@pytest.mark.parametrize('suffix', ['.jpg', '.jpeg', '.webp'])
def test_lossy_formats_stay_close_and_quality_counts(tmp_path, suffix):
    source = pixels(64, 64).astype(np.float32) / 255
    source[20:40, 20:40] = np.random.default_rng(0).uniform(size=(20, 20, 1))
    sizes, errors = [], []
    for quality in (30, 95):
        write_image(tmp_path / f'a{suffix}', Image(source), quality=quality)
        sizes.append((tmp_path / f'a{suffix}').stat().st_size)
        errors.append(np.abs(read_image(tmp_path / f'a{suffix}').rgb - source).mean())
    assert sizes[0] < sizes[1]
    assert errors[1] < errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_sixteen_bits_come_back_exactly(tmp_path, suffix, channels):
    source = pixels(c=channels, dtype=np.uint16)
    grey, transparent = channels < 3, channels in (2, 4)
    colours = source[..., : channels - transparent].astype(np.float32) / 65535
    alpha = source[..., -1].astype(np.float32) / 65535 if transparent else None
    image = Image(np.repeat(colours, 3, 2) if grey else colours, alpha, grey=grey, bits=16, icc=icc())
    write_image(tmp_path / f'a{suffix}', image)
    seen = cv2.imread(str(tmp_path / f'a{suffix}'), cv2.IMREAD_UNCHANGED).reshape(*source.shape[:2], -1)
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    np.testing.assert_array_equal(seen[..., order], source)
    again = read_image(tmp_path / f'a{suffix}')
    assert again.bits == 16
    assert again.icc == image.icc
    np.testing.assert_array_equal(levels(again, 65535), np.rint(image.rgb * 65535))
    assert (again.alpha is not None) == transparent
    if transparent:
        np.testing.assert_array_equal(np.rint(again.alpha * 65535), source[..., -1])


def test_sixteen_bits_from_other_writers(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    source = pixels(40, 33, dtype=np.uint16)
    variants = [{}, {'byteorder': '>'}, {'tile': (16, 16)}, {'compression': 'zlib', 'predictor': True}]
    for index, options in enumerate(variants):
        path = tmp_path / f'{index}.tif'
        tifffile.imwrite(path, source, photometric='rgb', **options)
        image = read_image(path)
        assert image.bits == 16, options
        np.testing.assert_array_equal(levels(image, 65535), source, err_msg=str(options))


def test_sixteen_bits_become_eight_where_the_format_has_no_more(tmp_path):
    write_image(tmp_path / 'a.jpg', Image(pixels().astype(np.float32) / 255, bits=16), quality=95)
    assert read_image(tmp_path / 'a.jpg').bits == 8


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif'])
def test_grey_stays_grey(tmp_path, suffix):
    PIL.Image.fromarray(pixels(c=1)[..., 0]).save(tmp_path / f'a{suffix}')
    image = read_image(tmp_path / f'a{suffix}')
    if suffix != '.webp':  # which has no grey
        assert image.grey
    assert image.rgb.shape == (11, 17, 3)
    write_image(tmp_path / f'b{suffix}', image)
    assert PIL.Image.open(tmp_path / f'b{suffix}').mode == PIL.Image.open(tmp_path / f'a{suffix}').mode


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.tif'])
@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_alpha_is_kept_apart_and_comes_back(tmp_path, suffix, mode):
    source = pixels(c=len(mode))
    PIL.Image.fromarray(source).save(tmp_path / f'a{suffix}', lossless=True, exact=True)
    image = read_image(tmp_path / f'a{suffix}')
    np.testing.assert_array_equal(np.rint(image.alpha * 255), source[..., -1])
    write_image(tmp_path / f'b{suffix}', image, quality=100)
    again = np.asarray(PIL.Image.open(tmp_path / f'b{suffix}').convert('RGBA'))
    np.testing.assert_array_equal(again, np.asarray(PIL.Image.fromarray(source).convert('RGBA')))


@pytest.mark.parametrize('suffix', ['.jpg', '.bmp'])
def test_alpha_is_not_dropped_silently(tmp_path, suffix):
    alpha = np.ones((2, 2), np.float32)
    alpha[1, 0] = 254 / 255
    image = Image(np.zeros((2, 2, 3), np.float32), alpha)
    with pytest.raises(UserError, match=r'a\.\w+: \w+ cannot hold the transparency'):
        write_image(tmp_path / f'a{suffix}', image)
    with pytest.raises(UserError, match='transparency'):
        encode_image(image, SUFFIXES[suffix])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('least', [1, 65534 / 65535, 1 - 1e-6, 1 + 1e-6])
def test_an_alpha_that_hides_nothing_is_left_out_where_there_is_no_place_for_it(tmp_path, suffix, grey, least):
    if SUFFIXES[suffix] == 'HEIF' and not open_heif():
        pytest.skip('pillow-heif is not installed')
    alpha = np.ones((16, 16), np.float32)
    alpha[1, 0] = least
    write_image(tmp_path / f'a{suffix}', Image(np.full((16, 16, 3), 0.6, np.float32), alpha, grey=grey))
    again = read_image(tmp_path / f'a{suffix}')
    assert (again.alpha is not None) <= KINDS[SUFFIXES[suffix]].alpha
    np.testing.assert_allclose(again.rgb, 0.6, atol=0.01)


def test_palettes_become_colours(tmp_path):
    source = PIL.Image.fromarray(pixels()).quantize(7)
    source.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(levels(read_image(tmp_path / 'a.png')), np.asarray(source.convert('RGB')))
    source.save(tmp_path / 'b.png', transparency=3)
    image = read_image(tmp_path / 'b.png')
    assert set(np.unique(image.alpha)) == {0, 1}


def test_one_bit_is_grey(tmp_path):
    source = pixels(c=1)[..., 0] > 100
    PIL.Image.fromarray(source).save(tmp_path / 'a.png')
    image = read_image(tmp_path / 'a.png')
    assert image.grey
    np.testing.assert_array_equal(image.rgb[..., 0] > 0.5, source)


def test_cmyk_becomes_rgb(tmp_path):
    source = PIL.Image.fromarray(pixels(64, 64))
    source.convert('CMYK').save(tmp_path / 'a.jpg', quality=100, icc_profile=b'no profile at all')
    image = read_image(tmp_path / 'a.jpg')
    assert image.icc is None
    assert np.abs(levels(image) - np.asarray(source)).mean() < 4
    write_image(tmp_path / 'b.jpg', image)
    assert PIL.Image.open(tmp_path / 'b.jpg').mode == 'RGB'


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_honoured_and_kept(tmp_path, suffix, orientation):
    stored = pixels(24, 40)
    PIL.Image.fromarray(stored).save(tmp_path / f'a{suffix}', exif=exif(orientation), lossless=True, quality=100)
    image = read_image(tmp_path / f'a{suffix}')
    viewed = PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / f'a{suffix}'))
    np.testing.assert_array_equal(levels(image), np.asarray(viewed))
    write_image(tmp_path / f'b{suffix}', image, quality=100)
    with PIL.Image.open(tmp_path / f'b{suffix}') as again:
        assert again.getexif().get(ORIENTATION, 1) == orientation
        assert again.getexif()[0x010F] == 'maker'
        assert stored_size(again) == (40, 24)
        assert np.abs(np.asarray(PIL.ImageOps.exif_transpose(again)).astype(int) - levels(image)).max() <= 3


@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=2),
    st.integers(1, 8),
    st.sampled_from(['', 'LA', 'I;16', 'deep']),
)
def test_pixels_of_any_size_and_orientation_are_those_that_torch_takes(sides, orientation, kind):
    """A mirrored side of one pixel keeps a negative stride, which NumPy calls contiguous."""
    deep = np.uint16 if kind in ('I;16', 'deep') else np.uint8
    stored = Image(
        pixels(*sides, dtype=deep).astype(np.float32) / np.iinfo(deep).max,
        np.ones(sides, np.float32) if kind == 'LA' else None,
        grey=kind in ('LA', 'I;16'),
        bits=16 if deep == np.uint16 else 8,
        exif=exif(orientation),
        orientation=orientation,
    )
    turned = turn(stored.rgb, orientation)
    assert torch.equal(torch.from_numpy(turned), torch.from_numpy(turned.copy()))
    assert np.array_equal(turn_back(turned, orientation), stored.rgb)
    image = decode_image(encode_image(stored, 'PNG'))
    assert image.orientation == orientation
    for plane in (image.rgb, image.alpha):
        if plane is not None:
            torch.from_numpy(plane)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from([None, np.uint8, np.float32]),
)
def test_packed_arrays_are_the_same_values_in_c_order_for_torch(shape, steps, random, dtype):
    source = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    order = random.sample(range(len(shape)), len(shape))
    view = source[tuple(slice(None, None, step) for step in steps[: len(shape)])].transpose(order)
    result = packed(view, dtype)
    assert result.dtype == (dtype or np.uint8)
    np.testing.assert_array_equal(result, view)
    assert torch.from_numpy(result).is_contiguous()
    assert packed(result, dtype) is result


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('orientation', [3, 5, 6, 8])
def test_orientation_with_sixteen_bits(tmp_path, suffix, orientation):
    upright = pixels(24, 40, dtype=np.uint16).astype(np.float32) / 65535
    write_image(tmp_path / f'a{suffix}', Image(upright, bits=16, orientation=orientation))
    image = read_image(tmp_path / f'a{suffix}')
    assert (image.bits, image.orientation) == (16, orientation)
    np.testing.assert_array_equal(image.rgb, upright)
    with PIL.Image.open(tmp_path / f'a{suffix}') as stored:
        assert stored_size(stored) == ((24, 40) if orientation >= 5 else (40, 24))


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif'])
def test_profile_is_kept(tmp_path, suffix):
    PIL.Image.fromarray(pixels()).save(tmp_path / f'a{suffix}', icc_profile=icc())
    write_image(tmp_path / f'b{suffix}', read_image(tmp_path / f'a{suffix}'))
    assert PIL.Image.open(tmp_path / f'b{suffix}').info['icc_profile'] == icc()


def test_tiff_tags_do_not_leak_into_other_formats(tmp_path):
    PIL.Image.fromarray(pixels()).save(tmp_path / 'a.tif', exif=exif(6), compression='tiff_lzw')
    write_image(tmp_path / 'b.jpg', read_image(tmp_path / 'a.tif'))
    assert set(PIL.Image.open(tmp_path / 'b.jpg').getexif()) == {ORIENTATION, 0x010F}


def test_damaged_exif_does_not_cost_the_picture():
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels()).save(buffer, 'JPEG', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff' + b'\1' * 40)
    image = decode_image(buffer.getvalue())
    assert image.exif is None
    assert image.orientation == 1
    encode_image(image, 'JPEG')


# bad files


def bad_png(width: int, height: int) -> bytes:
    """A few bytes that declare a huge image."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 99)) + chunk(b'IEND', b'')


@pytest.mark.parametrize(('width', 'height'), [(20000, 10000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, width, height):
    (tmp_path / 'bomb.png').write_bytes(bad_png(width, height))
    with pytest.raises(UserError, match=f'bomb.png: too large .{width}x{height} pixels, the limit is 134217728'):
        read_image(tmp_path / 'bomb.png')


def test_the_limit_can_be_lowered_and_raised(tmp_path, monkeypatch):
    write_image(tmp_path / 'a.png', Image(np.zeros((30, 40, 3), np.float32)))
    with pytest.raises(UserError, match='40x30 pixels, the limit is 1199 pixels'):
        read_image(tmp_path / 'a.png', max_pixels=1199)
    monkeypatch.setattr(PIL.Image, 'MAX_IMAGE_PIXELS', 10)  # another program's setting: not ours to obey or to change
    assert read_image(tmp_path / 'a.png', max_pixels=1200).rgb.shape == (30, 40, 3)
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_a_chunk_may_not_claim_four_gigabytes(monkeypatch):
    """OpenCV would make room for them."""
    data = bytearray(encode_image(Image(np.full((64, 64, 3), 0.5, np.float32), bits=16), 'PNG'))
    data[33:37] = struct.pack('>I', 2**32 - 100)
    seen = []
    monkeypatch.setattr(codecs.cv2, 'imdecode', lambda array, flags: seen.append(array.size))
    with pytest.raises(UserError, match='damaged'):
        decode_image(bytes(data))
    assert not seen or max(seen) < 100


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif', '.bmp'])
@pytest.mark.parametrize('keep', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('deep', [False, True])
def test_truncated_files_are_refused(tmp_path, suffix, keep, deep):
    path = tmp_path / f'cut{suffix}'
    source = np.random.default_rng(0).uniform(size=(64, 64, 3)).astype(np.float32)
    write_image(path, Image(source, bits=16 if deep else 8))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=f'cut{suffix}: .*(damaged|truncated)'):
        read_image(path)


def test_zero_bytes(tmp_path):
    (tmp_path / 'empty.png').touch()
    with pytest.raises(UserError, match='empty.png: is empty'):
        read_image(tmp_path / 'empty.png')


@pytest.mark.parametrize('content', [b'hello, this is text\n', b'GIF89a', b'%!PS-Adobe-3.0 EPSF-3.0\n', b'\0' * 5000])
def test_no_image(tmp_path, content):
    (tmp_path / 'no.png').write_bytes(content)
    with pytest.raises(UserError, match='no.png: is no PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC or JPEG 2000'):
        read_image(tmp_path / 'no.png')


def test_missing_and_folder(tmp_path):
    with pytest.raises(UserError, match='gone.png: no such file'):
        read_image(tmp_path / 'gone.png')
    with pytest.raises(UserError, match='is a folder'):
        read_image(tmp_path)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'endless.png').symlink_to('/dev/zero')
    for name in ('pipe.png', 'endless.png'):
        with pytest.raises(UserError, match=f'{name}: is not a regular file'):
            read_image(tmp_path / name)


def test_a_file_larger_than_any_image(tmp_path):
    with (tmp_path / 'huge.png').open('wb') as file:
        file.truncate(2**40)  # a hole, which takes no space
    with pytest.raises(UserError, match='huge.png: too large'):
        read_image(tmp_path / 'huge.png')


def test_the_content_decides_not_the_name(tmp_path):
    PIL.Image.fromarray(pixels()).save(tmp_path / 'a.png')
    (tmp_path / 'a.png').rename(tmp_path / 'a.jpg')
    np.testing.assert_array_equal(levels(read_image(tmp_path / 'a.jpg')), pixels())


@pytest.mark.parametrize('format', ['WEBP', 'PNG', 'TIFF'])
def test_animations_and_pages_are_refused(format):
    frames = [PIL.Image.fromarray(pixels() // (seed + 1)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match='has 3 frames or pages'):
        decode_image(buffer.getvalue())


def test_the_second_picture_of_a_phone_does_not_count():
    frames = [PIL.Image.fromarray(pixels(seed=seed)) for seed in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, 'MPO', save_all=True, append_images=frames[1:], quality=100, subsampling=0)
    assert np.abs(levels(decode_image(buffer.getvalue())) - pixels()).max() <= 3


@pytest.mark.parametrize('mode', ['F', 'I', 'LAB'])
def test_modes_without_meaning_are_refused(mode):
    buffer = io.BytesIO()
    PIL.Image.new(mode, (4, 4), (1, 2, 3) if mode == 'LAB' else -70000).save(buffer, 'TIFF')
    with pytest.raises(UserError, match='x.tif: .*not supported'):
        decode_image(buffer.getvalue(), name='x.tif')


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif'])
def test_extreme_shapes(tmp_path, height, width, suffix):
    write_image(tmp_path / f'a{suffix}', Image(np.full((height, width, 3), 0.5, np.float32)))
    image = read_image(tmp_path / f'a{suffix}')
    assert image.rgb.shape == (height, width, 3)
    assert np.abs(image.rgb - 0.5).max() < 0.02


# writing


def test_unknown_suffix_and_size_of_the_format(tmp_path):
    image = Image(np.zeros((1, 20000, 3), np.float32))
    with pytest.raises(UserError, match=r"suffix '.xyz'.*\.png"):
        write_image(tmp_path / 'a.xyz', image)
    with pytest.raises(UserError, match='a.webp: cannot be written as WEBP'):
        write_image(tmp_path / 'a.webp', image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('stop', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_nothing_half_written(tmp_path, monkeypatch, stop):
    path = tmp_path / 'a.png'
    path.write_bytes(b'old')

    def write(self, data):
        with self.open('wb') as file:
            file.write(data[:10])
        raise stop

    monkeypatch.setattr(image_io.Path, 'write_bytes', write)
    with pytest.raises((KeyboardInterrupt, UserError)):
        write_image(path, Image(np.zeros((4, 4, 3), np.float32)))
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']
    assert path.read_bytes() == b'old'


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / 'a.png').mkdir()
    with pytest.raises(UserError, match='a.png: is there and is not a file'):
        write_image(tmp_path / 'a.png', Image(np.zeros((4, 4, 3), np.float32)))


# Pillow images


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'I;16'])
def test_pillow_modes(mode):
    source = PIL.Image.fromarray(pixels()).convert('L' if mode == 'I;16' else mode)
    if mode == 'I;16':
        source = PIL.Image.fromarray(pixels(c=1, dtype=np.uint16)[..., 0])
    again = to_pil(from_pil(source))
    expected = {'1': 'L', 'P': 'RGB', 'RGBX': 'RGB', 'CMYK': 'RGB', 'YCbCr': 'RGB'}.get(mode, mode)
    assert again.mode == expected
    np.testing.assert_array_equal(np.asarray(again), np.asarray(source.convert(expected)))
