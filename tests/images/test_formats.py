"""What each format keeps, what is refused by name, and what floating-point values may be."""

from __future__ import annotations

import io
import logging
from functools import cache

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms, PngImagePlugin

from vmambair_arch.errors import UserError
from vmambair_arch.images import formats
from vmambair_arch.images.formats import KINDS, SUFFIXES, format_of, open_heif
from vmambair_arch.images.image_io import (
    Image,
    decode_image,
    encode_image,
    from_array,
    inspect_image,
    lost_in,
    read_image,
    write_image,
)

XMP = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/">Kl\xc3\xa4rchen</x:xmpmeta><?xpacket end="w"?>'
WRITTEN = [name for name in KINDS if name != 'HEIF' or open_heif()]


def smooth(h=24, w=32, c=3):
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    return np.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.6 - 0.3 * x][:c], 2).astype(np.float32)


@cache  # it holds the second at which it was made
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def exif(orientation=1) -> bytes:
    block = PIL.Image.Exif()
    block[0x0112], block[0x010F] = orientation, 'maker'
    return block.tobytes()


def saved(mode='RGB', format='PNG', **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.rint(smooth() * 255).astype(np.uint8)).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('format', WRITTEN)
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_every_format_gives_the_picture_back(tmp_path, format, channels):
    if channels in (2, 4) and not KINDS[format].alpha:
        pytest.skip(f'{format} has no transparency')
    alpha = np.tile(np.linspace(0.2, 1, 32, dtype=np.float32), (24, 1)) if channels in (2, 4) else None
    colours = np.repeat(smooth(c=1), 3, 2) if channels < 3 else smooth()
    path = tmp_path / f'a{KINDS[format].suffixes[0]}'
    write_image(path, Image(colours, alpha, grey=channels < 3), quality=100)
    again = read_image(path)
    assert again.format == format
    np.testing.assert_allclose(again.rgb, colours, atol=0.03)
    if alpha is None:
        assert again.alpha is None
    else:
        np.testing.assert_allclose(again.alpha, alpha, atol=0.03)
    facts = inspect_image(path)
    assert (facts.format, facts.width, facts.height, facts.alpha, facts.frames) == (
        format,
        32,
        24,
        bool(channels % 2 == 0),
        1,
    )


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('format', WRITTEN)
def test_what_stands_beside_the_pixels_is_kept_or_named(tmp_path, format, bits):
    texts = (('Title', 'Klärchen'), ('Comment', 'two\nlines'))
    image = Image(
        smooth(), icc=profile(), exif=exif(), xmp=XMP, dpi=(300.0, 150.0), text=texts, bits=bits, format='PNG'
    )
    path = tmp_path / f'a{KINDS[format].suffixes[0]}'
    write_image(path, image)
    again = read_image(path)
    keeps, lost = KINDS[format].keeps, lost_in(image, format)
    assert (again.icc == image.icc) == ('icc' in keeps)
    assert (again.xmp == image.xmp) == ('xmp' in keeps)
    assert (again.text == image.text) == ('text' in keeps)
    assert (again.exif is not None) == ('exif' in keeps)
    assert (again.dpi is not None) == ('dpi' in keeps)
    if again.dpi:
        assert again.dpi == pytest.approx((300, 150), abs=0.5)
    assert len(lost) == 5 - len(keeps) + (bits == 16 and not KINDS[format].deep)


def test_a_lossless_webp_stays_lossless_and_a_lossy_one_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for name, lossless in (('a', True), ('b', False)):
        PIL.Image.fromarray(noise).save(tmp_path / f'{name}.webp', lossless=lossless, icc_profile=profile())
        image = read_image(tmp_path / f'{name}.webp')
        assert image.lossy is not lossless
        assert inspect_image(tmp_path / f'{name}.webp').lossy is not lossless
        write_image(tmp_path / 'again.webp', image)
        again = read_image(tmp_path / 'again.webp')
        assert np.array_equal(again.rgb, image.rgb) is lossless
    write_image(tmp_path / 'c.webp', read_image(tmp_path / 'a.webp'), quality=60)
    assert read_image(tmp_path / 'c.webp').lossy


@pytest.mark.parametrize('keyword', ['Title', 'Software'])
def test_texts_that_pillow_wrote_come_through(tmp_path, keyword):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(keyword, 'plain')
    chunks.add_itxt('Long', 'ü' * 5000, zip=True)
    image = decode_image(saved(pnginfo=chunks, dpi=(72, 72)))
    assert dict(image.text) == {keyword: 'plain', 'Long': 'ü' * 5000}
    write_image(tmp_path / 'a.png', image)
    with PIL.Image.open(tmp_path / 'a.png') as again:
        assert dict(again.text) == dict(image.text)
        assert again.info['dpi'] == pytest.approx((72, 72), abs=0.1)


