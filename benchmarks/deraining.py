"""What a deraining network removes, and what it leaves alone: python -m benchmarks.deraining CHECKPOINT [...]

    python -m benchmarks.deraining derain experiments/train_derain_light/models/net_g_latest.pth \\
        --pairs datasets/Rain100L/val/target datasets/Rain100L/val/input --clean Kodak24/HR

prints one column for each network (`derain` is the one in the package):

- PSNR on Y of the pairs, whole;
- the same rain nearer: the middle of each pair, as it is and enlarged two and four times by bicubic, input and target;
- pictures without rain, which must come back as they are: the mean over the folder's pictures and the worst of them,
  and the same for the photographs that `vmambair demo` shows;
- lines: targets of the pairs with lane lines, rails, railings, cables and lettering drawn into them (`data.lines`, one
  seed a picture) and no rain: PSNR where something was drawn, mean over the pictures. It is low for a network that
  takes them for rain.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from vmambair_arch.data.lines import draw_lines
from vmambair_arch.data.pairs import folder_images, list_pairs, read_file
from vmambair_arch.data.photographs import photographs
from vmambair_arch.errors import UserError, guard
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.metrics.psnr_ssim import psnr

from .arguments import positive

MIDDLE = 96
"""Side of the crops that are enlarged, pixels."""
FACTORS = (1, 2, 4)
CHANGED = 8 / 255
"""A pixel counts as drawn where a channel changed by more than this."""
CEILING, UNSEEN = 100.0, 50.0
"""dB that stand for a picture which came back without any change, and for a change that nobody sees."""

Pair = tuple[np.ndarray, np.ndarray]


def pairs_of(targets: Path, inputs: Path) -> list[Pair]:
    """Input and target, RGB uint8, of two folders."""
    section = {'dataroot_gt': str(targets), 'dataroot_lq': str(inputs)}
    return [(eight_bits(read_file(p.lq)), eight_bits(read_file(p.gt))) for p in list_pairs(section) if p.lq]


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Pixels as an 8-bit file would hold them."""
    return image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """The middle of a picture, `factor` times as large."""
    h, w = image.shape[:2]
    top, left = max(h - MIDDLE, 0) // 2, max(w - MIDDLE, 0) // 2
    middle = image[top : top + MIDDLE, left : left + MIDDLE]
    return cv2.resize(middle, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def quality(restorer: Restorer, pairs: Iterator[Pair]) -> list[float]:
    """PSNR on Y of each pair, dB, at most `CEILING`."""
    return [min(psnr(restorer(lq), gt, y_channel=True), CEILING) for lq, gt in pairs]


def kept_lines(restorer: Restorer, targets: list[np.ndarray]) -> float:
    """Mean over the targets of the PSNR of what was drawn into each, dB, each at most `UNSEEN`."""
    found = []
    for number, target in enumerate(targets):
        clean = target.astype(np.float32) / 255
        drawn = eight_bits(draw_lines(clean, np.random.default_rng(number)))
        where = np.abs(drawn / 255 - clean).max(-1) > CHANGED
        difference = (restorer(drawn).astype(np.float64) - drawn)[where]
        if len(difference):
            found.append(min(10 * np.log10(255**2 / max(np.mean(difference**2), 1e-5)), UNSEEN))
    return statistics.fmean(found)


def measure(restorer: Restorer, pairs: list[Pair], clean: list[np.ndarray]) -> dict[str, float]:
    """Every figure of one network, dB, by the name of its row."""
    rows = {'pairs': statistics.fmean(quality(restorer, iter(pairs)))}
    for factor in FACTORS:
        crops = ((enlarged(lq, factor), enlarged(gt, factor)) for lq, gt in pairs)
        rows[f'rain x{factor}, crops'] = statistics.fmean(quality(restorer, crops))
    rows['lines without rain'] = kept_lines(restorer, [gt for _, gt in pairs])
    unseen = [photograph.image for photograph in photographs('unseen')]
    for name, images in {'clean': clean, 'clean, demo': unseen}.items():
        if images:
            found = quality(restorer, ((image, image) for image in images))
            rows[f'{name}: mean'], rows[f'{name}: worst'] = statistics.fmean(found), min(found)
    return rows


class Unchanged:
    """What doing nothing reaches."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image


def table(columns: dict[str, dict[str, float]]) -> str:
    """Figures as Markdown, one column for each network."""
    rows = list(next(iter(columns.values())))
    lines = ['| PSNR, dB | ' + ' | '.join(columns) + ' |', '| --- |' + ' ---: |' * len(columns)]
    lines += [f'| {row} | ' + ' | '.join(f'{column[row]:.2f}' for column in columns.values()) + ' |' for row in rows]
    return '\n'.join(lines)


def _main() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.deraining', description=__doc__.splitlines()[0])
    parser.add_argument('checkpoints', nargs='+', help='files, or derain for the network in the package')
    parser.add_argument('--pairs', nargs=2, type=Path, required=True, metavar=('TARGETS', 'INPUTS'))
    parser.add_argument('--clean', type=Path, help='folder of pictures without rain')
    parser.add_argument('--threads', type=positive, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pairs = pairs_of(*args.pairs)
    clean = [eight_bits(read_file(str(path))) for path in folder_images(args.clean)] if args.clean else []
    columns = {}
    for name in tqdm(args.checkpoints, desc='networks', unit='network'):
        if name != 'derain' and not Path(name).exists():
            raise UserError(f'{name}: no such file')
        restorer = Restorer.from_pretrained(task='derain') if name == 'derain' else Restorer.from_pretrained(name)
        columns[Path(name).name] = measure(restorer, pairs, clean)
    print(table({'input': measure(Unchanged(), pairs, [])} | columns) if not clean else table(columns))


def main() -> int:
    return guard(_main)


if __name__ == '__main__':
    sys.exit(main())
