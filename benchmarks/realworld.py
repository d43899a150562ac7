"""Photographs as people have them, enlarged four times: python -m benchmarks.realworld --truth Kodak FOLDER ...

    python -m benchmarks.realworld --truth Kodak datasets/SR/Kodak24/HR --truth Urban datasets/SR/Urban100/HR \\
        --photos datasets/RealSRSet --teacher RealESRGAN_x4plus.pth --out realworld

Bicubic, the package's `sr` and `realsr`, networks named by `--network`, and Real-ESRGAN's x4plus where its file is at
hand. On middles of clean images under Real-ESRGAN's degradation, with fixed seeds: PSNR, LPIPS, the shift of colours, a
grid of the network's upsampling, and how far tiles are from the whole. On photographs without a truth: NIQE, and a
sheet to look at, because no figure says whether detail is right.

Writes `realworld.json`, `realworld.md` and `sheet.jpg` into the folder, and keeps there what the teacher made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from realesrgan_pipeline import Degradation, DegradationConfig, image_generator, imresize
from vmambair_arch import Restorer
from vmambair_arch.checkpoints.find import bundled
from vmambair_arch.checkpoints.load import read_pickle
from vmambair_arch.data.pairs import folder_images
from vmambair_arch.errors import UserError, guard
from vmambair_arch.files import replacing
from vmambair_arch.images.image_io import Image, read_image, write_image
from vmambair_arch.images.panel import Panel, side_by_side
from vmambair_arch.inference.seams import measure_seams
from vmambair_arch.metrics.no_reference import niqe
from vmambair_arch.metrics.perceptual import lpips
from vmambair_arch.metrics.psnr_ssim import psnr

from .arguments import positive

SCALE, SEED, BORDER = 4, 2107_10833, 4
CROP, DRAWS = 384, 3
"""Pixels of a side of the true images, and degradations of each."""
PHOTO = 160
"""Pixels of a side of the part of a photograph that is enlarged for the sheet."""
TILE, PERIOD = 48, 16
"""Side of a tile, input pixels; and of the cell of a grid, output pixels: what the first two strides of the network can
leave, and so 4 and 8 as well."""

Pixels = np.ndarray
Enlarge = Callable[[Pixels], Pixels]
"""RGB uint8 (h, w, 3) to RGB uint8 (4h, 4w, 3)."""


@dataclass(frozen=True)
class Figures:
    """Of one method on one set; means over its pictures.

    Attributes:
        psnr_y: in dB, without a border of 4 pixels.
        lpips: AlexNet's, None without its weights.
        colour: the largest difference of a channel's mean from the truth's over the whole set, in levels of 255.
        grid: see `grid`.
    """

    psnr_y: float
    lpips: float | None
    colour: float
    grid: float


def middle(image: Pixels, side: int, multiple: int = 1) -> Pixels:
    """The middle of an image, at most `side` pixels a side and whole multiples."""
    h, w = (min(n, side) // multiple * multiple for n in image.shape[:2])
    top, left = ((n - k) // 2 for n, k in zip(image.shape[:2], (h, w), strict=True))
    return np.ascontiguousarray(image[top : top + h, left : left + w])


def read(path: Path) -> Pixels:
    """RGB uint8 (h, w, 3) of a file of any kind."""
    return np.rint(read_image(path).rgb * 255).astype(np.uint8)


def degraded(truths: Iterable[Pixels], draws: int = DRAWS, crop: int = CROP) -> Iterator[tuple[Pixels, Pixels]]:
    """Input and truth: the middle of each image under several degradations, the same in every run.

    Args:
        truths: RGB uint8 (h, w, 3).
        draws: degradations of each.
        crop: largest side of a truth.
    """
    degrade = Degradation(DegradationConfig(scale=SCALE))
    for number, image in enumerate(truths):
        truth = middle(image, crop, SCALE)
        gt = torch.from_numpy(truth.transpose(2, 0, 1).copy())[None].float() / 255
        for draw in range(draws):
            lq, _ = degrade(gt, [image_generator(SEED, number, draw)])
            yield np.rint(lq[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8), truth


def degraded_photographs() -> dict[str, Pixels]:
    """Inputs for the sheet that every installation can make, by name: two draws of each unseen photograph."""
    from vmambair_arch.data.photographs import photographs

    found = photographs('unseen')
    pairs = degraded((photograph.image for photograph in found), draws=2, crop=SCALE * 64)
    names = [f'{photograph.name}, draw {draw}' for photograph in found for draw in range(2)]
    return {name: lq for name, (lq, _) in zip(names, pairs, strict=True)}


def grid(image: Pixels, period: int = PERIOD) -> float:
    """How much a pattern that repeats every `period` pixels stands out of an image, in levels of 255.

    The mean over all pixels of one phase of what differs from the four neighbours, for every phase; the standard
    deviation of those. An enlargement by pixel shuffle that treats its phases unlike leaves a grid of its scale, levels
    that do one of that times their stride; a photograph has next to none.
    """
    x = image.astype(np.float64).mean(axis=2)
    detail = x[1:-1, 1:-1] - (x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]) / 4
    h, w = (n // period * period for n in detail.shape)
    phases = detail[:h, :w].reshape(h // period, period, w // period, period).mean(axis=(0, 2))
    return float(phases.std())


def bicubic(image: Pixels) -> Pixels:
    """MATLAB's."""
    return imresize(image, SCALE)


