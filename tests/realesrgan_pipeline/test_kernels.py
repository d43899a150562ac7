from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from realesrgan_pipeline import DegradationConfig, image_generator
from realesrgan_pipeline.config import KERNEL_FAMILIES
from realesrgan_pipeline.draws import draw
from realesrgan_pipeline.kernels import SINC, blur, blur_kernels, sinc_kernels


def drawn_kernels(order, images):
    """Kernels of the first `images` images, 21 x 21."""
    draws = {
        name: getattr(order, name)[images] for name in ('family', 'sigma_x', 'sigma_y', 'rotation', 'beta', 'cutoff')
    }
    return blur_kernels(draws.pop('family'), order.kernel_size[images], **draws)


def test_kernels_are_those_of_basicsr(basicsr_degradations):
    b = basicsr_degradations
    order = draw(DegradationConfig(), [image_generator(0, i) for i in range(300)]).first
    kernels = drawn_kernels(order, slice(None))
    seen = set()
    for i, kernel in enumerate(kernels):
        size, family = int(order.kernel_size[i]), int(order.family[i])
        sigma_x, sigma_y, theta, beta, cutoff = (
            getattr(order, name)[i].item() for name in ('sigma_x', 'sigma_y', 'rotation', 'beta', 'cutoff')
        )
        if family == SINC:
            expected = b.circular_lowpass_kernel(cutoff, size)
        else:
            isotropic = not KERNEL_FAMILIES[family].endswith('aniso')
            make, *last = {
                'iso': (b.bivariate_Gaussian,),
                'aniso': (b.bivariate_Gaussian,),
                'generalized_iso': (b.bivariate_generalized_Gaussian, beta),
                'generalized_aniso': (b.bivariate_generalized_Gaussian, beta),
                'plateau_iso': (b.bivariate_plateau, beta),
                'plateau_aniso': (b.bivariate_plateau, beta),
            }[KERNEL_FAMILIES[family]]
            expected = make(size, sigma_x, sigma_y, theta, *last, isotropic=isotropic)
        margin = (21 - size) // 2
        np.testing.assert_allclose(kernel, np.pad(expected, margin), rtol=1e-5, atol=1e-7)
        seen.add(family)
    assert seen == set(range(7))


def test_final_filter_is_basicsrs(basicsr_degradations):
    kernels = sinc_kernels(torch.tensor([7, 21]), torch.tensor([1.2, math.pi], dtype=torch.float64))
    for kernel, size, cutoff in zip(kernels, (7, 21), (1.2, math.pi), strict=True):
        expected = basicsr_degradations.circular_lowpass_kernel(cutoff, size, pad_to=21)
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)


def test_blur_is_opencvs_filter(picture):
    order = draw(DegradationConfig(), [image_generator(1)]).first
    kernel = drawn_kernels(order, slice(None))
    ours = blur(picture, kernel)[0].permute(1, 2, 0).numpy()
    theirs = cv2.filter2D(picture[0].permute(1, 2, 0).numpy(), -1, kernel[0].numpy(), borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_each_image_has_its_own_kernel(picture):
    order = draw(DegradationConfig(), [image_generator(2, i) for i in range(3)]).first
    kernels = drawn_kernels(order, slice(None))
    together = blur(picture.expand(3, -1, -1, -1), kernels)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], blur(picture, kernels[i : i + 1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [(1, 1), (1, 5), (2, 2), (9, 10), (11, 30)])
def test_images_smaller_than_the_kernel_are_mirrored_again_and_again(size):
    image = torch.rand(1, 3, *size)
    kernel = torch.rand(1, 21, 21)
    padded = np.pad(image[0].numpy(), ((0, 0), (10, 10), (10, 10)), mode='reflect')
    expected = torch.nn.functional.conv2d(torch.from_numpy(padded)[:, None], kernel[:, None])[:, 0]
    torch.testing.assert_close(blur(image, kernel)[0], expected, rtol=1e-5, atol=1e-4)


def test_sharpening_is_basicsrs(picture, basicsr_degradations):
    from basicsr.utils import USMSharp

    from realesrgan_pipeline.sharpen import usm_sharpen

    expected = USMSharp()(picture)
    assert (expected - picture).abs().max() > 0.05
    difference = (usm_sharpen(picture) - expected).abs()
    # A residual within 1e-6 of the threshold may fall on either side of it.
    assert difference.max() < 1e-3
    assert difference.mean() < 1e-6
