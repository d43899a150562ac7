from __future__ import annotations

import math

import pytest
import torch

from realesrgan_pipeline import DegradationConfig, image_generator
from realesrgan_pipeline.config import KERNEL_FAMILIES
from realesrgan_pipeline.draws import draw
from realesrgan_pipeline.kernels import SINC

COUNT = 20_000


@pytest.fixture(scope='module')
def draws():
    return draw(DegradationConfig(), [torch.Generator().manual_seed(i) for i in range(COUNT)])


def close(share: torch.Tensor, probability: float) -> bool:
    """Within four standard deviations of a binomial share."""
    return abs(share.double().mean().item() - probability) < 4 * math.sqrt(probability * (1 - probability) / COUNT)


def test_kernel_families_have_the_published_probabilities(draws):
    for order in (draws.first, draws.second):
        assert close(order.family == SINC, 0.1)
        for family, probability in enumerate((0.45, 0.25, 0.12, 0.03, 0.12, 0.03)):
            assert close(order.family == family, 0.9 * probability), KERNEL_FAMILIES[family]


def test_choices_have_the_published_probabilities(draws):
    first, second = draws.first, draws.second
    assert first.blurs.all()
    assert close(second.blurs, 0.8)
    for order, (up, down, keep) in ((first, (0.2, 0.7, 0.1)), (second, (0.3, 0.4, 0.3))):
        assert close(order.factor > 1, up)
        assert close(order.factor < 1, down)
        assert close(order.factor == 1, keep)
        assert close(order.gaussian, 0.5)
        assert close(order.gray, 0.4)
        for mode in range(3):
            assert close(order.mode == mode, 1 / 3)
        for size in range(7, 23, 2):
            assert close(order.kernel_size == size, 1 / 8)
    assert close(draws.final_sinc, 0.8)
    assert close(draws.jpeg_last, 0.5)


def spans(values: torch.Tensor, low: float, high: float) -> bool:
    """Inside the range, and all of it is used."""
    margin = 0.01 * (high - low)
    return low <= values.min() < low + margin and high - margin < values.max() <= high


def test_ranges_are_the_published_ones(draws):
    first, second = draws.first, draws.second
    for order, sigma, factor, gaussian, poisson in (
        (first, (0.2, 3), (0.15, 1.5), (1, 30), (0.05, 3)),
        (second, (0.2, 1.5), (0.3, 1.2), (1, 25), (0.05, 2.5)),
    ):
        assert spans(order.sigma_x, *sigma)
        assert spans(order.sigma_y, *sigma)
        assert spans(order.factor, *factor)
        assert spans(order.rotation, -math.pi, math.pi)
        assert spans(order.noise[order.gaussian], *gaussian)
        assert spans(order.noise[~order.gaussian], *poisson)
        assert spans(order.quality, 30, 95)
        assert spans(order.cutoff[order.kernel_size < 13], math.pi / 3, math.pi)
        assert spans(order.cutoff[order.kernel_size >= 13], math.pi / 5, math.pi)
        plateau = (order.family == 4) | (order.family == 5)
        generalized = (order.family == 2) | (order.family == 3)
        assert spans(order.beta[plateau], 1, 2)
        assert spans(order.beta[generalized], 0.5, 4)
        # Half of the exponents on either side of 1, as BasicSR draws them.
        assert abs((order.beta[generalized] < 1).double().mean() - 0.5) < 0.05
    assert spans(draws.final_cutoff, math.pi / 3, math.pi)


def test_an_image_has_the_same_draws_in_every_batch():
    config = DegradationConfig()
    together = draw(config, [image_generator(7, 3, place) for place in range(4)])
    alone = draw(config, [image_generator(7, 3, 2)])
    assert together.describe(2) == alone.describe(0)
    assert together.describe(2) != draw(config, [image_generator(7, 4, 2)]).describe(0)


def test_per_batch_shares_what_basicsr_shares():
    draws = draw(DegradationConfig(per_batch=True), [image_generator(i) for i in range(50)])
    shared = [draws.final_mode, draws.jpeg_last]
    own = [draws.final_sinc, draws.final_cutoff]
    for order in (draws.first, draws.second):
        shared += [order.factor, order.mode, order.gaussian, order.blurs]
        own += [order.family, order.kernel_size, order.sigma_x, order.noise, order.gray, order.quality]
    assert all(len(values.unique()) == 1 for values in shared)
    assert all(len(values.unique()) > 1 for values in own)


def test_description_names_what_was_drawn():
    draws = draw(DegradationConfig(), [image_generator(0, i) for i in range(40)])
    for i in range(40):
        first, second = draws.describe(i)
        assert f'jpeg {draws.first.quality[i]:.0f}' in first
        assert ('sinc' in second.split('resize back')[1]) == bool(draws.final_sinc[i])
        assert second.endswith(f'jpeg {draws.second.quality[i]:.0f}') == bool(draws.jpeg_last[i])
        assert ('no blur' in second) != bool(draws.second.blurs[i])
