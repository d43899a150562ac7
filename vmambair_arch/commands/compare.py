"""`vmambair compare`: trainings side by side, by what they wrote."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError, require
from ..evaluation.names import plain_text, table_row
from ..files import replacing
from .plot import Curves, option_sections, read_logs

EXAMPLES = ('vmambair compare experiments/derain_adamw experiments/derain_muon -o compare.png',)

LOWER_IS_BETTER = {'lpips', 'dists', 'niqe', 'ilniqe', 'fid', 'brisque', 'pi', 'pieapp', 'mse', 'rmse', 'mae'}
"""Words of the names of metrics, where nothing else says which way is up."""


def rows(experiments: Sequence[str | Path]) -> tuple[dict[str, Curves], list[str]]:
    """The figures of each experiment by name, and a Markdown table: last and best of every metric, speed, loss.

    Raises:
        UserError: an experiment without figures, or two of one name.
    """
    curves: dict[str, Curves] = {}
    for experiment in experiments:
        name = Path(experiment).resolve().name
        if name in curves:
            raise UserError(f'{experiment}: there are two experiments of the name {name}')
        curves[name] = read_logs(experiment)
    better = {Path(experiment).resolve().name: _asked(Path(experiment)) for experiment in experiments}
    columns = list(dict.fromkeys(key for found in curves.values() for key in found.validation))
    head = ['experiment', 'iterations', 'loss', 's / iteration', *(' '.join(column) for column in columns)]
    lines = [table_row(head), f'| --- |{" ---: |" * (len(head) - 1)}']
    for name, found in curves.items():
        last = max(found.training)
        losses = [value for key, value in found.training[last].items() if key.startswith('l_')]
        times = sorted(values['time'] for values in found.training.values() if 'time' in values)
        cells = [
            name,
            f'{last:,}',
            f'{sum(losses):.4g}' if losses else '–',
            f'{times[len(times) // 2]:.3f}' if times else '–',
        ]
        for key in columns:
            values = found.validation.get(key)
            cells.append(_last_and_best(values, better[name].get(key[1], _better(key[1]))) if values else '–')
        lines.append(table_row(cells))
    return curves, lines


def _last_and_best(values: Mapping[int, float], better: str) -> str:
    last = f'{values[max(values)]:.4f}'
    numbers = {i: value for i, value in values.items() if not math.isnan(value)}
    if not numbers:
        return last
    best = (min if better == 'lower' else max)(numbers, key=lambda i: numbers[i])
    return f'{last} (best {numbers[best]:.4f} at {best:,})'


def _asked(experiment: Path) -> dict[str, str]:
    """'lower' or 'higher' for each metric of the option file of an experiment: its `better`, or what its type is."""
    found: dict[str, str] = {}
    for val in option_sections(experiment, 'val'):
        metrics = val.get('metrics')
        for metric, section in (metrics if isinstance(metrics, dict) else {}).items():
            if not isinstance(section, dict):
                continue
            said = section.get('better')
            what = f'{section.get("type", metric)} {section.get("metric", "")}'  # the latter is pyiqa's
            found[str(metric)] = said if said in ('lower', 'higher') else _better(what)
    return found


def _better(name: str) -> str:
    """Which way is up, by the whole words of a name."""
    return 'lower' if LOWER_IS_BETTER & set(re.split(r'[^a-z0-9]+', name.lower())) else 'higher'


def draw(curves: dict[str, Curves], path: Path) -> None:
    """One panel for the loss and one for each metric, a line for each experiment."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    panels: dict[str, dict[str, dict[int, float]]] = {'loss': {}}
    for name, found in curves.items():
        losses = {i: [v for k, v in values.items() if k.startswith('l_')] for i, values in found.training.items()}
        panels['loss'][name] = {i: sum(values) for i, values in sorted(losses.items()) if values}
        for (dataset, metric), values in found.validation.items():
            panels.setdefault(f'{metric}, {dataset}', {})[name] = dict(sorted(values.items()))
    figure, axes = pyplot.subplots(
        len(panels), sharex=True, figsize=(9, 2.6 * len(panels)), layout='constrained', squeeze=False
    )
    for axis, (label, lines) in zip(axes[:, 0], panels.items(), strict=True):
        for name, values in lines.items():
            axis.plot(list(values), list(values.values()), label=plain_text(name), linewidth=1, marker='.')
        axis.set_ylabel(plain_text(label))
        axis.grid(alpha=0.3)
        axis.legend(loc='best', fontsize='small')
    axes[-1, 0].set_xlabel('iteration')
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('experiments', nargs='+', metavar='EXPERIMENT', help='folders, as experiments/NAME')
    parser.add_argument('-o', '--output', metavar='IMAGE', help='also draw their curves into one picture (PNG)')


def run(args: argparse.Namespace) -> None:
    path = Path(args.output) if args.output else None
    if path is not None and path.suffix.lower() != '.png':
        raise UserError(f'-o {path}: the picture is a PNG; name it {path.stem}.png')
    curves, lines = rows(args.experiments)
    if path is not None:
        require('compare -o', 'matplotlib')
        draw(curves, path)  # first, so that a fault of its place is all that is said
    print(*lines, sep='\n')
    if path is not None:
        print('wrote', path)
