"""Draw a training from what it wrote: loss, learning rate, patch size, metrics, and its validation images."""

from __future__ import annotations

import argparse
import contextlib
import glob
import html
import http.server
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, require
from ..evaluation.names import plain_text
from ..files import METRICS_FILE, read_patiently, read_records, replacing
from ..options import load_options

if TYPE_CHECKING:
    from ..images.panel import Panel

EXAMPLES = (
    'vmambair plot experiments/train_derain_light',
    'vmambair plot experiments/train_derain_light --watch',
)

_ITERATION = re.compile(r'\[epoch:\s*\d+, iter:\s*(\d[\d,]*), lr:\(([^)]*)\)\](.*)')
_VALUE = re.compile(r'(\w+): (\S+)')
_VALIDATION = re.compile(r'Validation (.+?)(?: at (\d+))?$')
_METRIC = re.compile(r'\t # (\S+): (\S+)')

COLUMNS = 4
"""Iterations that the sheet of validation images shows at most."""


@dataclass
class Curves:
    """What the logs of an experiment hold.

    Attributes:
        training: by iteration, the logged values by name; `lr` is that of the first optimiser.
        validation: by data set and metric, the value at each iteration.
    """

    training: dict[int, dict[str, float]] = field(default_factory=dict)
    validation: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)


def read_logs(experiment: str | Path) -> Curves:
    """The figures of an experiment: `metrics.jsonl`, and for what is older than that or BasicSR's own the logs.

    Of an iteration that was run twice the later counts.

    Raises:
        UserError: there is no iteration in either.
    """
    experiment = Path(experiment)
    # Their names end in the time at which they were begun.
    logs = sorted(experiment.glob('train_*.log'))
    curves = Curves()
    for log in logs:
        _read_log(log, curves)
    if (experiment / METRICS_FILE).is_file():
        _read_metrics(experiment / METRICS_FILE, curves)
    if not curves.training:
        where = f'no iteration in its {len(logs)} train_*.log' if logs else f'no {METRICS_FILE} and no train_*.log'
        raise UserError(f'{experiment}: {where}; name the folder of an experiment, as experiments/NAME')
    return curves


def _read_metrics(path: Path, curves: Curves) -> None:
    for record in read_records(path):
        iteration = record.pop('iter', None)
        if not isinstance(iteration, int):
            continue
        if 'metrics' in record:
            metrics = record['metrics']
            for metric, value in _numbers(metrics if isinstance(metrics, dict) else {}).items():
                curves.validation.setdefault((str(record.get('dataset')), metric), {})[iteration] = value
        else:
            rates = record.pop('lrs', None)
            record['lr'] = rates[0] if rates and isinstance(rates, list) else rates
            record.pop('epoch', None)
            curves.training[iteration] = _numbers(record)


def _read_log(log: Path, curves: Curves) -> None:
    iteration, dataset = 0, ''
    validated_at = 0
    for line in read_patiently(log).decode('utf-8', 'replace').splitlines():
        if match := _ITERATION.search(line):
            iteration = int(match[1].replace(',', ''))
            values = dict(_VALUE.findall(match[3].rpartition(']')[2])) | {'lr': match[2].split(',')[0]}
            curves.training[iteration] = _numbers(values)
        elif match := _VALIDATION.search(line):
            dataset, validated_at = match[1], int(match[2] or iteration)
        elif match := _METRIC.match(line):
            for metric, value in _numbers({match[1]: match[2]}).items():
                curves.validation.setdefault((dataset, metric), {})[validated_at] = value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers, also as text: a kill may cut a line anywhere, and others may write what they like."""
    found = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            found[name] = float(value)
    return found


def plot(experiment: str | Path) -> list[Path]:
    """Write `curves.png`, and `validation.png` where validation images were saved, into the folder of an experiment.

    Returns:
        What was written.

    Raises:
        UserError: no logs; a file cannot be written.
    """
    from ..images.image_io import Image, write_image
    from ..images.panel import side_by_side

    experiment = Path(experiment)
    written = [experiment / 'curves.png']
    require('plot', 'matplotlib')
    draw_curves(read_logs(experiment), experiment.name, written[0])
    rows = validation_rows(experiment)
    if rows:
        written.append(experiment / 'validation.png')
        write_image(written[1], Image(side_by_side(rows, height=240)))
    return written


def draw_curves(curves: Curves, title: str, path: Path) -> None:
    """One PNG with a panel each for the losses, the learning rate, the patch size and every metric."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    iterations = sorted(curves.training)
    names = list(dict.fromkeys(name for i in iterations for name in curves.training[i]))
    panels: dict[str, dict[str, dict[int, float]]] = {
        'loss': {name: _series(curves, name) for name in names if name.startswith('l_')},
        'learning rate': {'': _series(curves, 'lr')},
        'patch size, pixels': {'': _series(curves, 'patch')} if 'patch' in names else {},
        'images/s': {'': _series(curves, 'images_s')} if 'images_s' in names else {},
    }
    for (dataset, metric), values in curves.validation.items():
        panels.setdefault(metric, {})[dataset] = values
    panels = {label: lines for label, lines in panels.items() if lines}

    figure, rows = pyplot.subplots(
        len(panels), sharex=True, figsize=(9, 2.2 * len(panels)), layout='constrained', squeeze=False
    )
    axes = rows[:, 0]
    for axis, (label, lines) in zip(axes, panels.items(), strict=True):
        for name, values in lines.items():
            style = 'steps-post' if label.startswith('patch') else 'default'
            axis.plot(
                list(values), list(values.values()), label=plain_text(name), drawstyle=style, linewidth=1, marker='.'
            )
        if label in ('loss', 'learning rate') and not any(v <= 0 for values in lines.values() for v in values.values()):
            axis.set_yscale('log')
        axis.set_ylabel(plain_text(label))
        axis.grid(alpha=0.3)
        if any(lines):
            axis.legend(loc='best', fontsize='small')
    axes[0].set_title(plain_text(title))
    axes[-1].set_xlabel('iteration')
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _series(curves: Curves, name: str) -> dict[int, float]:
    return {i: values[name] for i, values in sorted(curves.training.items()) if name in values}


