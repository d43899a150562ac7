"""What a file says beside its pixels reaches the result or is named, and what is not true of the result is changed."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms, TiffImagePlugin

from vmambair_arch.errors import UserError
from vmambair_arch.images.formats import KINDS, open_heif
from vmambair_arch.images.image_io import Image, decode_image, encode_image, inspect_image, lost_in
from vmambair_arch.images.metadata import EXIF_START, _of_the_result

WRITTEN = [name for name in KINDS if name != 'HEIF' or open_heif()]
TAGS = {270: 'a street', 271: 'maker', 272: 'model', 306: '2026:01:02 03:04:05', 315: 'artist', 33432: 'nobody'}


def smooth(h=24, w=32) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    return np.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.6 - 0.3 * x], 2).astype(np.float32)


def block(orientation: int | None = None, side: int | None = None, thumbnail: bytes = b'', size: int = 0) -> bytes:
    exif = PIL.Image.Exif()
    for tag, value in TAGS.items():
        exif[tag] = value
    if orientation:
        exif[0x0112] = orientation
    below = exif.get_ifd(34665)
    below[0x9003] = '2026:01:02 03:04:05'
    if side:
        below[0xA002], below[0xA003] = side, side
    if size:
        below[0x927C] = b'm' * size  # the maker's note
    exif.get_ifd(34853)[1] = 'N'
    if thumbnail:
        exif._ifds[1] = {0x0103: 6, 0x0201: 0, 0x0202: len(thumbnail)}
    return exif.tobytes()


def tags_of(image: Image) -> dict[int, object]:
    exif = PIL.Image.Exif()
    exif.load(image.exif or b'')
    return {tag: str(exif[tag]) for tag in TAGS if tag in exif} | {
        34665: exif.get_ifd(34665),
        34853: exif.get_ifd(34853),
    }


def png(pixels: np.ndarray, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits by hand: colour type 0 grey, 2 RGB."""
    h, w = pixels.shape[:2]

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, kind, 0, 0, 0))
    parts = [chunk(*each) for each in chunks]
    return b'\x89PNG\r\n\x1a\n' + header + b''.join(parts) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


@pytest.mark.parametrize('format', WRITTEN)
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_result_is_seen_as_its_source_was(format, orientation, bits):
    image = Image(smooth(), exif=block(orientation), orientation=orientation, bits=bits)
    again = decode_image(encode_image(image, format, quality=100))
    np.testing.assert_allclose(again.rgb, image.rgb, atol=0.03)
    if format != 'HEIF':  # which says it in its own way, and is upright when read
        assert again.orientation == (orientation if 'exif' in KINDS[format].keeps else 1)


@pytest.mark.parametrize('format', [name for name in WRITTEN if 'exif' in KINDS[name].keeps])
@pytest.mark.parametrize('bits', [8, 16])
def test_every_tag_is_kept(format, bits, caplog):
    image = Image(smooth(), exif=block(6), orientation=6, bits=bits)
    again = decode_image(encode_image(image, format))
    assert tags_of(again) == tags_of(image)
    assert not lost_in(image, format) or bits == 16
    assert not caplog.records


@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'TIFF'])
def test_exif_that_a_png_holds_as_a_text(format):
    raw = block(6)
    words = b'\nexif\n%8d\n%s\n' % (len(raw), raw.hex().encode())
    profile = b'Raw profile type exif\0\0' + zlib.compress(words)
    pixels = np.rint(smooth() * 65535).astype(np.uint16)
    image = decode_image(png(pixels, 2, (b'zTXt', profile)))
    assert (image.rgb.shape, image.orientation) == ((32, 24, 3), 6)
    again = decode_image(encode_image(image, format))
    np.testing.assert_allclose(again.rgb, image.rgb, atol=0.02)
    assert tags_of(again)[271] == 'maker'


def test_orientation_that_is_xmp_s_alone():
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description tiff:Orientation="6" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></rdf:RDF></x:xmpmeta>'
    )
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.rint(smooth() * 255).astype(np.uint8)).save(buffer, 'JPEG', xmp=xmp, quality=100)
    image = decode_image(buffer.getvalue())
    again = decode_image(encode_image(image, 'JPEG'))
    assert again.rgb.shape == image.rgb.shape
    np.testing.assert_allclose(again.rgb, image.rgb, atol=0.03)


