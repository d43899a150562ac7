"""The ablations of the paper's Table 4 and section 4.3: python -m benchmarks.paper.ablation

Parameters, multiply-adds and forward times of the networks of options/ablation_*.yml, beside the published figures;
with --train FOLDER each of them, shrunk to the light preset, is also trained with L1 for the same 2000 iterations on
the same four photographs, degraded as in the real world, and tried on the same two it has not seen. That takes hours
on a CPU; what is done is kept in the folder, and the command may be started again.

    python -m benchmarks.paper.ablation --repeats 0 --derain FOLDER --data datasets/Rain100L

trains those of `DERAINED`, shrunk likewise, on the pairs of deraining, where long streaks make the order of reading
matter, with three seeds each, by the recipe of `benchmarks.rivals` for the same number of steps.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from vmambair_arch.archs import PRESETS, VmambaIR
from vmambair_arch.commands import demo
from vmambair_arch.errors import guard
from vmambair_arch.evaluation.complexity import count
from vmambair_arch.evaluation.evaluate import evaluate
from vmambair_arch.options import load_options, option_file

from .. import rivals
from ..arguments import natural, positive
from ..kept import once, write
from ..shapes import check_data, one_thread
from . import tables

VARIANTS = ('full', 'v1', 'v2', 'v3', 'v4', 'one_way', 'no_pool')
ITERATIONS = 2000
DERAINED = ('full', 'v1', 'v2', 'v3', 'one_way')
"""What is trained on deraining: V4 is the full network's function, and to scan every pixel's channels takes long."""
SEEDS, STEPS = 3, 400
METRICS = ('psnr_y', 'ssim_y')
BASE = 'demo_realsr.yml'
LIGHT = {name: value for name, value in PRESETS['light'].items() if name != 'channel_width'}
# V3's blocks in small: nearest to the same share of the full network's cost as in the paper, 20.03 of 20.45 G.
LIGHT_BLOCKS = {'v3': {'num_blocks': [2, 2, 4, 5], 'num_refinement_blocks': 1}}


def arguments(variant: str) -> dict[str, Any]:
    """The arguments of `VmambaIR` in the option file of an ablation."""
    network = load_options(option_file(f'ablation_{variant}.yml'))['network_g']
    return {name: value for name, value in network.items() if name != 'type'}


def light_options(variant: str) -> dict[str, Any]:
    """Options that train an ablation in small: those of the demo, with another network, length and batch."""
    options = load_options(option_file(BASE))
    options['name'] = f'ablation_{variant}_light'
    if variant == tables.AGAIN:
        options['manual_seed'], variant = 1, 'full'
    options['network_g'] = {'type': 'VmambaIR'} | arguments(variant) | LIGHT | LIGHT_BLOCKS.get(variant, {})
    train, seldom = options['train'], float(ITERATIONS)
    train['total_iter'] = ITERATIONS
    train['scheduler']['periods'] = [ITERATIONS]
    options['datasets']['train']['batch_size_per_gpu'] = 4
    options['val']['val_freq'] = options['logger']['save_checkpoint_freq'] = seldom
    return options


def compare(repeats: int, size: int = 64) -> dict[str, dict[str, float]]:
    """Counts, and the processor time of a forward pass at `size` x `size`, shortest of some.

    Processor time, because other programs matter less to it; the networks take turns for the same reason.
    """
    torch.manual_seed(0)
    networks = {variant: VmambaIR(**arguments(variant)).eval() for variant in VARIANTS}
    image = torch.rand(1, 3, size, size)
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with torch.inference_mode():
        for repeat in tqdm(range(repeats + 1), desc='forward', unit='round'):
            for variant, network in networks.items():
                start = time.process_time()
                network(image)
                if repeat:  # the first round warms up
                    times[variant].append(time.process_time() - start)
    rows = {}
    for variant, network in networks.items():
        counted = count(network, size, size)
        rows[variant] = {
            'parameters': counted.parameters,
            'multiply_adds': counted.total,
            'projections_twice': counted.total + counted.projection,
            'milliseconds': round(min(times[variant]) * 1e3, 1),
        }
    return rows


def train(folder: Path) -> dict[str, dict[str, float]]:
    """Train every ablation in small below `folder`, where that is not done, and score it on the unseen photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    demo.TASKS['realsr'].prepare(folder / 'data', True)
    checkpoints = {}
    for variant in (*VARIANTS, tables.AGAIN):
        options = light_options(variant)
        path = folder / f'{options["name"]}.yml'
        path.write_text(yaml.safe_dump(options, sort_keys=False), encoding='utf-8')
        models = folder / 'experiments' / options['name'] / 'models'
        if not (models / f'net_g_{ITERATIONS}.pth').exists():
            demo.train(path, folder)
        checkpoints[variant] = models / 'net_g_latest.pth'
    unseen = folder / 'data' / 'unseen'
    output = folder / 'evaluation'
    evaluate(
        [f'{variant}={path}' for variant, path in checkpoints.items()],
        [['unseen', str(unseen / 'target'), str(unseen / 'input')]],
        METRICS,
        output,
    )
    scores: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        for variant, value in _means(output / 'scores.csv', metric).items():
            scores.setdefault(variant, {})[metric] = round(value, 4)
    return scores


