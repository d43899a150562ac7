"""Time and memory of a restoration over its pixels, and what tiles cost in quality: python -m benchmarks.tiles

Every size is restored by a process of its own, whose peak of resident memory is the operating system's figure: a
photograph brought to that size goes from file to file, as `vmambair restore` does it. CPU time is what other work on
the machine disturbs least. Writes `results/tiles.json` and the plot `results/tiles.png`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from vmambair_arch.errors import guard
from vmambair_arch.files import replacing

from .arguments import positive

RESULTS = Path(__file__).parent / 'results' / 'tiles.json'
SIZES = ['480x270', '960x540', '1920x1080', '3840x2160']
SEAM_TILES, SEAM_OVERLAPS, SEAM_CROP = (128, 256, 384), (0, 16, 32, 64), 512


def photograph(width: int, height: int) -> np.ndarray:
    """A rainy photograph of that size, RGB float32 (h, w, 3) in 0..1."""
    from vmambair_arch.data.photographs import photographs
    from vmambair_arch.data.rain import add_rain

    image = next(p.image for p in photographs() if p.split != 'train').astype(np.float32) / 255
    return add_rain(
        cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1), np.random.default_rng(0)
    )


def restorer(args: argparse.Namespace, **options: object) -> object:
    """The given checkpoint, or a random network of the preset, whose time and memory are the same."""
    import torch

    from vmambair_arch import Restorer, VmambaIR

    torch.set_num_threads(args.threads)
    if args.model:
        return Restorer.from_pretrained(args.model, device=args.device, **options)
    torch.manual_seed(0)
    return Restorer(VmambaIR.from_preset(args.preset), device=args.device, **options)


def peak_mb() -> float:
    """The most memory that this process has had, from Linux; getrusage would count the parent's as well."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) / 1024


def run_one(args: argparse.Namespace) -> None:
    """In the process of its own: restore the file and print what it took."""
    import torch

    from vmambair_arch.inference.restore_files import restore_files

    source, target = args.one
    network = restorer(args)
    before = peak_mb()
    start, cpu_start = time.perf_counter(), time.process_time()
    restore_files(source, target, network)
    figures = {
        'seconds': time.perf_counter() - start,
        'cpu_seconds': time.process_time() - cpu_start,
        'peak_mb': peak_mb(),
        'before_mb': before,
    }
    if network.device.type == 'cuda':
        figures['gpu_peak_mb'] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def measure_sizes(args: argparse.Namespace) -> list[dict[str, float]]:
    from vmambair_arch.images.image_io import Image, write_image

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            width, height = map(int, size.split('x'))
            source = Path(folder) / f'{size}.png'
            write_image(source, Image(photograph(width, height)))
            command = [
                sys.executable,
                '-m',
                'benchmarks.tiles',
                '--one',
                str(source),
                str(source.with_suffix('.out.png')),
            ]
            command += ['--preset', args.preset, '--threads', str(args.threads), '--device', args.device]
            command += ['--model', args.model] if args.model else []
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = {'size': size, 'pixels': width * height, **json.loads(output.splitlines()[-1])}
            row['cpu_us_per_pixel'] = round(row['cpu_seconds'] / row['pixels'] * 1e6, 3)
            rows.append(row)
            print(
                f'{size:>10}: {row["seconds"]:8.1f} s, {row["cpu_us_per_pixel"]:7.2f} us of CPU time a pixel, '
                f'peak {row["peak_mb"]:6.0f} MB'
            )
    return rows


def measure_overlaps(args: argparse.Namespace) -> list[dict[str, float]]:
    """PSNR of tiled against whole for tiles and overlaps, over the given pictures."""
    from vmambair_arch.images.image_io import read_image
    from vmambair_arch.inference.seams import measure_seams

    rows = []
    for path in args.seams:
        picture = read_image(path)
        for tile in SEAM_TILES:
            for overlap in SEAM_OVERLAPS:
                if overlap > tile // 3:
                    continue
                seams = measure_seams(restorer(args, overlap=overlap), picture, tile=tile, crop=SEAM_CROP)
                rows.append(
                    {'picture': Path(path).name, 'tile': tile, 'overlap': overlap, 'psnr': round(seams.psnr, 2)}
                )
                print(f'{rows[-1]["picture"]:>20}: {seams}')
    return rows


def plot(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    megapixels = [row['pixels'] / 1e6 for row in rows]
    for axis, key, title in ((axes[0], 'cpu_seconds', 'CPU seconds'), (axes[1], 'peak_mb', 'peak memory, MB')):
        axis.plot(megapixels, [row[key] for row in rows], 'o-')
        axis.set(xlabel='megapixels', ylabel=title, xlim=0, ylim=0)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--sizes', nargs='*', default=SIZES, metavar='WxH')
    parser.add_argument('--preset', default='light')
    parser.add_argument('-m', '--model', help='checkpoint; needed for --seams (default: random numbers in --preset)')
    parser.add_argument('--seams', nargs='*', default=[], metavar='PICTURE', help='also measure overlaps on these')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=positive, default=2)
    parser.add_argument('--one', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return run_one(args)
    if args.seams and not args.model:
        parser.error('--seams needs a trained network: --model')
    import torch

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    section = results.setdefault(args.device, {})
    about = {'network': Path(args.model).name if args.model else args.preset, 'threads': args.threads}
    about['torch'] = torch.__version__
    if args.sizes:
        section['sizes'] = about | {'rows': measure_sizes(args)}
        plot(section['sizes']['rows'], RESULTS.with_suffix('.png'))
    if args.seams:
        section['seams'] = about | {'crop': SEAM_CROP, 'rows': measure_overlaps(args)}
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + '\n')
    print(f'wrote {RESULTS}')


if __name__ == '__main__':
    sys.exit(guard(main))
