from __future__ import annotations

import numpy as np
import pytest
import torch

from realesrgan_pipeline.noise import gaussian_noise, poisson_noise, poisson_quantile


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_counts_are_poisson_quantiles():
    stats = pytest.importorskip('scipy.stats')
    z = normal(40_000)
    level = torch.arange(40_000) % 256
    for exponent in (0, 4, 8):
        counts = poisson_quantile(level, torch.tensor(exponent), z).numpy()
        rate = level.numpy() / 255 * 2.0**exponent
        expected = np.where(rate > 0, stats.poisson.ppf(stats.norm.cdf(z.double().numpy()), rate), 0)
        # A number within float32's reach of a step may fall on either side of it.
        assert (counts != expected).mean() < 1e-4
        assert np.abs(counts - expected).max() <= 1


@pytest.mark.parametrize('gray', [False, True])
def test_poisson_noise_has_the_statistics_of_basicsrs(basicsr_degradations, gray):
    # Fields of known values: the variance of the noise is v / peak, with the peak from the number of distinct values.
    rows = torch.tensor([10, 60, 120, 250.0]).repeat_interleave(40) / 255
    image = rows.view(1, 1, 160, 1).expand(1, 3, -1, 160)
    noise = poisson_noise(image, normal(1, 1 if gray else 3, 160, 160), torch.tensor([2.0])) - image
    torch.manual_seed(0)
    theirs = basicsr_degradations.generate_poisson_noise_pt(image, scale=2.0, gray_noise=float(gray))
    if gray:
        assert (noise == noise[:, :1]).all()
        noise, theirs = noise[:, :1], theirs[:, :1]
    for value in image.unique():
        there = (image == value)[:, : noise.shape[1]]
        ours, reference = noise[there], theirs[there]
        expected = 2 * (value / 4).sqrt()
        error = expected / len(ours) ** 0.5
        assert abs(ours.mean()) < 4 * error
        assert ours.std() == pytest.approx(expected.item(), rel=0.05)
        assert ours.std() == pytest.approx(reference.std().item(), rel=0.05)


def test_peak_is_found_for_each_image_and_follows_the_luma(basicsr_degradations):
    image = torch.rand(2, 3, 60, 60, generator=torch.Generator().manual_seed(1))
    image[1] = (image[1] * 5).round() / 5
    for channels in (1, 3):
        noise = poisson_noise(image, normal(2, channels, 60, 60), torch.ones(2)) - image
        torch.manual_seed(1)
        theirs = basicsr_degradations.generate_poisson_noise_pt(image, gray_noise=float(channels == 1))
        for ours, reference in zip(noise, theirs, strict=True):
            assert ours.std() == pytest.approx(reference.std().item(), rel=0.08)


@pytest.mark.parametrize('channels', [1, 3])
def test_gaussian_noise_has_its_sigma(channels):
    image = torch.full((2, 3, 100, 100), 0.5)
    noise = (gaussian_noise(image, normal(2, channels, 100, 100), torch.tensor([3.0, 30.0])) - image) * 255
    assert noise[0].std() == pytest.approx(3, rel=0.03)
    assert noise[1].std() == pytest.approx(30, rel=0.03)
    assert noise.mean().abs() < 0.5
    assert (noise[:, 0] == noise[:, 1]).all() == (channels == 1)


def test_a_slightly_different_image_gets_nearly_the_same_noise():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    other = image + 1e-6 * normal(1, 3, 64, 64, seed=1)
    z, scale = normal(1, 3, 64, 64, seed=2), torch.tensor([1.0])
    difference = (poisson_noise(image, z, scale) - poisson_noise(other, z, scale)).abs() * 255
    assert (difference > 1).float().mean() < 1e-3