def test_a_wide_profile_stays_what_it_is():
    """Values are of that profile, Adobe RGB or Display P3: neither is touched."""
    image = decode_image(saved(icc_profile=profile() + b'another'))
    assert decode_image(encode_image(image, 'JPEG')).icc == profile() + b'another'
    np.testing.assert_array_equal(decode_image(saved()).rgb, image.rgb)


def test_a_turned_avif_lies_as_it_did(tmp_path):
    data = saved(format='AVIF', exif=exif(6), quality=100, subsampling='4:4:4')
    image = decode_image(data)
    assert image.rgb.shape == (32, 24, 3)
    again = decode_image(encode_image(image, 'AVIF', quality=100))
    assert again.rgb.shape == (32, 24, 3)
    np.testing.assert_allclose(again.rgb, image.rgb, atol=0.03)


@pytest.mark.skipif(not open_heif(), reason='pillow-heif is not installed')
def test_a_turned_heic_is_upright_once():
    image = decode_image(saved(format='HEIF', exif=exif(6), quality=100))
    assert image.rgb.shape == (32, 24, 3)
    assert decode_image(encode_image(image, 'PNG')).rgb.shape == (32, 24, 3)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'v/1\x01' + bytes(40), 'an OpenEXR picture of floating-point values'),
        (b'\xff\x0a' + bytes(40), 'a JPEG XL picture'),
        (b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(40), 'a JPEG XL picture'),
        (b'8BPS' + bytes(40), 'a Photoshop document'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer'),
    ],
)
def test_known_formats_are_refused_by_name(data, message):
    with pytest.raises(UserError, match=f'image: is {message}'):
        decode_image(data)


def test_float_tiffs_are_refused_by_name(tmp_path):
    buffer = io.BytesIO()
    PIL.Image.fromarray(smooth()[..., 0]).save(buffer, 'TIFF')
    with pytest.raises(UserError, match='floating-point'):
        decode_image(buffer.getvalue())
    cv2 = pytest.importorskip('cv2')
    cv2.imwrite(str(tmp_path / 'a.tif'), smooth())
    with pytest.raises(UserError, match='a.tif: .*floating-point'):
        read_image(tmp_path / 'a.tif')


def test_heic_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, 'open_heif', lambda: False)
    monkeypatch.setattr('vmambair_arch.images.image_io.open_heif', lambda: False)
    with pytest.raises(UserError, match='pip install pillow-heif'):
        decode_image(b'\0\0\0\x18ftypheic' + bytes(200))
    with pytest.raises(UserError, match='pip install pillow-heif'):
        format_of(tmp_path / 'a.heic')


def test_depth_that_pillow_does_not_give_is_said(caplog):
    cv2 = pytest.importorskip('cv2')
    ok, data = cv2.imencode('.jp2', np.rint(smooth(128, 160) * 65535).astype(np.uint16))
    assert ok
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        decode_image(data.tobytes(), name='deep.jp2')
    assert 'deep.jp2: read with 8 of its 16' in caplog.text


@settings(max_examples=40, deadline=None)
@given(low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6), dtype=st.sampled_from([np.float32, np.float64]))
def test_floats_outside_of_0_to_1_are_refused_with_what_was_seen(low, high, dtype):
    low, high = sorted((low, high))
    array = np.array([[low, high], [low, low]], dtype)
    if low >= 0 and high <= 1:
        assert from_array(array).rgb.max() == pytest.approx(high, abs=1e-6)
    elif low < -0.001 or high > 1.001:
        with pytest.raises(UserError, match=r'must be in 0\.\.1, got values from'):
            from_array(array)


def test_a_picture_of_0_to_255_gets_a_hint():
    with pytest.raises(UserError, match='got values from 3 to 250; divide it by 255'):
        from_array(np.array([[3.0, 250.0]]))
    with pytest.raises(UserError, match='nan'):
        from_array(np.array([[0.0, np.nan]]))


def test_a_mistyped_suffix_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"'.pgn' \(did you mean '.png'\?\)"):
        format_of(tmp_path / 'a.pgn')
    assert format_of('A.JFIF') == 'JPEG'
    assert set(SUFFIXES.values()) == set(KINDS)
