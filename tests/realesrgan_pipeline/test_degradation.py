from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch

from realesrgan_pipeline import Degradation, DegradationConfig, image_generator
from realesrgan_pipeline.config import RESIZE_MODES
from realesrgan_pipeline.jpeg import jpeg
from realesrgan_pipeline.kernels import blur_kernels, sinc_kernels
from realesrgan_pipeline.noise import gaussian_noise, poisson_noise


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_gives_the_same_bits(picture):
    batch = picture.expand(5, -1, -1, -1)
    lq, drawn = Degradation()(batch, generator(3))
    again, drawn_again = Degradation()(batch, generator(3))
    other, _ = Degradation()(batch, generator(4))
    assert torch.equal(lq, again)
    assert [drawn.describe(i) for i in range(5)] == [drawn_again.describe(i) for i in range(5)]
    assert not torch.equal(lq, other)
    # One picture, five degradations.
    assert len({image.numpy().tobytes() for image in lq}) == 5


def test_the_draws_leave_the_global_generators_alone(picture):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    Degradation()(picture, generator(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_an_image_is_degraded_alike_in_every_batch(picture):
    batch = torch.cat([picture, picture.flip(-1), picture.flip(-2)])
    together, _ = Degradation()(batch, [image_generator(1, i) for i in range(3)])
    for i in range(3):
        alone, _ = Degradation()(batch[i : i + 1], [image_generator(1, i)])
        assert torch.equal(alone[0], together[i])


def test_a_slightly_different_image_is_degraded_alike(picture):
    """What another device's rounding does: nearly all pixels stay within a level, before JPEG's rounding comes in."""
    config = DegradationConfig.from_options({'jpeg_range': [100, 100], 'jpeg_range2': [100, 100]})
    batch = picture.expand(8, -1, -1, -1)
    moved = batch + 1e-7 * torch.randn(batch.shape, generator=generator(0))
    lq, _ = Degradation(config)(batch, generator(5))
    other, _ = Degradation(config)(moved, generator(5))
    assert ((lq - other).abs() * 255 > 1.01).float().mean() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_a_gpu_degrades_alike(picture):
    config = DegradationConfig.from_options({'jpeg_range': [100, 100], 'jpeg_range2': [100, 100]})
    batch = picture.expand(8, -1, -1, -1)
    lq, _ = Degradation(config)(batch, generator(5))
    there, _ = Degradation(config)(batch.cuda(), generator(5))
    assert there.is_cuda
    assert ((lq - there.cpu()).abs() * 255 > 1.01).float().mean() < 1e-3


@pytest.mark.parametrize('per_batch', [False, True])
def test_the_result_is_an_8_bit_image_of_the_low_resolution(picture, per_batch):
    lq, _ = Degradation(DegradationConfig(scale=3, per_batch=per_batch))(picture.expand(6, -1, -1, -1), generator(0))
    assert lq.shape == (6, 3, 40, 29)
    levels = lq * 255
    assert 0 <= levels.min() <= levels.max() <= 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert (lq.std((2, 3)) > 0.02).all()  # the picture is still there


@pytest.mark.parametrize('size', [(4, 4), (5, 31), (64, 4), (33, 47)])
def test_any_size(size):
    for seed in range(12):
        lq, _ = Degradation()(torch.rand(2, 3, *size), generator(seed))
        assert lq.shape == (2, 3, size[0] // 4, size[1] // 4)
        assert torch.isfinite(lq).all()


@pytest.mark.parametrize('shape', [(3, 16, 16), (1, 1, 16, 16), (1, 3, 3, 16)])
def test_other_shapes_are_refused_with_the_shape(shape):
    with pytest.raises(ValueError, match=r'sides of at least 4 pixels, not \(' + ', '.join(map(str, shape))):
        Degradation()(torch.rand(shape), generator(0))


@pytest.mark.parametrize('seed', range(24))
def test_it_takes_the_steps_of_basicsr(picture, basicsr_degradations, monkeypatch, seed):
    """BasicSR's own feed_data, made to draw what was drawn here, gives the same image."""
    from basicsr.models import realesrgan_model
    from basicsr.utils.img_process_util import filter2D

    key = image_generator(9, seed)
    lq, drawn = Degradation()(picture, [image_generator(9, seed)])
    torch.rand(64, dtype=torch.float64, generator=key)  # the table of draws; the noise follows
    first, second = drawn.first, drawn.second

    def kernel(order):
        names = ('sigma_x', 'sigma_y', 'rotation', 'beta', 'cutoff')
        return blur_kernels(order.family, order.kernel_size, **{name: getattr(order, name) for name in names})

    pulse = torch.zeros(1, 21, 21)
    pulse[:, 10, 10] = 1
    final = sinc_kernels(drawn.final_size, drawn.final_cutoff) if drawn.final_sinc else pulse

    def noise(order):
        def add(image, **_):
            z = torch.randn(1, 1 if order.gray else 3, *image.shape[-2:], generator=key)
            return (gaussian_noise if order.gaussian else poisson_noise)(image, z, order.noise.float()).clamp(0, 1)

        return add

    def resize_draws(order):
        factor = order.factor.item()
        return {1: 'up', 0: 'keep', -1: 'down'}[int(np.sign(factor - 1))], factor

    names, factors = zip(*(resize_draws(order) for order in (first, second)), strict=True)
    uniform = []
    for order, factor in zip((first, second), factors, strict=True):
        if order is second:
            uniform.append(0.0 if second.blurs else 0.99)
        if factor != 1:
            uniform.append(factor)
        uniform.append(0.0)  # the kind of noise is decided by what stands in for it below
    uniform.append(0.0 if drawn.jpeg_last else 0.99)
    modes = [first.mode, second.mode, drawn.final_mode]
    qualities = iter((first.quality, second.quality))
    noises = iter((noise(first), noise(second)))

    monkeypatch.setattr(realesrgan_model.random, 'choices', Mock(side_effect=[[name] for name in names]))
    monkeypatch.setattr(realesrgan_model.random, 'choice', Mock(side_effect=[RESIZE_MODES[mode] for mode in modes]))
    monkeypatch.setattr(realesrgan_model.np.random, 'uniform', Mock(side_effect=uniform))
    monkeypatch.setattr(realesrgan_model, 'random_add_gaussian_noise_pt', lambda image, **_: next(noises)(image))
    monkeypatch.setattr(realesrgan_model, 'filter2D', lambda image, k: filter2D(image.contiguous(), k))

    model = realesrgan_model.RealESRGANModel.__new__(realesrgan_model.RealESRGANModel)
    model.device, model.is_train = torch.device('cpu'), True
    model.usm_sharpener = lambda image: image
    model.jpeger = lambda image, quality: jpeg(image, next(qualities).float())
    model.opt = {
        'scale': 4,
        'gt_size': 88,
        'queue_size': 1,
        'resize_prob': None,
        'resize_prob2': None,
        'resize_range': [0, 2],
        'resize_range2': [0, 2],
        'gray_noise_prob': 0,
        'gray_noise_prob2': 0,
        'gaussian_noise_prob': 0.5,
        'gaussian_noise_prob2': 0.5,
        'noise_range': None,
        'noise_range2': None,
        'jpeg_range': [1, 2],
        'jpeg_range2': [1, 2],
        'second_blur_prob': 0.8,
    }
    monkeypatch.setattr(realesrgan_model, 'paired_random_crop', lambda gt, lq, *_: (gt, lq))
    monkeypatch.setattr(model, '_dequeue_and_enqueue', lambda: None)
    model.feed_data({'gt': picture, 'kernel1': kernel(first), 'kernel2': kernel(second), 'sinc_kernel': final})

    difference = (model.lq - lq).abs() * 255
    # FFT and convolution round differently; now and then that moves a coefficient of JPEG across a half.
    assert (difference > 0.5).float().mean() < 0.02
    assert difference.max() < 40