def validation_rows(experiment: Path, limit: int = 6) -> list[list[Panel]]:
    """A row for each validation image: input, some iterations from first to last, target.

    Input and target are there where the folders that the experiment's option file names are.

    Args:
        experiment: its folder, with `visualization/<image>/<image>_<iteration>.png`, below a folder of the data set's
            name where there are several.
        limit: number of rows.
    """
    from ..images.image_io import read_image
    from ..images.panel import Panel

    root = experiment / 'visualization'
    folders = sorted({path.parent for path in root.rglob('*.png')})
    rows = []
    for folder in folders[:limit]:
        saved = {int(p.stem.rpartition('_')[2]): p for p in folder.glob('*.png') if p.stem.rpartition('_')[2].isdigit()}
        if not saved:
            continue
        iterations = sorted(saved)
        count = min(COLUMNS, len(iterations))
        chosen = sorted({iterations[round(i * (len(iterations) - 1) / max(count - 1, 1))] for i in range(count)})
        row = [Panel(read_image(saved[i]).rgb, f'iteration {i:,}') for i in chosen]
        source, target = (_find(experiment, key, folder.relative_to(root)) for key in ('dataroot_lq', 'dataroot_gt'))
        if source:
            row.insert(0, Panel(read_image(source).rgb, f'{folder.name}: input'))
        if target:
            row.append(Panel(read_image(target).rgb, 'target'))
        rows.append(row)
    return rows


def _find(experiment: Path, key: str, image: Path) -> Path | None:
    """The file of a validation image in the folder that `key` names in the option file beside the logs.

    Args:
        experiment, key: whose, and what of it.
        image: its name, below the name of its data set where there are several.
    """
    name, dataset = image.name, image.parent.name
    for sections in option_sections(experiment, 'datasets'):
        for phase, section in sections.items():
            if not str(phase).startswith('val') or not isinstance(section, dict):
                continue
            folder = section.get(key)
            if dataset and str(section.get('name')) != dataset or not isinstance(folder, str) or not folder:
                continue
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # a place that is none
                found = sorted(Path(folder).expanduser().glob(f'{glob.escape(name)}.*'))
                if found and not folder.endswith('.lmdb'):
                    return found[0]
    return None


def option_sections(experiment: Path, name: str) -> Iterator[dict[str, Any]]:
    """The sections `name` of the option files beside the logs; any other file may lie there, and is passed over."""
    for file in sorted(experiment.glob('*.yml')):
        try:
            section = load_options(file).get(name)
        except UserError:
            continue
        if isinstance(section, dict):
            yield section


def watch(experiment: str | Path, port: int = 8008) -> http.server.HTTPServer:
    """A server on this computer whose page shows the curves and pictures of a training as it goes on.

    Args:
        experiment: its folder.
        port: 0 takes a free one.

    Returns:
        The server; `serve_forever` runs it.

    Raises:
        UserError: that is no experiment, or the port is taken. One that has no figures yet may be watched.
    """
    folder = Path(experiment)
    if not (folder / 'models').is_dir():  # which is made before the first iteration
        read_logs(folder)

    drawing = threading.Lock()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            pictures = {f'/{name}': folder / name for name in ('curves.png', 'validation.png')}
            place = self.path.partition('?')[0]
            if place == '/':
                self._send('text/html; charset=utf-8', _PAGE.format(title=html.escape(folder.name)).encode())
            elif place in pictures:
                if place == '/curves.png':
                    with drawing, contextlib.suppress(UserError):  # nothing to draw yet, or the old picture stays
                        plot(folder)
                try:
                    self._send('image/png', pictures[place].read_bytes())
                except OSError:
                    self.send_error(404)
            else:
                self.send_error(404)

        def _send(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header('Content-Type', kind)
            self.send_header('Content-Length', str(len(content)))
            self.send_header('Cache-Control', 'no-store')
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # the signature is http.server's
            """Requests are of no interest."""

    try:
        # Browsers open connections ahead, which must not keep others waiting.
        return http.server.ThreadingHTTPServer(('127.0.0.1', port), Page)
    except OSError as error:
        raise UserError(f'--port {port}: {error.strerror or error}; name another one, or 0 for any') from error
    except OverflowError:
        raise UserError(f'--port {port}: must be 0 to 65535') from None


_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;margin:1em;max-width:75em}} img{{max-width:100%}}
@media (prefers-color-scheme: dark){{body{{background:#111;color:#ddd}}}}</style>
<h1>{title}</h1><img id="c" alt="Curves, from the first figures on" src="/curves.png">
<img id="v" alt="" src="/validation.png">
<script>setInterval(() => {{ for (const id of ['c', 'v']) {{
  const next = new Image(), old = document.getElementById(id);
  next.onload = () => old.src = next.src; next.src = old.src.split('?')[0] + '?' + Date.now(); }} }}, 5000)</script>
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('experiment', help='its folder, as experiments/NAME')
    parser.add_argument('--watch', action='store_true', help='show it as a page that follows the training')
    parser.add_argument('--port', type=int, default=8008, help='of that page, 0 for any (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    if args.watch:
        with watch(args.experiment, args.port) as server:
            print(f'http://127.0.0.1:{server.server_port} (Ctrl-C ends it)', flush=True)
            server.serve_forever()
    for path in plot(args.experiment):
        print('wrote', path)
