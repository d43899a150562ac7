"""Our metrics beside values computed another way: python -m benchmarks.metrics

PSNR and SSIM against BasicSR and scikit-image on photographs with noise, and, where the folders are given, LPIPS on the
example images of its repository and PSNR on Y of data whose figure is known. Writes results/metrics.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from vmambair_arch.data.pairs import folder_images
from vmambair_arch.data.photographs import photographs
from vmambair_arch.errors import guard
from vmambair_arch.files import replacing
from vmambair_arch.images.image_io import read_image
from vmambair_arch.metrics.perceptual import dists, lpips
from vmambair_arch.metrics.psnr_ssim import psnr, ssim

RESULTS = Path(__file__).parent / 'results' / 'metrics.md'
Row = tuple[str, str, float, str, float]
"""Metric, image, ours, whose value it is compared with, that value."""


def noisy_photographs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    for photograph in photographs():
        noisy = photograph.image + rng.normal(0, 4, photograph.image.shape)
        yield photograph.name, np.rint(noisy.clip(0, 255)).astype(np.uint8), photograph.image


def compare_pixels() -> Iterator[Row]:
    """PSNR and SSIM, RGB and Y, rounded and not."""
    from basicsr.metrics import calculate_psnr, calculate_ssim
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    gaussian = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False, 'data_range': 255}
    for name, image, truth in noisy_photographs():
        bgr, bgr_truth = image[..., ::-1], truth[..., ::-1]
        rounded, rounded_truth = _rounded_luma(image), _rounded_luma(truth)
        yield 'PSNR (RGB)', name, psnr(image, truth), 'BasicSR', calculate_psnr(bgr, bgr_truth, 0)
        yield 'SSIM (RGB)', name, ssim(image, truth), 'BasicSR', calculate_ssim(bgr, bgr_truth, 0)
        on_y = {'y_channel': True}
        theirs = calculate_psnr(bgr, bgr_truth, 4, test_y_channel=True)
        yield 'PSNR (Y), border 4', name, psnr(image, truth, crop_border=4, **on_y), 'BasicSR', theirs
        theirs = calculate_ssim(bgr, bgr_truth, 4, test_y_channel=True)
        yield 'SSIM (Y), border 4', name, ssim(image, truth, crop_border=4, **on_y), 'BasicSR', theirs
        theirs = peak_signal_noise_ratio(rounded_truth, rounded, data_range=255)
        on_y['y_rounding'] = 'matlab'
        yield 'PSNR (Y rounded)', name, psnr(image, truth, **on_y), 'scikit-image', theirs
        theirs = structural_similarity(rounded, rounded_truth, **gaussian)
        yield 'SSIM (Y rounded)', name, ssim(image, truth, **on_y), 'scikit-image', theirs


def _rounded_luma(image: np.ndarray) -> np.ndarray:
    """MATLAB's Y of an 8-bit image in whole numbers, half a level up: (h, w, 3) -> (h, w)."""
    total = image.astype(np.int64) @ np.array([65481, 128553, 24966])
    return ((total + 127_500) // 255_000 + 16).astype(np.float64)


def compare_lpips(folder: Path, weights: Path) -> Iterator[Row]:
    """The examples of the lpips repository, whose README and tests quote the values."""
    reference, *images = (read_image(folder / f'ex_{name}.png').rgb for name in ('ref', 'p0', 'p1'))
    for net, values in (('alex', (0.722, 0.138)), ('vgg', (0.569, 0.422))):
        for name, image, value in zip(('ex_p0', 'ex_p1'), images, values, strict=True):
            yield f'LPIPS ({net})', name, lpips(image, reference, net=net, weights=weights), 'its repository', value
    for name, image in zip(('ex_p0', 'ex_p1'), images, strict=True):
        yield (
            'DISTS',
            name,
            dists(image, reference, weights=weights),
            'dists-pytorch',
            _package_dists(image, reference, weights),
        )


def _package_dists(image: np.ndarray, reference: np.ndarray, weights: Path) -> float:
    """The package's own class, with the weights handed in that it would download."""
    from types import SimpleNamespace
    from unittest.mock import patch

    import DISTS_pytorch
    import torch
    from torchvision.models import vgg

    from vmambair_arch.checkpoints.backbones import imagenet_features
    from vmambair_arch.metrics.perceptual import as_tensor

    features = vgg.make_layers(vgg.cfgs['D'])
    features.load_state_dict(imagenet_features('vgg16', weights))
    with patch('torchvision.models.vgg16', lambda **_: SimpleNamespace(features=features)):
        network = DISTS_pytorch.DISTS(load_weights=False)
    channels = torch.load(Path(DISTS_pytorch.__path__[0]) / 'weights.pt', weights_only=True)
    network.alpha.data, network.beta.data = channels['alpha'], channels['beta']
    return network.to(as_tensor(image).device)(as_tensor(image), as_tensor(reference)).item()


def compare_known(images: Path, truths: Path, value: float) -> Iterator[Row]:
    """The average PSNR on Y of two folders with the same names."""
    on_y = partial(psnr, y_channel=True)
    pairs = zip(folder_images(images), folder_images(truths), strict=True)
    values = [on_y(read_image(image).rgb, read_image(truth).rgb) for image, truth in pairs]
    yield (
        'PSNR (Y)',
        f'{len(values)} pairs of {truths.parent.name}',
        float(np.mean(values)),
        'measured by others',
        value,
    )


def table(rows: list[Row]) -> str:
    lines = [
        '| metric | image | ours | compared with | value | difference |',
        '| --- | --- | ---: | --- | ---: | ---: |',
    ]
    for metric, image, ours, whose, theirs in rows:
        lines.append(f'| {metric} | {image} | {ours:.6f} | {whose} | {theirs:.6f} | {abs(ours - theirs):.1e} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.metrics', description=__doc__.splitlines()[0])
    parser.add_argument(
        '--lpips', nargs=2, type=Path, metavar=('IMAGES', 'WEIGHTS'), help='ex_ref.png, … and backbones'
    )
    parser.add_argument('--known', nargs=3, action='append', default=[], metavar=('IMAGES', 'TRUTHS', 'DB'))
    options = parser.parse_args()
    rows = list(compare_pixels())
    if options.lpips:
        rows += compare_lpips(*options.lpips)
    for images, truths, value in options.known:
        rows += compare_known(Path(images), Path(truths), float(value))
    text = table(rows)
    with replacing(RESULTS) as temporary:
        temporary.write_text(text, encoding='utf-8')
    print(text)


if __name__ == '__main__':
    sys.exit(guard(main))