def teacher(path: Path, kept: Path | None, bf16: bool = False) -> Enlarge:
    """Real-ESRGAN's x4plus; a result that lies in the folder `kept`, if any, is not computed again.

    Args:
        path: the generator's file.
        kept: folder of its results, or None.
        bf16: compute in bfloat16: half the time on CPUs that have it, 0.3 levels of 255 from single precision.

    Raises:
        UserError: the file is of another network.
    """
    from basicsr.archs.rrdbnet_arch import RRDBNet

    state = read_pickle(path)
    network = RRDBNet(3, 3, SCALE, 64, 23, 32)
    try:
        network.load_state_dict(state.get('params_ema', state))
    except (RuntimeError, AttributeError) as error:
        raise UserError(f'{path}: is not an x4plus generator of Real-ESRGAN ({str(error).splitlines()[0]})') from None
    network = network.float().eval()

    def enlarge(image: Pixels) -> Pixels:
        name = f'{hashlib.sha256(image.tobytes() + repr(image.shape).encode()).hexdigest()[:24]}.png'
        if kept and (kept / name).exists():
            return read(kept / name)
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
            result = network(x)[0].float().clamp(0, 1).permute(1, 2, 0).numpy()
        if kept:
            write_image(kept / name, Image(result))
        return np.rint(result * 255).astype(np.uint8)

    return enlarge


def measure(enlarge: Enlarge, pairs: list[tuple[Pixels, Pixels]], weights: Path | None, name: str = '') -> Figures:
    """One method on degraded pictures.

    Args:
        pairs: input and truth, from `degraded`.
        weights: file of AlexNet's features for LPIPS; None leaves it out.
        name: beside the progress bar.
    """
    rows, shifts = [], []
    for lq, truth in tqdm(pairs, desc=name, leave=False, disable=None):
        result = enlarge(lq)
        distance = lpips(result, truth, weights=weights) if weights else np.nan
        rows.append((psnr(result, truth, y_channel=True, crop_border=BORDER), distance, grid(result)))
        shifts.append(result.mean(axis=(0, 1)) - truth.mean(axis=(0, 1)))
    psnr_y, distance, pattern = np.mean(rows, axis=0).tolist()
    colour = float(np.abs(np.mean(shifts, axis=0)).max())
    return Figures(round(psnr_y, 3), round(distance, 4) if weights else None, round(colour, 3), round(pattern, 3))


def sheet(photos: dict[str, Pixels], methods: dict[str, Enlarge], height: int = 400) -> tuple[Pixels, dict]:
    """A row for each photograph, a column for each method.

    Returns:
        The sheet, RGB float32, and NIQE and the shift of colours against bicubic, in levels of 255, by photograph and
        method.
    """
    rows, figures = [], {}
    for name, photo in tqdm(photos.items(), desc='photographs', leave=False, disable=None):
        results = {method: enlarge(photo) for method, enlarge in methods.items()}
        reference = bicubic(photo).mean(axis=(0, 1))
        figures[name] = {
            method: {
                'niqe': round(niqe(result), 3) if min(result.shape[:2]) >= 192 else None,
                'colour': round(float(np.abs(result.mean(axis=(0, 1)) - reference).max()), 3),
            }
            for method, result in results.items()
        }
        rows.append(
            [
                Panel(result / np.float32(255), f'{method}  NIQE {figures[name][method]["niqe"] or float("nan"):.2f}')
                for method, result in results.items()
            ]
        )
    return side_by_side(rows, height=height), figures


