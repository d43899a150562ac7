"""Averages as a Markdown table, beside published figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..metrics.catalogue import METRICS, Metric
from .datasets import DataSet
from .names import table_row
from .published import Figure, published
from .scores import Evaluation


def summary(evaluation: Evaluation) -> str:
    """A table for each test set: our averages, the best of ours in bold, and what was published for it."""
    parts = [_table(evaluation, dataset) for dataset in evaluation.datasets]
    return '\n'.join(['# Evaluation', '', *parts, *_definitions(evaluation)]) + '\n'


def _table(evaluation: Evaluation, dataset: DataSet) -> str:
    ours = {metric.name: metric for metric in evaluation.metrics}
    figures = published(dataset.name)
    # A published figure of another definition gets a column of its own: it must not stand below ours.
    others = [name for name in dict.fromkeys(figure.metric for figure in figures) if name not in ours]
    columns = [*ours.values(), *(METRICS[name] for name in others)]
    rows = [['method', *(metric.heading for metric in columns)], ['---', *['---:'] * len(columns)]]
    for method in evaluation.methods:
        cells = [method.name]
        for metric in columns:
            if metric.name not in ours:
                cells.append('')
                continue
            value = evaluation.mean(method.name, dataset.name, metric)
            best = _best([evaluation.mean(other.name, dataset.name, metric) for other in evaluation.methods], metric)
            text = f'{value:.{metric.digits}f}'
            cells.append(f'**{text}**' if len(evaluation.methods) > 1 and value == best else text)
        rows.append(cells)
    for name in dict.fromkeys(figure.method for figure in figures):
        values = {figure.metric: figure for figure in figures if figure.method == name}
        rows.append([f'{name}, published', *(_quoted(values.get(m.name), evaluation.crop_border) for m in columns)])
    sources = [f'- {name}: {source}.' for name, source in dict.fromkeys((f.method, f.source) for f in figures)]
    lines = [f'## {dataset.name}, {len(dataset.items)} images', '']
    lines += [table_row(cells) for cells in rows]
    return '\n'.join([*lines, '', *sources, *([''] if sources else [])])


def _quoted(figure: Figure | None, crop_border: int) -> str:
    if figure is None:
        return ''
    cropped = figure.metric.startswith(('psnr', 'ssim')) and figure.crop_border != crop_border
    # Decibels have two decimals at least, as printed: 40.00.
    text = (
        f'{figure.value:.2f}' if figure.value >= 1 and round(figure.value, 2) == figure.value else f'{figure.value:g}'
    )
    return f'{text} (border {figure.crop_border})' if cropped else text


def _best(values: Sequence[float], metric: Metric) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return (min if metric.lower_is_better else max)(finite, default=math.nan)


def _definitions(evaluation: Evaluation) -> list[str]:
    border = f'{evaluation.crop_border} pixels' if evaluation.crop_border else 'no border'
    lines = [f'Averages over images as they are saved; PSNR and SSIM leave {border} out at every edge.']
    titles = ' '.join(metric.title for metric in evaluation.metrics)
    if '(Y)' in titles:
        lines.append("Y: BT.601 luma, not rounded (BasicSR's definition).")
    if '(Y rounded)' in titles:
        lines.append("Y rounded: BT.601 luma rounded to 8 bits (MATLAB's rgb2ycbcr, the deraining papers' definition).")
    if 'FID' in titles:
        lines.append('FID: over whole folders, images resized to 299 x 299.')
    return [' '.join(lines)]
