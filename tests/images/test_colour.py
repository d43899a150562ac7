"""Results get the colours of their inputs and keep their own details."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch.images.colour import fix_colour


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(['adain', 'wavelet']), st.integers(0, 99))
def test_a_result_that_has_the_colours_stays_as_it_is(h, w, how, seed):
    picture = torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(fix_colour(picture, picture, how), picture, atol=1e-4, rtol=0)


@pytest.mark.parametrize('how', ['adain', 'wavelet'])
def test_a_cast_is_taken_away_and_details_stay(how):
    detail = 0.1 * ((torch.arange(256)[:, None] + torch.arange(256)) % 2 - 0.5)
    source = torch.stack([torch.full((64, 64), value) for value in (0.4, 0.5, 0.6)])
    source = source + 0.05 * torch.linspace(-1, 1, 64)
    result = torch.stack([torch.full((256, 256), value) for value in (0.6, 0.4, 0.3)]) + detail
    fixed = fix_colour(result, source, how)
    torch.testing.assert_close(fixed.mean((1, 2)), source.mean((1, 2)), atol=0.002, rtol=0)
    if how == 'wavelet':
        step = fixed[:, 100, 101] - fixed[:, 100, 100]
        torch.testing.assert_close(step.abs(), torch.full((3,), 0.1), atol=0.005, rtol=0)
    else:
        torch.testing.assert_close(fixed.std((1, 2)), source.std((1, 2)), atol=0.002, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_what_is_coarse_is_the_input_s_by_the_wavelet_s_definition(h, w, seed):
    draw = torch.Generator().manual_seed(seed)
    result, source = torch.rand(2, 3, h, w, generator=draw, dtype=torch.float64)
    rows = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    kernel = (rows[:, None] * rows).expand(3, 1, 3, 3)

    def coarse(image: torch.Tensor) -> torch.Tensor:
        for step in (1, 2, 4, 8, 16):
            padded = F.pad(image[None], (step,) * 4, mode='replicate')
            image = F.conv2d(padded, kernel, groups=3, dilation=step)[0]
        return image

    wanted = (result - coarse(result) + coarse(source)).clamp(0, 1)
    torch.testing.assert_close(fix_colour(result, source, 'wavelet'), wanted, atol=1e-12, rtol=0)
