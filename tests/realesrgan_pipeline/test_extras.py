"""Steps beside the published ones: off by default, seeded like everything else, and each does what its name says."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realesrgan_pipeline import Degradation, DegradationConfig, image_generator
from realesrgan_pipeline.config import CODECS, SUBSAMPLINGS
from realesrgan_pipeline.draws import draw, select
from realesrgan_pipeline.extras import add_halos, encode_and_decode, missing_codecs, print_dots, recode, subsample
from realesrgan_pipeline.jpeg import TO_YCBCR

ALL = {'screentone_prob': 1, 'halo_prob': 1, 'subsampling_prob': 1, 'codec_prob': 1, 'codec_prob2': 1}


def generators(count: int) -> list[torch.Generator]:
    return [image_generator(7, i) for i in range(count)]


def drawn(count: int = 1, **options):
    return draw(DegradationConfig.from_options(options), generators(count)).extra


def video(codec: str) -> str:
    if CODECS[codec][0]:
        pytest.importorskip('av')
    return codec


def test_the_published_draws_are_the_same_with_and_without_further_steps():
    plain = draw(DegradationConfig(), generators(5))
    more = draw(DegradationConfig.from_options(ALL), generators(5))
    for name in ('first', 'second'):
        a, b = getattr(plain, name), getattr(more, name)
        assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    assert torch.equal(plain.jpeg_last, more.jpeg_last)
    assert not plain.extra.halo.any()
    assert (plain.extra.codec < 0).all()


def test_everything_together_is_seeded_and_described(picture):
    pytest.importorskip('av')
    batch = picture.expand(6, -1, -1, -1)
    degrade = Degradation(DegradationConfig.from_options(ALL))
    lq, what = degrade(batch, generators(6))
    again, _ = degrade(batch, generators(6))
    assert torch.equal(lq, again)
    text = ' '.join(line for i in range(6) for line in what.describe(i))
    assert 'screentone' in text
    assert 'halo' in text
    assert 'chroma 4:' in text
    assert any(f'{codec} ' in text for codec in CODECS)
    assert 'jpeg' not in text
    # An image alone is degraded as in its batch.
    alone, _ = degrade(batch[2:3], generators(6)[2:3])
    assert torch.equal(alone[0], lq[2])


def test_dots_are_dark_and_keep_the_mean_of_a_grey():
    grey = torch.full((1, 3, 96, 96), 0.6)
    printed = print_dots(grey, drawn(screentone_prob=1, screentone_range=[6, 6]))
    assert printed.std() > 0.2
    assert printed.mean().item() == pytest.approx(0.6 + 0.15 * 0.4, abs=0.08)  # the ink itself is not black
    colour = torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    inked = print_dots(colour, drawn(screentone_prob=1))
    assert torch.allclose(inked[:, 1] / inked[:, 0], torch.tensor(0.5), atol=1e-3), 'the hue stays'


def test_a_halo_overshoots_beside_an_edge_and_leaves_flat_parts_alone():
    image = torch.full((1, 3, 40, 40), 0.3)
    image[..., 20:] = 0.6
    sharp = add_halos(image, drawn(halo_prob=1, halo_range=[1, 1]))
    assert sharp.max() > 0.62
    assert sharp.min() < 0.28
    assert torch.allclose(sharp[..., :8], image[..., :8], atol=1e-5)


@pytest.mark.parametrize('name', SUBSAMPLINGS)
def test_chroma_is_averaged_and_luma_stays(name):
    image = 0.25 + 0.5 * torch.rand(1, 3, 21, 18, generator=torch.Generator().manual_seed(0))
    coarse = subsample(image, drawn(subsampling_prob=1, subsampling_list=[name]))
    weights = torch.tensor(TO_YCBCR)
    before, after = (torch.einsum('ij,bjhw->bihw', weights, x) for x in (image, coarse))
    inside = (coarse > 0).all(1) & (coarse < 1).all(1)
    assert torch.allclose(before[:, 0][inside], after[:, 0][inside], atol=1e-4)
    rows, columns = SUBSAMPLINGS[name]
    block = after[0, 1, :rows, :columns]
    assert block.std(unbiased=False) < 1e-4 or not inside[0, :rows, :columns].all()
    assert after[:, 1].std() < before[:, 1].std()


@pytest.mark.parametrize('codec', CODECS)
def test_a_worse_quality_is_a_larger_error_and_the_same_bits_every_time(picture, codec):
    video(codec)
    pixels = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    error = []
    for quality in (0.0, 1.0):
        decoded = encode_and_decode(pixels, codec, quality)
        assert decoded.shape == pixels.shape
        assert np.array_equal(decoded, encode_and_decode(pixels, codec, quality))
        error.append(np.abs(decoded.astype(float) - pixels).mean())
    assert 0.2 < error[1] < error[0] < 25, 'the picture is still there, and in its place'


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(list(CODECS)), st.floats(0, 1))
def test_any_size_and_quality(h, w, codec, quality):
    video(codec)
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    assert encode_and_decode(pixels, codec, quality).shape == (h, w, 3)


ENCODE = """
import hashlib, sys
import numpy as np
from realesrgan_pipeline.extras import encode_and_decode
for codec in sys.argv[1:]:
    digest, rng = hashlib.sha256(), np.random.default_rng(1)
    for h, w in [(16, 16), (65, 81), (32, 48)] * 20:
        tiles = rng.integers(0, 256, (h // 4 + 1, w // 4 + 1, 3), dtype=np.uint8)
        pixels = np.kron(tiles, np.ones((4, 4, 1), np.uint8))[:h, :w]
        digest.update(encode_and_decode(pixels, codec, float(rng.random())).tobytes())
    print(codec, digest.hexdigest())
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='MALLOC_PERTURB_ is of glibc')
def test_what_memory_held_before_is_in_no_picture():
    codecs = [codec for codec in CODECS if not missing_codecs([codec])]
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', ENCODE, *codecs],
            env=os.environ | {'MALLOC_PERTURB_': filling, 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE,
            text=True,
        )
        for filling in ('37', '165')
    ]
    one, other = (process.communicate()[0].splitlines() for process in processes)
    assert len(one) == len(codecs)
    assert one == other


