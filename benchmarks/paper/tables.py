"""The paper's tables as data, what they take to reproduce, and what was reproduced: python -m benchmarks.paper.tables

Writes README.md beside this file from `vmambair_arch.evaluation.published`, the option files named here,
`reproduced.json` (measured averages, each with the command that gave it; empty where nobody had the data and the GPUs)
and results/ablation.json.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmambair_arch.data.prepare.catalogue import SOURCES, Source
from vmambair_arch.evaluation.published import ABLATIONS, OURS, PAPER, published
from vmambair_arch.files import replacing
from vmambair_arch.metrics.catalogue import METRICS
from vmambair_arch.options import load_options, option_file

HERE = Path(__file__).parent
README = HERE / 'README.md'
REPRODUCED = HERE / 'reproduced.json'
ABLATION = HERE.parent / 'results' / 'ablation.json'


@dataclass(frozen=True)
class Experiment:
    """A table of the paper.

    Attributes:
        title: its number and task.
        datasets: names as in `published`.
        trainings: option files that train the network, in order.
        test: option file that tests it.
        gpus: processes that the trainings are for.
        train_data, test_data: what has to be downloaded first.
        crop_border: pixels that PSNR and SSIM leave out.
    """

    title: str
    datasets: tuple[str, ...]
    trainings: tuple[str, ...]
    test: str
    gpus: int
    train_data: str
    test_data: str
    crop_border: int


EXPERIMENTS = (
    Experiment(
        title='Table 1: super-resolution x4',
        datasets=('Manga109', 'Set14', 'General100', 'Urban100', 'DIV2K100'),
        trainings=('train_sr_stage1.yml', 'train_sr_gan.yml'),
        test='test_sr.yml',
        gpus=8,
        train_data='DF2K: DIV2K (800 images) and Flickr2K (2650); torchvision weights of VGG19',
        test_data='Manga109, Set14, General100, Urban100, the 100 validation images of DIV2K',
        crop_border=4,
    ),
    Experiment(
        title='Table 2: real-world super-resolution x4',
        datasets=('NTIRE2020', 'AIM2019'),
        trainings=('train_realsr_stage1.yml', 'train_realsr_gan.yml'),
        test='test_realsr.yml',
        gpus=8,
        train_data='DF2K, and OST (OutdoorSceneTraining); torchvision weights of VGG19',
        test_data='validation images of the real-world SR challenges NTIRE 2020 (track 1) and AIM 2019',
        crop_border=4,
    ),
    Experiment(
        title='Table 3: deraining',
        datasets=('Rain100H', 'Rain100L', 'Test2800', 'Test1200'),
        trainings=('train_derain.yml',),
        test='test_derain.yml',
        gpus=8,
        train_data='Rain13K, as prepared by MPRNet and Restormer (13 712 pairs)',
        test_data='Rain100H, Rain100L, Test2800, Test1200, from the same place',
        crop_border=0,
    ),
)


def readme() -> str:
    """The whole page."""
    parts = [
        "# The paper's tables\n",
        f'Figures of {PAPER}, what it takes to reproduce them here, and what was reproduced. Written by '
        "`python -m benchmarks.paper.tables`; an empty cell has not been measured. A figure of one's own goes into "
        '`reproduced.json` as `{"dataset": …, "metric": …, "value": …, "command": …}`.\n',
    ]
    reproduced = json.loads(REPRODUCED.read_text(encoding='utf-8'))
    parts += [_experiment(experiment, reproduced) for experiment in EXPERIMENTS]
    results = json.loads(ABLATION.read_text(encoding='utf-8')) if ABLATION.exists() else {}
    parts.append(_ablations(results))
    return '\n'.join(parts)


def _experiment(experiment: Experiment, reproduced: list[dict[str, Any]]) -> str:
    rows = [('data set', 'metric', 'paper', 'reproduced here', 'command')]
    for dataset in experiment.datasets:
        for figure in published(dataset):
            if figure.method != OURS:
                continue
            ours = [row for row in reproduced if (row['dataset'], row['metric']) == (dataset, figure.metric)]
            digits = METRICS[figure.metric].digits
            measured = f'{ours[-1]["value"]:.{digits}f}' if ours else ''
            command = f'`{ours[-1]["command"]}`' if ours else ''
            rows.append((dataset, METRICS[figure.metric].heading, f'{figure.value:g}', measured, command))
    launcher = f'torchrun --nproc_per_node {experiment.gpus} -m vmambair_arch.train --launcher pytorch -opt'
    commands = [f'{launcher} options/{name}' for name in experiment.trainings]
    names = [name for dataset in experiment.datasets for name in (f.metric for f in published(dataset))]
    metrics = ' '.join(dict.fromkeys(names))
    commands += [
        f'vmambair test -opt options/{experiment.test}',
        ' \\\n    '.join([
            f'vmambair evaluate results/{Path(experiment.test).stem}/visualization',
            *map(_data_argument, _data_sets(experiment.test)),
            f'--metrics {metrics} --crop-border {experiment.crop_border}',
        ]),
    ]  # fmt: skip
    sources = dict.fromkeys(f.source for d in experiment.datasets for f in published(d) if f.method == OURS)
    return '\n'.join([
        f'## {experiment.title}\n',
        f'- Train on: {experiment.train_data}.',
        f'- Test on: {experiment.test_data}.',
        f'- Once downloaded, laid out by: `vmambair prepare {" ".join(prepared(experiment))} --downloads FOLDER`.',
        *(f'- Source: {source}.' for source in sources),
        '\n```bash',
        *commands,
        '```\n',
        _markdown(rows),
    ])  # fmt: skip


def _data_sets(name: str) -> list[dict[str, Any]]:
    """The sections of the data sets of an option file."""
    return list(load_options(option_file(name))['datasets'].values())


def _data_argument(section: dict[str, Any]) -> str:
    """A test set as `vmambair evaluate` takes it; without inputs where they are made from the truth."""
    words = ['--data', section['name'], section['dataroot_gt'], section.get('dataroot_lq')]
    return ' '.join(word for word in words if word)


def prepared(experiment: Experiment) -> list[str]:
    """Names for `vmambair prepare` of what the option files of an experiment read, as far as it knows them."""
    sections = [section for name in (*experiment.trainings, experiment.test) for section in _data_sets(name)]
    roots = [section[key] for section in sections for key in ('dataroot_gt', 'dataroot_lq') if key in section]
    return list(dict.fromkeys(name for root in roots for name, source in SOURCES.items() if root in _folders(source)))


def _folders(source: Source) -> set[str]:
    """What `vmambair prepare` makes of a data set, the folder of all of it included, as option files name it."""
    root = f'datasets/{source.folder}'
    return {root, *(f'{root}/{part.folder}' for part in source.parts)}


def _ablations(results: dict[str, Any]) -> str:
    networks, trained = results.get('networks', {}), results.get('trained', {})
    head = (
        'ablation',
        'parameters, M',
        'paper, G',
        'counted, G',
        'projections twice, G',
        'forward, CPU ms',
        'paper, dB',
    )
    rows = [(*head, f'in small, {results.get("iterations", 2000)} iterations: PSNR (Y), dB', 'SSIM (Y)')]
    quoted = {row.name.lower(): row for row in ABLATIONS}
    for name, what in WHAT.items():
        paper, network, scores = quoted.get(name), networks.get(name, {}), trained.get(name, {})
        rows.append((
            f'`ablation_{name}.yml`: {what}',
            _number(network.get('parameters'), 1e6, 3),
            _number(paper and paper.multiply_adds, 1e9, 2),
            _number(network.get('multiply_adds'), 1e9, 2),
            _number(network.get('projections_twice'), 1e9, 2),
            _number(network.get('milliseconds'), 1, 0),
            _number(paper and paper.psnr, 1, 2),
            _number(scores.get('psnr_y'), 1, 2),
            _number(scores.get('ssim_y'), 1, 4),
        ))  # fmt: skip
    parts = [
        '## Table 4 and section 4.3: ablations\n',
        'Real-world x4, L1. `python -m benchmarks.paper.ablation` counts the networks and times them at a 64 x 64 '
        f'input: processor time, shortest of {results.get("rounds", "…")}, threads: {results.get("threads", "…")}. '
        '`--train FOLDER` trains each, shrunk to the light preset, on four photographs, and scores it on two others. '
        'So few iterations and photographs tell large differences only.\n',
        _markdown(rows),
    ]
    if networks:
        parts.append(_gaps(networks))
    if AGAIN in trained:
        parts.append(_chance(trained))
    if 'derained' in results:
        parts.append(_derained(results['derained']))
    return '\n'.join(parts)


def _chance(trained: dict[str, dict[str, float]]) -> str:
    """How far chance moves the figures of the small networks, in words."""
    first, again = (trained[name]['psnr_y'] for name in ('full', AGAIN))
    values = [row['psnr_y'] for row in trained.values()]
    text = (
        f'- In small: all lie between {min(values):.2f} and {max(values):.2f} dB. The full network from another seed '
        f'has {again:.2f} instead of {first:.2f} dB: what is no farther apart than that may be chance.'
    )
    if trained['v4'] == trained['full']:
        text += ' V4 has the figures of the full network, as it is the same function.'
    return text + '\n'


def _derained(results: dict[str, Any]) -> str:
    """The ablations in small on deraining, and what telling them apart takes."""
    scores = results['psnr_y']
    seeds = len(scores['full'])
    rows = [('ablation', f'{seeds} seeds: PSNR (Y), dB', 'lowest to highest', 'to the full network, seed by seed')]
    for name, values in scores.items():
        apart = [value - full for value, full in zip(values, scores['full'], strict=True)]
        rows.append((
            f'`ablation_{name}.yml`: {WHAT[name]}',
            f'{statistics.fmean(values):.2f}',
            f'{min(values):.2f} to {max(values):.2f}',
            '' if name == 'full' else f'{statistics.fmean(apart):+.2f} ± {_error(apart):.2f}',
        ))  # fmt: skip
    spread = statistics.fmean(statistics.variance(values) for values in scores.values()) ** 0.5
    wanted = math.ceil(2 * (2 * spread / TELLING) ** 2)
    return '\n'.join((
        '### On deraining\n',
        f'`python -m benchmarks.paper.ablation --derain FOLDER --data DATA`: light networks, {results["steps"]} steps '
        f'of four 64 x 64 patches of the pairs, L1; middles of the held-out pairs, {results["input"]:.2f} dB as they '
        'are. ± is the standard error of the mean.\n',
        _markdown(rows),
        f'- One seed differs from the next by {spread:.2f} dB (standard deviation, all networks together). Two '
        f'networks {TELLING:.2f} dB apart are told apart (two standard errors) by {wanted} seeds of each.\n',
    ))  # fmt: skip


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


TELLING = 0.06
"""dB that a comparison of ablations ought to tell: those of the paper's Table 4 are 0.03 to 0.4 apart."""

