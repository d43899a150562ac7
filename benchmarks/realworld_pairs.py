"""Patches for distilling real-world super-resolution: python -m benchmarks.realworld_pairs FOLDER ... --teacher FILE

    python -m benchmarks.realworld_pairs datasets/photographs --teacher RealESRGAN_x4plus.pth \\
        --out datasets/RealSRPairs/train --count 800
    python -m benchmarks.realworld_pairs datasets/photographs datasets/buildings --weights 0.6 0.4 --facades 0.15 \\
        --out datasets/RealSRTruths --count 2400

Crops of clean photographs at random sizes, their degradations (Real-ESRGAN's, one 64 x 64 patch each), and what the
teacher makes of those, as `gt`, `lq` and `label` under one name: what `dataroot_label` of an option file reads. The
teacher shifts colours by some levels; its labels get the low frequencies of the truth, so that the student does not
learn that. About 1.2 s a patch on one core, half of it with `--bf16` on a CPU that computes in it; a run that was
broken off goes on where it was. Draws depend on the seed and the number of the patch alone. `--facades 0.2` draws a
fifth of the truths (`benchmarks.facades`) where the input still shows their lines, and these are their own labels.
Without a teacher there are truths only, in `gt`, for trainings that degrade as they go.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from realesrgan_pipeline import Degradation, DegradationConfig, image_generator
from vmambair_arch.data.pairs import folder_images
from vmambair_arch.errors import UserError, guard
from vmambair_arch.host import computes_in_bf16
from vmambair_arch.images.image_io import Image, write_image

from .arguments import natural, positive
from .facades import facade
from .realworld import SCALE, Pixels, read, teacher

DRAWINGS, SMOOTH, SHOWN = 4, 3.0, 0.6
"""Walls that are drawn for a patch before a photograph takes its place; levels below which one has no lines; the least
correlation of an input's lines with those of its truth."""
SIZE, TRIES, SMALLEST, SIGMA = 256, 3, 0.22, 16.0
"""Pixels of a truth; crops of which the one with most detail is kept; the smallest reduction of a photograph; the
standard deviation of the blur that parts low frequencies from detail, in pixels."""