def derained(variant: str) -> VmambaIR:
    """An ablation in small that removes rain."""
    return VmambaIR(**arguments(variant) | LIGHT | LIGHT_BLOCKS.get(variant, {}) | {'scale': 1})


def derain(folder: Path, data: Path, steps: int) -> dict[str, Any]:
    """Train the ablations of `DERAINED` on deraining with each seed, where that is not done, and score them."""
    scores: dict[str, list[float]] = {variant: [] for variant in DERAINED}

    def trained(variant: str, seed: int) -> float:
        torch.manual_seed(seed)
        network = derained(variant)
        rivals.train(network, data, seed, steps=steps)
        return rivals.score(network, data)

    for seed in range(SEEDS):
        for variant in DERAINED:
            found = once(folder / f'{variant}_{seed}_{steps}.json', partial(trained, variant, seed))
            scores[variant].append(round(found, 3))
            print(f'{variant}, seed {seed}: {scores[variant][-1]:.3f} dB')
    return {'steps': steps, 'input': round(rivals.score(torch.nn.Identity(), data), 2), 'psnr_y': scores}


def _means(path: Path, metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    with path.open(encoding='utf-8') as file:
        for row in csv.DictReader(file):
            values.setdefault(row['method'], []).append(float(row[metric]))
    return {variant: statistics.fmean(column) for variant, column in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.paper.ablation', description=__doc__.splitlines()[0])
    parser.add_argument(
        '--repeats', type=natural, default=5, help='timed rounds; 0 keeps what was measured (default: %(default)s)'
    )
    parser.add_argument('--train', metavar='FOLDER', type=Path, help='also train all in small there')
    parser.add_argument('--derain', metavar='FOLDER', type=Path, help='also train some on deraining there')
    parser.add_argument('--data', type=Path, help='for --derain: with train and val, each with target and input')
    parser.add_argument('--steps', type=positive, default=STEPS, help='of each on deraining (default: %(default)s)')
    options = parser.parse_args()
    if (options.derain is None) != (options.data is None):
        parser.error('--derain and --data go together')
    results = json.loads(tables.ABLATION.read_text(encoding='utf-8')) if tables.ABLATION.exists() else {}
    if options.repeats or 'networks' not in results:
        results['threads'], results['rounds'] = torch.get_num_threads(), max(options.repeats, 1)
        results['networks'] = compare(results['rounds'])
    if options.train:
        results['iterations'] = ITERATIONS
        results['trained'] = train(options.train)
    if options.derain:
        one_thread()
        data = options.data.resolve()
        check_data(data)
        results['derained'] = derain(options.derain, data, options.steps)
    write(tables.ABLATION, results, indent=2)
    print(tables.write())


if __name__ == '__main__':
    sys.exit(guard(main))