@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('key', ['exif', 'xmp'])
def test_what_is_too_long_for_a_jpeg_is_named_there_and_kept_elsewhere(format, key):
    long = block(6, size=80_000) if key == 'exif' else b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + b' ' * 80_000
    buffer = io.BytesIO()
    pixels = PIL.Image.fromarray(np.rint(smooth() * 255).astype(np.uint8))
    pixels.save(buffer, 'WEBP', lossless=True, **{key: long})
    image = decode_image(buffer.getvalue())
    assert getattr(image, key)
    again = decode_image(encode_image(image, format))
    np.testing.assert_allclose(again.rgb, image.rgb, atol=0.03)
    assert bool(getattr(again, key)) is (format != 'JPEG' or key == 'exif')  # of which the orientation stays
    assert bool(lost_in(image, format)) is (format == 'JPEG')


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 60), st.integers(0, 4000), st.data())
def test_size_and_thumbnail_are_the_result_s_or_absent(orientation, h, w, size, data):
    raw = bytearray(block(orientation, side=7, size=size))
    image = Image(np.zeros((h, w, 3), np.float32), exif=bytes(raw), orientation=orientation)
    again = decode_image(encode_image(image, 'PNG'))
    exif = PIL.Image.Exif()
    exif.load(again.exif)
    below = exif.get_ifd(34665)
    assert (below[0xA002], below[0xA003]) == ((w, h) if orientation < 5 else (h, w))
    assert tags_of(again)[271] == 'maker'
    if size:
        assert below[0x927C] == b'm' * size
    # Damage anywhere is no reason to lose a picture.
    for place in data.draw(st.lists(st.integers(6, len(raw) - 1), max_size=4)):
        raw[place] ^= data.draw(st.integers(1, 255))
    encode_image(Image(image.rgb, exif=bytes(raw), orientation=1), 'JPEG')


def test_the_thumbnail_is_cut_off_and_nothing_else_moves():
    directory = struct.pack('<HHHIIHHI', 1, 271, 2, 4, 0x61626300, 0, 0, 0)
    raw = b'II*\0' + struct.pack('<I', 8) + struct.pack('<H', 1) + struct.pack('<HHI4s', 271, 2, 4, b'abc\0')
    raw += struct.pack('<I', 26) + directory
    changed = _of_the_result(EXIF_START + raw, 5, 5)
    assert changed == EXIF_START + raw[:22] + b'\0' * 4 + raw[26:]


@pytest.mark.parametrize('kind', [0, 2])
def test_a_colour_that_is_transparent_in_16_bits(kind):
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 7) if kind == 0 else (6, 7, 3), np.uint16)
    pixels[1, 2] = pixels[3, 4] = 300 if kind == 0 else (300, 400, 500)
    pixels[1, 3] = 301 if kind == 0 else (300, 400, 501)  # the same in 8 bits
    key = struct.pack('>H', 300) if kind == 0 else struct.pack('>HHH', 300, 400, 500)
    image = decode_image(png(pixels, kind, (b'tRNS', key)))
    wanted = np.ones((6, 7))
    wanted[1, 2] = wanted[3, 4] = 0
    np.testing.assert_array_equal(image.alpha, wanted)
    again = decode_image(encode_image(image, 'PNG'))
    np.testing.assert_array_equal(again.alpha, wanted)
    np.testing.assert_allclose(again.rgb, image.rgb, atol=1e-5)


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize('zero', [0, 1])
def test_white_is_white_in_grey_of_any_depth_also_where_it_is_zero(bits, zero):
    values = np.random.default_rng(0).integers(0, 2**bits, (3, 4))
    values[0, :2] = 0, 2**bits - 1
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if bits == 16:
        strip = values.astype('<u2').tobytes()
    else:  # from the highest bit on, each row of whole bytes
        rows = ((values[..., None] >> np.arange(bits)[::-1]) & 1).reshape(3, -1)
        strip = np.packbits(rows, axis=1).tobytes()
    for tag, value in {256: 4, 257: 3, 258: bits, 259: 1, 262: zero, 277: 1, 278: 3, 279: len(strip), 273: 0}.items():
        directory[tag] = value
    buffer = io.BytesIO()
    directory.save(buffer)
    if bits == 12 and not zero:  # which Pillow does not know
        with pytest.raises(UserError, match='is no PNG'):
            decode_image(buffer.getvalue() + strip)
        return
    image = decode_image(buffer.getvalue() + strip)
    most = 2**bits - 1
    np.testing.assert_allclose(image.rgb[..., 0], (values if zero else most - values) / most, atol=1e-6)


