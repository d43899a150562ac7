"""Uncompressed TIFFs are read past their decoder: the same pixels, or not by that way."""

from __future__ import annotations

import io

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch.errors import UserError
from vmambair_arch.images import fast
from vmambair_arch.images.fast import decode_pixels
from vmambair_arch.images.image_io import decode_image

RGB = np.random.default_rng(0).integers(0, 256, (37, 45, 3), np.uint8)


def tiff(pixels: np.ndarray = RGB, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, 'TIFF', **options)
    return buffer.getvalue()


def general(data: bytes) -> np.ndarray:
    return np.rint(decode_image(data).rgb * 255).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 90), w=st.integers(1, 90), rows=st.integers(1, 90), seed=st.integers(0, 9))
def test_every_size_and_number_of_strips_is_read(h, w, rows, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    for data in (
        tiff(pixels),
        tiff(pixels, strip_size=rows * w * 3),
        tiff(pixels, big_endian=True),
        cv2.imencode('.tif', pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 1, cv2.IMWRITE_TIFF_ROWSPERSTRIP, rows])[
            1
        ].tobytes(),
    ):
        raw = fast._raw_tiff(data)
        assert raw is not None
        np.testing.assert_array_equal(raw, pixels)
        assert raw.flags.writeable


OTHER = {
    'LZW': lambda: tiff(compression='tiff_lzw'),
    'a difference': lambda: tiff(compression='tiff_adobe_deflate', tiffinfo={317: 2}),
    'grey': lambda: tiff(RGB[..., 0]),
    'alpha': lambda: tiff(np.dstack([RGB, RGB[..., :1]])),
    'turned': lambda: tiff(tiffinfo={274: 6}),
    '16 bits': lambda: cv2.imencode('.tif', RGB.astype(np.uint16) * 257, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[
        1
    ].tobytes(),
    'pages': lambda: tiff(save_all=True, append_images=[PIL.Image.fromarray(RGB)]),
    'cut off': lambda: tiff()[:-30],
}


@pytest.mark.parametrize('kind', OTHER)
def test_what_is_not_plain_is_left_to_the_decoder(kind):
    assert fast._raw_tiff(OTHER[kind]()) is None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_header_never_gives_other_pixels_than_the_decoder(data):
    """Any byte of the directory replaced: the same pixels as by Pillow, or not by this way."""
    good = tiff(strip_size=900)
    at = data.draw(st.integers(0, 300))
    changed = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    raw = fast._raw_tiff(changed)
    if raw is None:
        return
    try:
        expected = general(changed)
    except UserError:
        return  # a tag of no pixel, that Pillow takes for damage
    np.testing.assert_array_equal(raw, expected)
    np.testing.assert_array_equal(decode_pixels(changed, 'a.tif'), expected)