AGAIN = 'full_again'
"""The full network from another seed, among what was trained in small: how much chance alone moves a figure."""

WHAT = {
    'full': 'VmambaIR',
    'v1': 'V1, plane scanned one way, no channel scan',
    'v2': 'V2, no channel scan',
    'v3': 'V3, no EFFN, more OSS blocks',
    'v4': 'V4, linear layers for 1x1 convolutions',
    'one_way': 'channels scanned one way',
    'no_pool': 'channels of every pixel scanned',
}


def _gaps(networks: dict[str, dict[str, float]]) -> str:
    """Where our counts and times part from the paper's, in words."""
    giga = {name: network['projections_twice'] / 1e9 for name, network in networks.items()}
    saved = [(networks['v2'][name] - networks['v1'][name]) / 1e9 for name in ('projections_twice', 'multiply_adds')]
    share = networks['v4']['milliseconds'] / networks['full']['milliseconds'] - 1
    return '\n'.join([
        f'- Full network and V2: the paper says 20.45 and 20.43 G. Counted with the projections twice they are '
        f'{giga["full"]:.2f} and {giga["v2"]:.2f} G: the scan of the pooled channels costs next to nothing.',
        f'- V1: the paper says 18.93 G, 1.50 G less than V2. Three directions fewer save {saved[0]:.2f} G here, or '
        f'{saved[1]:.2f} G with the projections once. The paper does not say how it counts its scans; this gap shows '
        'that it is not by 9 L d N for each direction.',
        f'- V3: blocks were chosen to come nearest to 20.03 G ({giga["v3"]:.2f} G); the paper does not name them.',
        f'- V4: the paper has its full network about 8.6 % faster. Here the two are the same products on channels-last '
        f'maps, with nothing to reshape: V4 took {share:+.1%} against the full network, which is noise.',
    ]) + '\n'  # fmt: skip


def _number(value: float | None, unit: float, digits: int) -> str:
    return '' if value is None else f'{value / unit:.{digits}f}'


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = [rows[0], tuple('---' for _ in rows[0]), *rows[1:]]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n'


def write() -> str:
    """Write README.md and return it."""
    text = readme()
    with replacing(README) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return text


if __name__ == '__main__':
    print(write())