def test_16_bits_of_cmyk_are_said_to_be_cut(caplog):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    strip = np.zeros((3, 4, 4), '<u2').tobytes()
    entries = {256: 4, 257: 3, 258: (16,) * 4, 259: 1, 262: 5, 277: 4, 278: 3, 279: len(strip), 273: 0}
    for tag, value in entries.items():
        directory[tag] = value
    buffer = io.BytesIO()
    directory.save(buffer)
    with caplog.at_level(logging.WARNING):
        decode_image(buffer.getvalue() + strip, name='c.tif')
    assert 'c.tif: read with 8 of its 16 bits' in caplog.text


@pytest.mark.parametrize('format', [name for name in WRITTEN if 'icc' in KINDS[name].keeps])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('alpha', [False, True])
def test_a_grey_profile_stays_with_grey_files_only(format, bits, alpha):
    if alpha and not KINDS[format].alpha:
        pytest.skip(f'{format} has no transparency')
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    profile[16:20] = b'GRAY'
    rgb = np.repeat(smooth()[..., :1], 3, 2)
    image = Image(rgb, np.ones((24, 32), np.float32) / 2 if alpha else None, grey=True, bits=bits, icc=bytes(profile))
    data = encode_image(image, format)
    with PIL.Image.open(io.BytesIO(data)) as written:
        coloured = written.mode in ('RGB', 'RGBA')
        assert ('icc_profile' in written.info) is not coloured
    assert ('the colour profile' in lost_in(image, format)) is coloured


def test_what_is_not_carried_is_known():
    pixels = PIL.Image.fromarray(np.rint(smooth() * 255).astype(np.uint8))
    buffer = io.BytesIO()
    pixels.save(buffer, 'JPEG', comment='seen from the bridge')
    segment = b'Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x78\0\x03abc'
    data = buffer.getvalue()
    data = data[:2] + b'\xff\xed' + struct.pack('>H', len(segment) + 2) + segment + data[2:]
    assert decode_image(data).dropped == ('IPTC captions', 'the comment')
    deep = np.rint(smooth() * 65535).astype(np.uint16)
    assert decode_image(png(deep, 2, (b'gAMA', struct.pack('>I', 100_000)))).dropped == ('its gamma of 1.0',)
    assert decode_image(png(deep, 2, (b'gAMA', struct.pack('>I', 45_455)))).dropped == ()
    assert decode_image(png(deep, 2)).dropped == ()


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    path.write_bytes(encode_image(Image(smooth()), 'PNG'))

    def refuse(*_args, **_options):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr('vmambair_arch.images.image_io._first_bytes', refuse)
    with pytest.raises(ValueError, match=r'a\.png: cannot be read \(Permission denied\)'):
        inspect_image(path)


def test_a_directory_that_has_a_tag_twice_loses_nothing():
    entries = [(271, 2, 4, b'abc\0'), (274, 3, 1, b'\1\0\0\0'), (274, 3, 1, b'\1\0\0\0'), (296, 3, 1, b'\2\0\0\0')]
    raw = b'II*\0' + struct.pack('<IH', 8, len(entries))
    raw += b''.join(struct.pack('<HHI4s', *entry) for entry in entries) + struct.pack('<I', 99)
    assert _of_the_result(EXIF_START + raw, 5, 5) == EXIF_START + raw[:-4] + bytes(4)
