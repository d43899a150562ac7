"""What the denoise strength does: python -m benchmarks.denoise

Photographs that no training of this project saw (from scikit-image) are reduced four times by MATLAB's bicubic, given
Gaussian noise, and enlarged by `restore --task realsr -dn STRENGTH`. The table has the PSNR on Y against the photograph
and, in brackets, how much of the noise is left: the standard deviation, in levels of 255, of what the same picture
becomes with and without it.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import numpy as np

from realesrgan_pipeline import imresize
from vmambair_arch.data.photographs import photographs
from vmambair_arch.errors import guard
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.metrics.psnr_ssim import psnr

SIDE = 256  # of a photograph's middle
SIGMAS = (0, 5, 10, 20, 30)


def middles() -> list[np.ndarray]:
    """RGB uint8 (SIDE, SIDE, 3)."""
    found = []
    for photograph in photographs('unseen'):
        top, left = ((n - SIDE) // 2 for n in photograph.image.shape[:2])
        found.append(photograph.image[top : top + SIDE, left : left + SIDE])
    return found


def noisy(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """The image with Gaussian noise of a standard deviation in levels, uint8."""
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def measure(restorer: Restorer, sigma: float) -> tuple[float, float]:
    """PSNR on Y in dB, and the noise that is left in levels, mean over the photographs."""
    quality, left = [], []
    for seed, truth in enumerate(middles()):
        small = imresize(truth, 1 / 4)
        result = restorer(noisy(small, sigma, seed))
        quality.append(psnr(result, truth, y_channel=True, crop_border=4))
        left.append(float(np.std(result.astype(float) - restorer(small).astype(float))))
    return statistics.fmean(quality), statistics.fmean(left)


def table(strengths: list[float]) -> str:
    """Markdown: a row for each strength, a column for each noise."""
    lines = [
        '| `-dn` | ' + ' | '.join(f'noise {sigma}' if sigma else 'no noise' for sigma in SIGMAS) + ' |',
        '| ---: |' + ' ---: |' * len(SIGMAS),
    ]
    for strength in strengths:
        restorer = Restorer.from_pretrained(task='realsr', denoise=strength)
        cells = [measure(restorer, sigma) for sigma in SIGMAS]
        shown = [
            f'{quality:.2f} ({left:.1f})' if sigma else f'{quality:.2f}'
            for sigma, (quality, left) in zip(SIGMAS, cells, strict=True)
        ]
        lines.append(f'| {strength:g} | ' + ' | '.join(shown) + ' |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.denoise', description=__doc__.splitlines()[0])
    parser.add_argument('--strengths', type=float, nargs='+', default=[0, 0.25, 0.5, 0.75, 1])
    print(table(parser.parse_args().strengths))


if __name__ == '__main__':
    sys.exit(guard(main))
