"""Put a trained network into the package, if it is better than the one that is there: python -m benchmarks.shipped

    python -m benchmarks.shipped derain --measure           # what the package has, and nothing is written
    python -m benchmarks.shipped derain experiments/train_derain_light/models/net_g_latest.pth \\
        --validation Rain100L-181-200 datasets/Rain100L/val/target datasets/Rain100L/val/input --compute '2 cores, 2 h'

The parameters are stored as fp16. What that costs is measured on the same pictures and refused above 0.01 dB. The
figures go into the file and its model card, `PHOTOGRAPHS` with them: on crops of photographs that every
installation has, by which `tests/inference/test_shipped.py` holds the file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from realesrgan_pipeline import imresize
from vmambair_arch.checkpoints.card import write_card
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.find import WEIGHTS
from vmambair_arch.checkpoints.load import load_model
from vmambair_arch.data.pairs import folder_images
from vmambair_arch.data.photographs import photographs
from vmambair_arch.data.rain import add_rain
from vmambair_arch.errors import UserError, guard
from vmambair_arch.images.image_io import read_image, to_array
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.metrics.perceptual import lpips
from vmambair_arch.metrics.psnr_ssim import psnr

from . import deraining, realworld

REALSR_LIMITS = (
    'For photographs with noise, blur or JPEG blocks. Trained for a short time: strong noise leaves blotches and '
    'worms, fine texture such as fur and leaves is smoothed, and lines on walls of bricks and windows, sometimes small '
    'lettering, come out wrong. A clean picture that was only reduced is better enlarged by `sr`.'
)
ABOUT = {
    'derain': {
        'training_data': 'Rain100L, pairs 1 to 180 of its 200 training pairs, enlarged by 1 to 4 in part; synthetic '
        'rain of our own on their targets, on T91, and on photographs of scikit-image and of Debian wallpapers, '
        'upright and turned; a seventh without rain; a fifth with drawn lines and lettering that stay',
        'recipe': 'options/finetune_derain_light.yml',
        'limits': 'Trained on drawn streaks alone: drops on lenses, mist and splashes stay. Rain must fall: streaks '
        'more than 45 degrees from the vertical stay, as in pictures that lie on their side. Thin, bright, nearly '
        'vertical lines that are not rain may fade.',
        'license': 'Apache-2.0',
        'upright': True,
    },
    'realsr': {
        'training_data': '1200 patches of T91, clean training images of Rain100L (1 to 180), photographs of scikit-'
        'image and Debian wallpapers under the degradation of Real-ESRGAN: their truth, and what the x4plus network of '
        'Real-ESRGAN makes of them (RRDBNet; Copyright (c) 2021, Xintao Wang; BSD-3-Clause, in '
        'LICENSE-Real-ESRGAN.txt beside the file); then 2400 patches, degraded anew each time, of the same, of 55 '
        'photographs of buildings (GCompris, Palapeli, Hugin and scikit-learn in Debian) and of drawn walls; then, '
        'with four refinement blocks more, up to 3200 such patches with new degradations and 4077 and 3258 that are '
        'degraded once, of which the teacher labelled 1758 and the others are drawn walls at any angle',
        'recipe': 'options/finetune_realsr_walls.yml',
        'limits': REALSR_LIMITS,
        'license': 'Apache-2.0',
        'colour_fix': 'wavelet',
    },
    'sr': {
        'training_data': 'T91, the 200 clean training images of Rain100L, photographs of scikit-image and Debian '
        'wallpapers, reduced four times by MATLAB bicubic',
        'recipe': 'options/finetune_sr_light.yml',
        'limits': 'Trained on clean bicubic reductions: noise, blur and JPEG blocks of an input are enlarged with it.',
        'license': 'Apache-2.0',
    },
}
"""The licence is that of the weights; neither data set states one for its images, of which the file holds none."""

BORDER = {'derain': 0, 'sr': 4, 'realsr': 4}
PHOTOGRAPHS = {
    'derain': 'psnr_y/photographs',
    'sr': 'psnr_y/photographs-bicubic-x4',
    'realsr': 'psnr_y/photographs-degraded-x4',
}
"""Names of the figure on the photographs of every installation: each task has inputs of its own. In words:
`vmambair_arch.checkpoints.describe.DATA_SETS`."""
TOLERANCE = 0.01
"""dB that fp16 may cost, of pictures that change by more than rounding (below 40 dB)."""
LOSS = 0.2
"""dB that one figure may fall by where the others rise more; `--loss` allows another, by who has looked at pictures."""
CROP, DRY, DEGRADED = 64, 256, 128
"""Sides of what is shown of a photograph, with rain, without, and degraded, pixels."""
PER_LPIPS = 20.0
"""dB that a difference of 1 in LPIPS is worth to `better`."""

Pair = tuple[np.ndarray, np.ndarray]


def photograph_pairs(task: str) -> Iterator[Pair]:
    """Input and target, uint8: two crops of each photograph that no training may use."""
    if task == 'realsr':
        yield from realworld.degraded((p.image for p in photographs('unseen')), draws=2, crop=DEGRADED)
        return
    for number, photograph in enumerate(photographs('unseen')):
        h, w = photograph.image.shape[:2]
        for part in (1, 2):
            top, left = (h - CROP) * part // 3, (w - CROP) * part // 3
            target = np.ascontiguousarray(photograph.image[top : top + CROP, left : left + CROP])
            if task == 'sr':
                yield imresize(target, 1 / 4), target
            else:
                rainy = add_rain(target.astype(np.float32) / 255, np.random.default_rng([number, part]))
                yield np.rint(rainy * 255).astype(np.uint8), target


def folder_pairs(task: str, targets: Path, inputs: Path | None) -> Iterator[Pair]:
    """Input and target, uint8, of the files of a folder; without inputs they are made, by bicubic or degradation."""
    if task == 'realsr':
        yield from realworld.degraded(map(realworld.read, folder_images(targets)))
        return
    for path in sorted(targets.iterdir()):
        target = to_array(read_image(path), np.uint8)
        target = np.repeat(target[..., None], 3, axis=2) if target.ndim == 2 else target[..., :3]
        if task == 'sr':
            h, w = (n // 4 * 4 for n in target.shape[:2])
            target = np.ascontiguousarray(target[:h, :w])
        if inputs is None:
            if task != 'sr':
                raise UserError(f'{targets}: the task {task} needs a folder of inputs as well')
            yield imresize(target, 1 / 4), target
        else:
            yield to_array(read_image(inputs / path.name), np.uint8), target


def mean_psnr(task: str, restorer: Restorer, pairs: Iterator[Pair]) -> float:
    """Mean PSNR on Y of 8-bit results, in dB."""
    return float(np.mean([psnr(restorer(lq), gt, y_channel=True, crop_border=BORDER[task]) for lq, gt in pairs]))


def mean_lpips(restorer: Restorer, pairs: Iterator[Pair], weights: str) -> float:
    """Mean LPIPS (AlexNet) of 8-bit results."""
    return float(np.mean([lpips(restorer(lq), gt, weights=weights) for lq, gt in pairs]))


def figures(
    task: str, restorer: Restorer, validation: list[list[str]], lpips_weights: str | None = None
) -> dict[str, float]:
    found = {}
    for name, targets, *inputs in validation:
        pairs = folder_pairs(task, Path(targets), Path(inputs[0]) if inputs else None)
        found[f'psnr_y/{name}'] = mean_psnr(task, restorer, pairs)
        if task == 'realsr' and lpips_weights:
            found[f'lpips/{name}'] = mean_lpips(restorer, folder_pairs(task, Path(targets), None), lpips_weights)
    found[PHOTOGRAPHS[task]] = mean_psnr(task, restorer, photograph_pairs(task))
    if task == 'derain':
        dry = [middle(photograph.image) for photograph in photographs('unseen')]
        found['psnr_y/photographs-without-rain'] = float(np.mean(deraining.quality(restorer, ((i, i) for i in dry))))
        found['psnr_y/drawn-lines-without-rain'] = deraining.kept_lines(restorer, dry * 4)
    return found


def middle(image: np.ndarray) -> np.ndarray:
    """`DRY` x `DRY` pixels of a photograph."""
    top, left = ((n - DRY) // 2 for n in image.shape[:2])
    return np.ascontiguousarray(image[top : top + DRY, left : left + DRY])


def better(new: dict[str, float], old: dict[str, float], loss: float = LOSS) -> bool:
    """Whether a network is better on the whole: the figures' mean rises and none falls by more than `loss` dB.

    A deraining network can buy PSNR by removing whatever is thin and bright, so one figure cannot decide.
    """
    gains = [
        (figure - new[name]) * PER_LPIPS if name.startswith('lpips/') else new[name] - figure
        for name, figure in old.items()
    ]
    return float(np.mean(gains)) > 0 and min(gains) >= -loss


def _as_used(task: str, restorer: Restorer) -> Restorer:
    """A restorer that does what `vmambair restore` does with the file of a task."""
    restorer.colour_fix = ABOUT[task].get('colour_fix', 'none')
    return restorer


def ship(
    task: str,
    source: str,
    validation: list[list[str]],
    compute: str,
    say: Callable[[str], None] = print,
    lpips_weights: str | None = None,
    loss: float = LOSS,
) -> bool:
    """Write `weights/<task>.safetensors` and its card where the candidate is `better` than what the package has.

    Both are measured here, on the same pictures.

    Raises:
        UserError: fp16 costs more than `TOLERANCE`.
    """
    network = load_model(source)
    target = WEIGHTS / f'{task}.safetensors'
    full = figures(task, _as_used(task, Restorer(network)), validation, lpips_weights)
    old = Restorer.from_pretrained(target) if target.exists() else None
    before = figures(task, old, validation, lpips_weights) if old else None
    for name, figure in full.items():
        say(f'{name}: {figure:.3f}; the package has {f"{before[name]:.3f}" if before else "none"}')
    if before and not better(full, before, loss):
        return False
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / 'half.safetensors'
        save_checkpoint(stored, network, half=True)
        half = figures(task, _as_used(task, Restorer.from_pretrained(stored)), validation, lpips_weights)
    for key, value in full.items():
        say(f'{key}: {value:.4f}, from fp16 {half[key]:.4f}')
        if value - half[key] > (TOLERANCE if value < 40 else 10 * TOLERANCE):
            raise UserError(f'{key}: fp16 changes it by {half[key] - value:+.4f}, more than {TOLERANCE}')
    about = ABOUT[task] | {'task': task, 'compute': compute, 'metrics': {k: round(v, 4) for k, v in half.items()}}
    save_checkpoint(target, network, half=True, **about)
    write_card(target, target.with_suffix('.md'))
    say(f'wrote {target} and its card')
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('task', choices=sorted(ABOUT))
    parser.add_argument('checkpoint', nargs='?', help='the candidate')
    parser.add_argument('--measure', action='store_true', help='measure the network in the package, and change nothing')
    parser.add_argument('--validation', nargs='+', action='append', default=[], metavar='NAME TARGETS [INPUTS]')
    parser.add_argument('--compute', help='hardware and hours of the training, for the card')
    parser.add_argument('--lpips-weights', help="AlexNet's, for LPIPS of realsr")
    parser.add_argument(
        '--loss', type=float, default=LOSS, metavar='DB', help='what one figure may fall by (default: %(default)s)'
    )
    args = parser.parse_args()
    if args.measure:
        packaged = Restorer.from_pretrained(task=args.task)
        for name, figure in figures(args.task, packaged, args.validation, args.lpips_weights).items():
            print(f'{name}: {figure:.4f}')
        return 0
    if not args.checkpoint or not args.compute:
        raise UserError('name a checkpoint and --compute to put a network into the package, or --measure')
    shipped = ship(
        args.task,
        args.checkpoint,
        args.validation,
        args.compute,
        lpips_weights=args.lpips_weights,
        loss=args.loss,
    )
    return 0 if shipped else 1


if __name__ == '__main__':
    sys.exit(guard(main))