def crop(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A patch of 256 x 256 from a photograph at a random size, so that it holds sharp detail of any size."""
    h, w = image.shape[:2]
    low = min(max(SIZE / min(h, w), SMALLEST), 1.0)
    factor = float(np.exp(rng.uniform(np.log(low), 0)))
    size = (max(round(w * factor), min(SIZE, w)), max(round(h * factor), min(SIZE, h)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    bottom, right = (max(SIZE - n, 0) for n in image.shape[:2])
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)
    candidates = []
    for _ in range(TRIES):
        top, left = (int(rng.integers(n - SIZE + 1)) for n in image.shape[:2])
        candidates.append(image[top : top + SIZE, left : left + SIZE])
    best = max(candidates, key=lambda patch: float(np.abs(np.diff(patch.astype(np.float32), axis=1)).mean()))
    return np.ascontiguousarray(best[:, ::-1] if rng.random() < 0.5 else best)


def shows(small: Pixels, truth: Pixels) -> bool:
    """Whether an input shows the lines of its truth, or there are none: who learns lines from noise draws them there.

    Args:
        small: RGB uint8 (h, w, 3).
        truth: RGB uint8, whole times as large.
    """
    h, w = small.shape[:2]
    seen, there = small.mean(2), cv2.resize(truth, (w, h), interpolation=cv2.INTER_AREA).mean(2)
    seen, there = (image - cv2.GaussianBlur(image, (0, 0), 4) for image in (seen, there))
    if there.std() < SMOOTH:
        return True
    return float((seen * there).mean() / (seen.std() * there.std() + 1e-6)) > SHOWN


def with_colours_of(truth: Pixels, label: Pixels) -> Pixels:
    """A label with the low frequencies of the truth, RGB uint8."""
    difference = cv2.GaussianBlur(
        truth.astype(np.float32) - label.astype(np.float32), (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT
    )
    return np.rint((label + difference).clip(0, 255)).astype(np.uint8)


def make(
    folders: list[Path],
    teacher_file: Path | None,
    out: Path,
    count: int,
    seed: int,
    *,
    facades: float = 0,
    weights: list[float] | None = None,
    bf16: bool = False,
) -> int:
    """Write the patches that are not there yet.

    Args:
        folders: of clean photographs.
        teacher_file: see `realworld.teacher`; None makes truths alone.
        out: gets the folders `gt`, `lq` and `label`.
        count: patches in all.
        seed: of every draw.
        facades: share of truths that are drawn, 0 to 1.
        weights: how often a folder is drawn from, one each; None: each photograph is as likely as any other.
        bf16: see `realworld.teacher`.

    Returns:
        How many were made.

    Raises:
        UserError: no photographs, weights that are not one for each folder, a teacher that cannot be read, or `bf16`
            where it would be slower.
    """
    if bf16 and not computes_in_bf16():
        raise UserError('--bf16: this processor computes in bfloat16 only by detours, far slower than without')
    if weights and len(weights) != len(folders):
        raise UserError(f'--weights: {len(weights)} for {len(folders)} folders; one for each')
    if weights and not (min(weights) >= 0 and 0 < sum(weights) < np.inf):
        raise UserError('--weights: none may be negative, and one must be above 0')
    if not 0 <= facades <= 1:
        raise UserError(f'--facades: {facades:g} is no share from 0 to 1')
    found = [folder_images(folder) for folder in folders]
    files = [path for paths in found for path in paths]
    chances = np.cumsum(weights) / np.sum(weights) if weights else None
    enlarge = teacher(teacher_file, None, bf16) if teacher_file else None
    degrade = Degradation(DegradationConfig(scale=SCALE))
    made = 0
    for number in tqdm(range(count), desc='patches', disable=None):
        name = f'{number:05}.png'
        if (out / 'gt' / name).exists():  # written last
            continue
        rng = np.random.default_rng((seed, number))
        drawn = facades > 0 and rng.random() < facades
        drawn_from = files if chances is None else found[int(np.searchsorted(chances, rng.random(), 'right'))]
        truth = crop(read(drawn_from[int(rng.integers(len(drawn_from)))]), rng)
        if enlarge is None:
            truth = facade(rng, SIZE, truth) if drawn else truth
            write_image(out / 'gt' / name, Image(truth / np.float32(255)))
            made += 1
            continue
        photograph = truth
        for attempt in range(DRAWINGS + 1):
            drawn = drawn and attempt < DRAWINGS
            truth = facade(rng, SIZE, photograph) if drawn else photograph
            gt = torch.from_numpy(truth.transpose(2, 0, 1).copy())[None].float() / 255
            lq, _ = degrade(gt, [image_generator(seed, number, attempt)])
            small = np.rint(lq[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            if not drawn or shows(small, truth):
                break
        label = truth if drawn else with_colours_of(truth, enlarge(small))
        for kind, image in (('lq', small), ('label', label), ('gt', truth)):
            write_image(out / kind / name, Image(image / np.float32(255)))
        made += 1
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folders', nargs='+', type=Path, help='of clean photographs')
    parser.add_argument('--teacher', type=Path, help="Real-ESRGAN's x4plus generator; without it truths only")
    parser.add_argument('--weights', type=float, nargs='+', metavar='W', help='how often each folder is drawn from')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--count', type=positive, default=800)
    parser.add_argument('--seed', type=natural, default=1)
    parser.add_argument('--facades', type=float, default=0, metavar='SHARE', help='of truths that are drawn walls')
    parser.add_argument('--bf16', action='store_true', help='the teacher computes in bfloat16')
    args = parser.parse_args()
    made = make(
        args.folders,
        args.teacher,
        args.out,
        args.count,
        args.seed,
        facades=args.facades,
        weights=args.weights,
        bf16=args.bf16,
    )
    print(f'{made} patches into {args.out}')


if __name__ == '__main__':
    sys.exit(guard(main))
