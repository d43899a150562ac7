"""What the progressive loader reads and delivers against Restormer's way, and how fast: python -m benchmarks.loader

Restormer loads every batch at the largest batch and patch size of the schedule, and cuts it down in the training loop.
Both ways run here through BasicSR's own data loader on the same pairs (481x321 JPEG, as most of Rain13K), over the
paper's schedule shortened 4000 times. Decoded images are counted, not assumed; the paper's full schedule is worked out.

`--decoders` measures instead what the one door for images costs beside OpenCV alone, which notices no damage: images a
second of both, in turns, by format.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch

import vmambair_arch  # noqa: F401 fixes basicsr
from vmambair_arch.data import pairs
from vmambair_arch.data.photographs import photographs
from vmambair_arch.data.rain import add_rain
from vmambair_arch.errors import guard
from vmambair_arch.files import replacing
from vmambair_arch.images.fast import decode_pixels
from vmambair_arch.images.image_io import Image, write_image
from vmambair_arch.options import load_options, option_file

from .arguments import natural, positive

SHORTER, PAIRS = 4000, 48
RESULTS = Path(__file__).parent / 'results' / 'loader.json'
DECODERS = RESULTS.with_name('decoders.json')


def work_out(section: dict[str, Any]) -> dict[str, float]:
    """Shares of what Restormer's way decodes and delivers that the schedule of a data section trains on."""
    sizes, batches, iters = (np.array(section[key]) for key in ('gt_sizes', 'mini_batch_sizes', 'iters'))
    images, pixels = (batches * iters).sum(), (batches * sizes**2 * iters).sum()
    loaded = batches.max() * iters.sum()
    return {
        'iterations': int(iters.sum()),
        'pairs_used': int(images),
        'pairs_restormer_decodes': int(loaded),
        'pairs_used_share': round(images / loaded, 4),
        'pixels_used_share': round(pixels / (loaded * sizes.max() ** 2), 4),
    }


def write_pairs(folder: Path) -> None:
    """Crops of photographs, clean and rainy."""
    rng = np.random.default_rng(0)
    images = [photo.image for photo in photographs()]
    for number in range(PAIRS):
        clean = images[number % len(images)][:321, :481].astype(np.float32) / 255
        write_image(folder / 'target' / f'{number}.jpg', Image(clean))
        write_image(folder / 'input' / f'{number}.jpg', Image(add_rain(clean, rng)))


def loader(section: dict[str, Any]) -> Any:
    """BasicSR's loader of a data section."""
    from basicsr.data import build_dataloader, build_dataset

    from vmambair_arch.data.iteration_sampler import IterationSampler

    dataset = build_dataset(section)
    return build_dataloader(dataset, section, num_gpu=0, sampler=IterationSampler(dataset, 1, 0), seed=0)