def test_only_the_drawn_images_are_recoded(picture):
    batch = picture.expand(3, -1, -1, -1)
    codec = torch.tensor([-1, list(CODECS).index('webp'), -1])
    result = recode(batch, batch * 0.5, codec, torch.zeros(3))
    assert torch.equal(result[[0, 2]], batch[[0, 2]] * 0.5)
    assert not torch.equal(result[1], batch[1] * 0.5)
    assert select(drawn(3, **ALL), [1]).codec.shape == (1,)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'halo_prob': 2}, 'halo_prob must be a probability'),
        ({'codec_list': ['webp', 'jxl']}, 'codec_list must be a list of webp, avif, h264'),
        ({'codec_list': ['webp'], 'codec_weights': [1, 2]}, 'codec_weights has 2 weights for 1 names'),
        ({'screentone_range': [1, 3]}, 'two numbers from 2 to 1000'),
        ({'subsampling_list': []}, 'a list of 4:2:2'),
        ({'codec_weights': [0] * 6}, 'not all zero'),
        ({'halo_range': [2, float('nan')]}, 'two numbers from 0 to 100'),
        ({'halo_probb': 1}, "did you mean 'halo_prob'"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DegradationConfig.from_options(options)


def test_a_codec_that_is_not_here_is_named(monkeypatch):
    from realesrgan_pipeline import extras

    def missing(name: str):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(extras.importlib, 'import_module', missing)
    assert 'pip install av' in extras.missing_codecs(['h264'])
    assert extras.missing_codecs(['webp']) == ''


def test_small_pictures_do_no_harm_to_memory():
    """x265's look-ahead writes beyond its memory below 64 pixels: sooner or later the process is ended."""
    pytest.importorskip('av')
    rng = np.random.default_rng(0)
    for height, width in ((33, 33), (40, 33), (8, 40), (63, 62)) * 5:
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert encode_and_decode(picture, 'hevc', 0.5).shape == picture.shape
