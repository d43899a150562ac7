"""`vmambair compare`: trainings side by side, by what they wrote."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import replacing
from ..options import load_options
from .plot import Curves, read_logs

EXAMPLES = ('vmambair compare experiments/derain_adamw experiments/derain_muon -o compare.png',)

LOWER_IS_BETTER = ('lpips', 'dists', 'niqe', 'fid', 'brisque')


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
    better = {Path(experiment).resolve().name: _better(Path(experiment)) for experiment in experiments}
    columns = list(dict.fromkeys(key for found in curves.values() for key in found.validation))
    head = ['experiment', 'iterations', 'loss', 's / iteration', *(' '.join(column) for column in columns)]
    lines = [f'| {" | ".join(head)} |', f'| --- |{" ---: |" * (len(head) - 1)}']
    for name, found in curves.items():
        last = max(found.training)
        losses = [value for key, value in found.training[last].items() if key.startswith('l_')]
        times = sorted(values['time'] for values in found.training.values() if 'time' in values)
        cells = [name, f'{last:,}', f'{sum(losses):.4g}', f'{times[len(times) // 2]:.3f}' if times else '–']
        for key in columns:
            values = found.validation.get(key)
            if not values:
                cells.append('–')
                continue
            asked = better[name].get(key[1])
            lower = asked == 'lower' if asked else any(word in key[1].lower() for word in LOWER_IS_BETTER)
            best = (min if lower else max)(values, key=lambda i: values[i])
            cells.append(f'{values[max(values)]:.4f} (best {values[best]:.4f} at {best:,})')
        lines.append(f'| {" | ".join(cells)} |')
    return curves, lines


def _better(experiment: Path) -> dict[str, str]:
    """What the option file of an experiment says of its metrics: `better: lower` or `higher`."""
    found: dict[str, str] = {}
    for file in sorted(experiment.glob('*.yml')):
        try:
            val = load_options(file).get('val')
        except UserError:  # it may be any file
            continue
        metrics = val.get('metrics') if isinstance(val, dict) else None
        for metric, section in (metrics if isinstance(metrics, dict) else {}).items():
            if isinstance(section, dict) and section.get('better'):
                found[str(metric)] = str(section['better'])
    return found


def draw(curves: dict[str, Curves], path: Path) -> None:
    """One panel for the loss and one for each metric, a line for each experiment."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    panels: dict[str, dict[str, dict[int, float]]] = {'loss': {}}
    for name, found in curves.items():
        losses = {i: [v for k, v in values.items() if k.startswith('l_')] for i, values in found.training.items()}
        panels['loss'][name] = {i: sum(values) for i, values in sorted(losses.items())}
        for (dataset, metric), values in found.validation.items():
            panels.setdefault(f'{metric}, {dataset}', {})[name] = dict(sorted(values.items()))
    figure, axes = pyplot.subplots(
        len(panels), sharex=True, figsize=(9, 2.6 * len(panels)), layout='constrained', squeeze=False
    )
    for axis, (label, lines) in zip(axes[:, 0], panels.items(), strict=True):
        for name, values in lines.items():
            axis.plot(list(values), list(values.values()), label=name, linewidth=1, marker='.')
        axis.set_ylabel(label)
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
    curves, lines = rows(args.experiments)
    print(*lines, sep='\n')
    if args.output:
        path = Path(args.output)
        if path.suffix.lower() != '.png':
            raise UserError(f'-o {path}: the picture is a PNG; name it {path.stem}.png')
        draw(curves, path)
        print('wrote', path)
