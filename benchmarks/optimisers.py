"""The optimisers of the recipes on one short training: python -m benchmarks.optimisers FOLDER --data DATA

    python -m benchmarks.optimisers optimisers --data datasets/Rain100L

trains the preset `light` from the same weights on the same patches of `DATA/train/{target,input}` with each optimiser
in `OPTIMISERS` for the same number of iterations, and scores the middles of the pairs in `DATA/val/{target,input}`.
Each has the learning rate that its authors' rule makes of the recipe's for AdamW. What a step costs is measured in CPU
time, so that neighbours on the machine do not count; equal minutes would be another comparison. A finished optimiser
is kept in the folder as one file, and the command may be started again.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vmambair_arch.archs import VmambaIR
from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.errors import guard
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.metrics.psnr_ssim import psnr
from vmambair_arch.models.optimizers import OPTIMIZERS
from vmambair_arch.options import load_options, option_file

from .arguments import positive
from .kept import once, publish
from .shapes import check_data, one_thread
from .shipped import folder_pairs

BASE = 'train_derain_light.yml'
PATCHES, SIZE, MIDDLE = 4, 64, 160
AVERAGED = 25  # losses at the end that are averaged


@dataclass(frozen=True)
class Optimiser:
    """One row.

    Attributes:
        options: of `optim_g`.
        rule: where the learning rate comes from.
        falls: whether the rate falls by the recipe's cosine; else it is constant.
    """

    options: dict[str, Any]
    rule: str
    falls: bool = True


# AdamW's lr of the recipe is 1e-3, its decay 1e-4.
OPTIMISERS = {
    'AdamW': Optimiser({'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 1e-4}, 'the recipe'),
    'NAdamW': Optimiser({'type': 'NAdamW', 'lr': 1e-3, 'weight_decay': 1e-4}, "AdamW's"),
    'AdamP': Optimiser(
        {'type': 'AdamP', 'lr': 1e-3, 'weight_decay': 1e-4}, "AdamW's (clovaai/AdamP: used as torch's Adam is)"
    ),
    'Adan': Optimiser(
        {'type': 'Adan', 'lr': 5e-3, 'weight_decay': 0.02},
        "5 to 10 times AdamW's: 5; decay 0.02 (sail-sg/Adan)",
    ),
    'Lion': Optimiser(
        {'type': 'Lion', 'lr': 2e-4, 'weight_decay': 5e-4},
        "3 to 10 times less than AdamW's: 5, the decay as many times more (arXiv 2302.06675, section 5)",
    ),
    'SOAP': Optimiser(
        {'type': 'SOAP', 'lr': 1e-3, 'weight_decay': 1e-4},
        "AdamW's (nikhilvyas/SOAP has 3e-3 by default, and computes its bases anew every 10th step, as here)",
    ),
    'Muon': Optimiser(
        {'type': 'Muon', 'lr': 1e-3, 'weight_decay': 1e-4}, "AdamW's: the hybrid scales the steps of matrices to match"
    ),
    'AdamWScheduleFree': Optimiser(
        {'type': 'AdamWScheduleFree', 'lr': 3e-3, 'weight_decay': 1e-4},
        "1 to 10 times AdamW's: 3, constant (facebookresearch/schedule_free)",
        falls=False,
    ),
}
"""By the name in the table."""
RESULTS = Path(__file__).parent / 'results' / 'optimisers'


def shortened(name: str, iterations: int, data: Path, folder: Path) -> dict[str, Any]:
    """The recipe for one optimiser, as BasicSR's parser would hand it to the model."""
    options = load_options(option_file(BASE))
    options['name'] = name
    options |= {'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True, 'auto_resume': False, 'num_gpu': 0}
    section = options['datasets']['train']
    section |= {'dataroot_gt': str(data / 'train/target'), 'dataroot_lq': str(data / 'train/input'), 'scale': 1}
    section |= {'gt_sizes': [SIZE], 'mini_batch_sizes': [PATCHES], 'iters': [iterations]}
    section |= {'manual_seed': options['manual_seed'], 'total_iter': iterations}
    del options['datasets']['val'], options['val']
    root = folder / 'trainings' / name
    options['path'] |= {key: str(root / key) for key in ('models', 'training_states', 'visualization')}
    options['path']['experiments_root'] = str(root)
    optimiser = OPTIMISERS[name]
    train = options['train']
    train |= {'total_iter': iterations, 'warmup_iter': iterations // 10, 'optim_g': copy.deepcopy(optimiser.options)}
    # An average of .999 over so short a run would be one of its beginning.
    train['ema_power'] = 0.75
    low, high = 1e-3, optimiser.options['lr']
    train['scheduler'] |= {'periods': [iterations], 'eta_mins': [low * high]}
    if not optimiser.falls:
        train['scheduler'] = {'type': 'MultiStepLR', 'milestones': [], 'gamma': 1}
        train['ema_decay'] = 0  # its own average is what is evaluated and saved
    return options


def train(name: str, iterations: int, data: Path, folder: Path) -> dict[str, Any]:
    """Train with one optimiser: CPU milliseconds a step, the loss of the last iterations, PSNR by weights in dB."""
    return train_by(shortened(name, iterations, data, folder), data)


def train_by(options: dict[str, Any], data: Path) -> dict[str, Any]:
    """Train by shortened options: CPU milliseconds a step, the loss of the last iterations, PSNR by weights in dB."""
    from basicsr.models import build_model

    name, iterations = options['name'], options['train']['total_iter']
    patches = PairedProgressiveDataset(options['datasets']['train'])
    torch.manual_seed(options['manual_seed'])
    model = build_model(options)
    losses, seconds = [], []
    for iteration in tqdm(range(1, iterations + 1), desc=name, unit='step'):
        model.update_learning_rate(iteration, options['train']['warmup_iter'])
        model.feed_data(patches[iteration - 1])
        begin = time.process_time()
        model.optimize_parameters(iteration)
        seconds.append(time.process_time() - begin)
        losses.append(float(model.get_current_log()['l_pix']))
    weights = model.networks_to_save()['g']
    return {
        'iterations': iterations,
        'cpu_ms': round(1e3 * statistics.fmean(seconds[1:]), 1),  # a mean: not every step of SOAP costs the same
        'loss': round(statistics.fmean(losses[-AVERAGED:]), 5),
        **{key: score(weights[key], data) for key in ('params', 'params_ema') if key in weights},
    }


def score(weights: dict[str, Any], data: Path) -> float:
    """Mean PSNR on Y of the middles of the held-out pairs, in dB."""
    network = VmambaIR.from_preset('light')
    network.load_state_dict(weights)
    restorer = Restorer(network)
    return round(statistics.fmean(psnr(restorer(lq), gt, y_channel=True) for lq, gt in middles(data)), 3)


def middles(data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Input and target, uint8 (h, w, 3), of the held-out pairs, `MIDDLE` pixels a side at most."""

    def middle(image: np.ndarray) -> np.ndarray:
        top, left = (max(0, (n - MIDDLE) // 2) for n in image.shape[:2])
        return np.ascontiguousarray(image[top : top + MIDDLE, left : left + MIDDLE])

    return [(middle(lq), middle(gt)) for lq, gt in folder_pairs('derain', data / 'val/target', data / 'val/input')]


def input_psnr(data: Path) -> float:
    """Mean PSNR on Y of the middles as they are, in dB."""
    return round(statistics.fmean(psnr(lq, gt, y_channel=True) for lq, gt in middles(data)), 3)


def table(results: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [
        f'{results["iterations"]} iterations each on {PATCHES} patches of {SIZE} x {SIZE}, one thread, from the same '
        f'weights; input: {results["input"]:.2f} dB.',
        '',
        '| optimiser | lr | decay | CPU ms a step | loss | PSNR (Y), dB | of the average |',
        '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, row in results['optimisers'].items():
        options = OPTIMISERS[name].options
        average = f'{row["params_ema"]:.2f}' if 'params_ema' in row else 'its own'
        lines.append(
            f'| {name} | {options["lr"]:g} | {options["weight_decay"]:g} | {row["cpu_ms"]:.0f} | {row["loss"]:.4f} '
            f'| {row["params"]:.2f} | {average} |'
        )
    rules = [f'- {name}: {OPTIMISERS[name].rule}.' for name in results['optimisers']]
    return '\n'.join([*lines, '', 'Learning rates:', '', *rules]) + '\n'


def main() -> int:
    return guard(_compare)


def _compare() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.optimisers', description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='keeps what is done')
    parser.add_argument('--data', type=Path, required=True, help='with train and val, each with target and input')
    parser.add_argument('--iterations', type=positive, default=200, help='of each (default: %(default)s)')
    parser.add_argument('--only', nargs='*', choices=list(OPTIMISERS), metavar='NAME', help='these alone; no table')
    args = parser.parse_args()
    one_thread()
    check_data(args.data)
    results = {}
    for name in args.only or OPTIMISERS:
        if OPTIMISERS[name].options['type'] not in OPTIMIZERS:
            print(f'{name}: skipped, its package is not installed: pip install schedulefree pytorch_optimizer')
            continue
        # The length is part of the name, or a short run would stand for a long one.
        kept = args.folder / f'{name}_{args.iterations}.json'
        results[name] = once(kept, partial(train, name, args.iterations, args.data, args.folder))
        print(f'{name}: {results[name]}', flush=True)
    if args.only is not None:
        return
    whole = {'iterations': args.iterations, 'input': input_psnr(args.data), 'optimisers': results}
    publish(RESULTS, whole, table(whole))


if __name__ == '__main__':
    sys.exit(main())
