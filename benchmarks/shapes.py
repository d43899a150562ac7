"""Which shape of a small network trains best in the same time: python -m benchmarks.shapes FOLDER --data DATA

    python -m benchmarks.shapes shapes --data datasets/Rain100L

trains the networks of `SHAPES` by options/train_derain_light.yml, shortened, on `DATA/train/{target,input}`, and scores
each on `DATA/val/{target,input}`. The time of a training step is measured first, the shapes in turns, and decides how
many iterations each may run in the time that the first takes for `--iterations`. What is done is kept in the folder,
and the command may be started again, or several times at once with different `--only`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from vmambair_arch.archs import VmambaIR
from vmambair_arch.commands import demo
from vmambair_arch.errors import UserError, guard
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.metrics.psnr_ssim import psnr
from vmambair_arch.options import load_options, option_file

from .arguments import natural, positive
from .kept import once, publish
from .shipped import figures, folder_pairs

BASE = 'train_derain_light.yml'


def _shape(dim: int, num_blocks: list[int], num_refinement_blocks: int, ffn_expansion_factor: float) -> dict[str, Any]:
    return locals()


SHAPES: dict[str, dict[str, Any]] = {
    'dim 24, [1, 1, 1, 1] + 1, EFFN x2.66': _shape(24, [1, 1, 1, 1], 1, 2.66),
    'dim 16, [2, 2, 2, 2] + 2, EFFN x2': _shape(16, [2, 2, 2, 2], 2, 2),
    'dim 16, [1, 2, 3, 4] + 1, EFFN x2': _shape(16, [1, 2, 3, 4], 1, 2),
    'dim 32, [1, 1, 1, 1] + 1, EFFN x1': _shape(32, [1, 1, 1, 1], 1, 1),
}
"""What each changes of the preset `light`. Widths of 16 and its multiples fill the vectors of the kernels."""
FIRST = next(iter(SHAPES))
PATCHES, SIZE = 4, 64
RESULTS = Path(__file__).parent / 'results' / 'shapes'


def step_times(rounds: int) -> dict[str, float]:
    """Median seconds of a training step on `PATCHES` patches of `SIZE`, the shapes taking turns."""
    networks = {name: VmambaIR.from_preset('light', **changes) for name, changes in SHAPES.items()}
    optimizers = {name: torch.optim.AdamW(network.parameters()) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in SHAPES}
    images = torch.rand(PATCHES, 3, SIZE, SIZE)
    for number in tqdm(range(rounds + 1), desc='training steps', unit='round'):
        for name, network in networks.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            torch.nn.functional.l1_loss(network(images), images).backward()
            optimizers[name].step()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def shortened(shape: str, iterations: int, data: Path) -> dict[str, Any]:
    """The option file of the recipe, for one shape and patches of one size."""
    options = load_options(option_file(BASE))
    # The length is part of the name, or a finished training would stand for one of another length.
    options['name'] = f'shape_{list(SHAPES).index(shape)}_{iterations}'
    options['network_g'] |= SHAPES[shape]
    section = options['datasets']['train']
    section |= {'gt_sizes': [SIZE], 'mini_batch_sizes': [PATCHES], 'iters': [iterations]}
    section |= {'dataroot_gt': str(data / 'train/target'), 'dataroot_lq': str(data / 'train/input')}
    del options['datasets']['val'], options['val']
    options['train']['total_iter'] = iterations
    options['train']['ema_decay'] = 0  # an average over 1000 iterations lags behind by most of so short a run
    options['train']['scheduler']['periods'] = [iterations]
    return options


def train(shape: str, iterations: int, folder: Path, data: Path) -> float:
    """Train one shape, where that is not done, and return its PSNR on Y of the held-out pairs in dB."""
    options = shortened(shape, iterations, data)
    path = folder / f'{options["name"]}.yml'
    path.write_text(yaml.safe_dump(options, sort_keys=False), encoding='utf-8')
    checkpoint = folder / 'experiments' / options['name'] / 'models' / 'net_g_latest.pth'
    if not checkpoint.exists():
        demo.train(path, folder)
    validation = [['validation', str(data / 'val/target'), str(data / 'val/input')]]
    return figures('derain', Restorer.from_pretrained(checkpoint), validation)['psnr_y/validation']


def table(results: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [
        f'The same time for each: that of {results["iterations"]} iterations of the first, {PATCHES} patches of '
        f'{SIZE} x {SIZE}, {results["threads"]} thread. Recipe: options/{BASE}, shortened. '
        f'Input: {results["input"]:.2f} dB.',
        '',
        '| shape | parameters, M | time of a step | iterations | PSNR (Y), dB |',
        '| --- | ---: | ---: | ---: | ---: |',
    ]
    for shape, row in results['shapes'].items():
        lines.append(
            f'| {shape} | {row["parameters"]:.3f} | {row["step"]:.2f} | {row["iterations"]} | {row["psnr_y"]:.2f} |'
        )
    return '\n'.join(lines) + '\n'


def input_psnr(data: Path) -> float:
    """Mean PSNR on Y of the held-out inputs as they are, in dB."""
    pairs = folder_pairs('derain', data / 'val/target', data / 'val/input')
    return statistics.fmean(psnr(lq, gt, y_channel=True) for lq, gt in pairs)


def check_data(data: Path) -> None:
    """Refuse a folder that cannot be trained on and scored before anything is timed.

    Raises:
        UserError: a folder below `data` is missing.
    """
    for folder in ('train/target', 'train/input', 'val/target', 'val/input'):
        if not (data / folder).is_dir():
            raise UserError(f'--data {data}: no folder {folder} below it; `vmambair prepare rain100l` lays one out so')


def one_thread() -> None:
    """One thread here and in the trainings, which are processes of their own and inherit the environment alone."""
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)


def main() -> int:
    return guard(_compare)


def _compare() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.shapes', description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='keeps the trainings')
    parser.add_argument('--data', type=Path, required=True, help='with train and val, each with target and input')
    parser.add_argument('--iterations', type=positive, default=1400, help='of the first shape (default: %(default)s)')
    parser.add_argument('--rounds', type=positive, default=9, help='timed steps (default: %(default)s)')
    parser.add_argument('--only', type=natural, nargs='*', metavar='K', help='train these shapes, by number; no table')
    args = parser.parse_args()
    one_thread()
    data, folder = args.data.resolve(), args.folder.resolve()
    check_data(data)
    folder.mkdir(parents=True, exist_ok=True)
    measured = folder / 'steps.json'  # decides how long each is trained: once
    steps = once(measured, lambda: step_times(args.rounds))
    iterations = {name: round(args.iterations * steps[FIRST] / step) for name, step in steps.items()}
    wanted = [name for number, name in enumerate(SHAPES) if args.only is None or number in args.only]
    scores = {name: train(name, iterations[name], folder, data) for name in wanted}
    for name, score in scores.items():
        print(f'{name}: {score:.3f} dB')
    if args.only is not None:
        return
    results = {
        'iterations': args.iterations,
        'threads': torch.get_num_threads(),
        'input': round(input_psnr(data), 3),
        'shapes': {
            name: {
                'parameters': sum(p.numel() for p in VmambaIR.from_preset('light', **changes).parameters()) / 1e6,
                'step': round(steps[name] / steps[FIRST], 3),
                'iterations': iterations[name],
                'psnr_y': round(scores[name], 3),
            }
            for name, changes in SHAPES.items()
        },
    }
    publish(RESULTS, results, table(results))


if __name__ == '__main__':
    sys.exit(main())