def table(results: dict) -> str:
    """The page: `realworld.json` in Markdown."""
    lines = []
    for name, rows in results['sets'].items():
        lines += [
            f'{name}: {rows["pairs"]} pictures\n',
            '| method | PSNR on Y, dB | LPIPS (AlexNet) | colour shift, levels | grid, levels |',
            '| --- | --- | --- | --- | --- |',
        ]
        for method, row in rows['methods'].items():
            distance = '-' if row['lpips'] is None else f'{row["lpips"]:.4f}'
            lines.append(f'| {method} | {row["psnr_y"]:.2f} | {distance} | {row["colour"]:.2f} | {row["grid"]:.2f} |')
        lines.append('')
    if results['photos']:
        methods = list(next(iter(results['photos'].values())))
        heads = [f'{method}: NIQE, shift' for method in methods]
        lines += ['| photograph | ' + ' | '.join(heads) + ' |', '| --- ' * (len(methods) + 1) + '|']
        for name, row in results['photos'].items():
            cells = [f'{row[m]["niqe"] or float("nan"):.2f}, {row[m]["colour"]:.2f}' for m in methods]
            lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
        lines.append('')
    for method, line in results['seams'].items():
        lines.append(f'{method}: {line}.')
    return '\n'.join(lines).rstrip() + '\n'


def run(
    truths: dict[str, Iterable[Pixels]],
    photos: dict[str, Pixels],
    networks: dict[str, Restorer],
    out: Path,
    *,
    teacher_file: Path | None = None,
    weights: Path | None = None,
    draws: int = DRAWS,
    crop: int = CROP,
) -> dict:
    """Measure, write, and return what was written.

    Args:
        truths: clean images by the name of their set, RGB uint8.
        photos: photographs for the sheet, RGB uint8.
        networks: by the name that tables and sheet give them.
        out: folder of results.
        teacher_file: x4plus; None where it is not at hand.
        weights: of AlexNet for LPIPS; None leaves LPIPS out.
        draws, crop: as for `degraded`.
    """
    methods: dict[str, Enlarge] = {'bicubic': bicubic} | dict(networks)
    if teacher_file:
        methods['teacher'] = teacher(teacher_file, out / 'teacher')
    results: dict = {'seed': SEED, 'crop': crop, 'draws': draws, 'sets': {}, 'photos': {}, 'seams': {}}
    for name, images in truths.items():
        pairs = list(degraded(images, draws, crop))
        found = {method: asdict(measure(enlarge, pairs, weights, method)) for method, enlarge in methods.items()}
        results['sets'][name] = {'pairs': len(pairs), 'methods': found}
        for method, network in networks.items():
            if method not in results['seams'] and min(pairs[0][0].shape[:2]) > TILE:
                picture = Image(pairs[0][0] / np.float32(255))
                results['seams'][method] = str(measure_seams(network, picture, tile=TILE))
    if photos:
        picture, results['photos'] = sheet(photos, methods)
        write_image(out / 'sheet.jpg', Image(picture), quality=90)
    for name, text in (('realworld.json', json.dumps(results, indent=2) + '\n'), ('realworld.md', table(results))):
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding='utf-8')
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--truth', nargs=2, action='append', default=[], metavar=('NAME', 'FOLDER'), help='clean images, held out')
    add('--photos', type=Path, help='folder of photographs without a truth (default: degraded ones of scikit-image)')
    add('--teacher', type=Path, help="Real-ESRGAN's x4plus; left out where the file is not there")
    add('--network', nargs=2, action='append', default=[], metavar=('NAME', 'FILE'), help='a checkpoint more')
    add('--lpips-weights', type=Path, help='of AlexNet; without it LPIPS is left out')
    add('--draws', type=positive, default=DRAWS)
    add('--crop', type=positive, default=CROP)
    add('--threads', type=positive, default=2)
    add('--out', type=Path, default=Path('realworld'))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    networks = {name: Restorer.from_pretrained(name) for name in ('sr', 'realsr') if name in bundled()}
    networks |= {name: Restorer.from_pretrained(file) for name, file in args.network}
    truths = {name: map(read, folder_images(folder)) for name, folder in args.truth}
    if args.photos:
        photos = {path.name: middle(read(path), PHOTO) for path in folder_images(args.photos)}
    else:
        photos = degraded_photographs()
    teacher_file = args.teacher if args.teacher and args.teacher.exists() else None
    if args.teacher and not teacher_file:
        print(f'{args.teacher}: no such file; without the teacher')
    results = run(
        truths,
        photos,
        networks,
        args.out,
        teacher_file=teacher_file,
        weights=args.lpips_weights,
        draws=args.draws,
        crop=args.crop,
    )
    print(table(results))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    sys.exit(guard(main))