def ours(section: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Targets of each iteration."""
    for batch in loader(section):
        yield batch['gt']


def restormers(section: dict[str, Any]) -> Iterator[torch.Tensor]:
    """The same schedule cut out of the largest batch and patch."""
    schedule = [
        (size, batch)
        for size, batch, iters in zip(section['gt_sizes'], section['mini_batch_sizes'], section['iters'], strict=True)
        for _ in range(iters)
    ]
    largest = {'gt_size': max(section['gt_sizes']), 'batch_size_per_gpu': max(section['mini_batch_sizes'])}
    whole = {key: value for key, value in section.items() if key not in ('gt_sizes', 'mini_batch_sizes', 'iters')}
    rng = np.random.default_rng(0)
    for (size, count), batch in zip(schedule, loader(whole | largest), strict=True):
        chosen = rng.permutation(largest['batch_size_per_gpu'])[:count]
        top, left = rng.integers(largest['gt_size'] - size + 1, size=2)
        batch['lq'][chosen, :, top : top + size, left : left + size].contiguous()
        yield batch['gt'][chosen, :, top : top + size, left : left + size]


def measure(way: Any, section: dict[str, Any]) -> dict[str, float]:
    """Pairs decoded, pixels handed on, iterations a second. Decoding is counted in this process, so without workers."""
    decoded = 0
    decode = pairs.decode_pixels

    def counting(data: bytes, name: str) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        return decode(data, name)

    pairs.decode_pixels = counting
    start, iterations, pixels = time.perf_counter(), 0, 0
    for gt in way(section):
        iterations += 1
        pixels += gt[:, 0].numel()
    seconds = time.perf_counter() - start
    pairs.decode_pixels = decode
    return {
        'iterations_per_s': round(iterations / seconds, 2),
        'pairs_decoded': decoded // 2 if section['num_worker_per_gpu'] == 0 else None,
        'pixels_used': pixels,
    }


FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    'JPEG': ('JPEG', {'quality': 92}),
    'JPEG 4:4:4': ('JPEG', {'quality': 95, 'subsampling': 0}),
    'JPEG progressive': ('JPEG', {'quality': 90, 'progressive': True}),
    'PNG': ('PNG', {}),
    'WebP': ('WEBP', {'quality': 90}),
    'BMP': ('BMP', {}),
    'TIFF raw': ('TIFF', {}),
    'TIFF deflate': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
    'TIFF LZW': ('TIFF', {'compression': 'tiff_lzw'}),
}


def opencv(data: bytes) -> np.ndarray:
    """The pixels of an image by OpenCV alone."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decoders(rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of four photographs of 481x321 by OpenCV alone and by our door, the fastest of their rounds."""
    images = [PIL.Image.fromarray(photo.image[:321, :481]) for photo in photographs()[:4]]
    ways = (opencv, lambda data: decode_pixels(data, 'image'))
    rows = {}
    for name, (format, options) in FORMATS.items():
        files = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, format, **options)
            files.append(buffer.getvalue())
        for data in files:
            np.testing.assert_array_equal(ways[0](data), ways[1](data), err_msg=name)
        seconds: list[list[float]] = [[], []]
        for turn in range(2 * rounds):
            first = turn // 2 % 2  # either goes first as often
            which = (turn + first) % 2
            start = time.perf_counter()
            for data in files:
                ways[which](data)
            seconds[which].append(time.perf_counter() - start)
        plain, ours = (len(files) / min(times) for times in seconds)
        rows[name] = {'opencv': round(plain), 'ours': round(ours), 'ratio': round(ours / plain, 2)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--decoders', action='store_true', help='the decoders alone')
    parser.add_argument('--rounds', type=positive, default=101, help='of --decoders')
    parser.add_argument('--workers', type=natural, nargs='+', default=[0, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.decoders:
        cv2.setNumThreads(1)
        rows = decoders(args.rounds)
        for name, row in rows.items():
            print(f'{name:<17} OpenCV alone {row["opencv"]:>6} images/s, ours {row["ours"]:>6}: {row["ratio"]:.2f}')
        with replacing(DECODERS) as temporary:
            temporary.write_text(json.dumps(rows, indent=2) + '\n')
        return
    section = load_options(option_file('train_derain.yml'))['datasets']['train']
    results: dict[str, Any] = {'paper': work_out(section)}
    results['restormers_batches'] = work_out(section | {'mini_batch_sizes': [8, 5, 4, 2, 1, 1]})
    short = section | {'phase': 'train', 'scale': 1, 'iters': [n // SHORTER for n in section['iters']]}
    short |= {'total_iter': sum(short['iters']), 'num_replicas': 1, 'persistent_workers': False}
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder))
        short |= {'dataroot_gt': f'{folder}/target', 'dataroot_lq': f'{folder}/input'}
        for workers in args.workers:
            at = short | {'num_worker_per_gpu': workers}
            results[f'workers_{workers}'] = {'ours': measure(ours, at), 'restormer': measure(restormers, at)}
    for name in ('paper', 'restormers_batches'):
        shares = results[name]
        print(
            f'{name:<20} Restormer decodes {shares["pairs_restormer_decodes"]} pairs; used are '
            f'{shares["pairs_used_share"]:.1%}, and {shares["pixels_used_share"]:.1%} of the pixels; '
            f'here all of {shares["pairs_used"]}'
        )
    for name, ways in results.items():
        if name.startswith('workers'):
            for way, figures in ways.items():
                print(f'{name:<20} {way:<10} {figures}')
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + '\n')
    print(f'wrote {RESULTS}')


if __name__ == '__main__':
    sys.exit(guard(main))
