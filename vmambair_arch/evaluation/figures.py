"""The pictures of an evaluation: box plots, the worst and the best images, zoomed crops, quality against cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import UserError, nearest
from ..files import replacing
from ..images.image_io import Image, image_size, read_image, write_image
from ..images.panel import Panel, side_by_side
from ..metrics.catalogue import Metric
from .datasets import DataSet, Item
from .names import plain_text
from .published import published
from .scores import Evaluation

ENDS = 5
"""Worst and best images on a contact sheet."""
FRAME = (1.0, 0.15, 0.1)
"""Colour of the frame around a zoomed crop."""


def box_plots(evaluation: Evaluation, path: Path) -> None:
    """A row of panels for each test set, one for each metric: how the images of every method scatter."""
    metrics = [metric for metric in evaluation.metrics if not metric.of_folders]
    figure, axes = _subplots(len(evaluation.datasets), len(metrics), width=1.5 + 0.9 * len(evaluation.methods))
    names = [method.name for method in evaluation.methods]
    for dataset, row in zip(evaluation.datasets, axes, strict=True):
        for metric, axis in zip(metrics, row, strict=True):
            values = [_values(evaluation, name, dataset, metric) for name in names]
            labels = [plain_text(name) for name in names]
            axis.boxplot([v[np.isfinite(v)] for v in values], tick_labels=labels, showmeans=True, widths=0.6)
            axis.set(title=plain_text(dataset.name), ylabel=metric.heading)
            axis.tick_params(axis='x', labelrotation=20)
            axis.grid(axis='y', alpha=0.3)
    _save(figure, path)


def _values(evaluation: Evaluation, method: str, dataset: DataSet, metric: Metric) -> np.ndarray:
    return np.array([evaluation.scores[method, dataset.name, item.name][metric.name] for item in dataset.items])


def contact_sheet(evaluation: Evaluation, method: str, dataset: DataSet, path: Path) -> None:
    """The images on which `method` is worst and best by the first metric: input, result and truth of each."""
    metric = next(metric for metric in evaluation.metrics if not metric.of_folders)
    sign = -1 if metric.lower_is_better else 1
    values = _values(evaluation, method, dataset, metric)
    order = np.argsort(sign * values, kind='stable')
    ends = order if len(order) <= 2 * ENDS else np.concatenate([order[:ENDS], order[-ENDS:]])
    rows = []
    for place, index in enumerate(ends):
        item = dataset.items[index]
        restored, truth = evaluation.pair(method, dataset.name, item)
        rank = 'worst' if place < len(ends) / 2 else 'best'
        which, value = f'{rank}: {item.name}', f'{metric.title} {values[index]:.{metric.digits}f}'
        if item.lq is None:
            row = [Panel(restored, f'{which}  {value}')]
        else:
            row = [Panel(read_image(item.lq).rgb, which), Panel(restored, value)]
        if truth is not None:
            row.append(Panel(truth, 'truth'))
        rows.append(row)
    write_image(path, Image(side_by_side(rows, height=200)))


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in pixels of the restored image; `dataset` None is the first that has the image."""

    dataset: str | None
    image: str
    x: int
    y: int
    w: int
    h: int


def parse_crop(text: str) -> Crop:
    """`IMAGE:X,Y,W,H` or `DATASET/IMAGE:X,Y,W,H`.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r'(?:([^/:]+)/)?([^/:]+):(\d+),(\d+),(\d+),(\d+)', text)
    if not match or not int(match[5]) or not int(match[6]):
        raise UserError(f"'{text}' is not a crop; write IMAGE:X,Y,WIDTH,HEIGHT or DATASET/IMAGE:X,Y,WIDTH,HEIGHT")
    return Crop(match[1], match[2], *map(int, match.groups()[2:]))


def check_crop(evaluation: Evaluation, crop: Crop) -> None:
    """Find out before anything is measured whether a crop can be shown.

    Raises:
        UserError: no such image, or the crop does not lie inside its truth, or without one its first result.
    """
    dataset, item = _find(evaluation, crop)
    first = evaluation.restored[evaluation.methods[0].name, dataset.name, item.name]
    seen = item.truth or (first if first.exists() else None)
    if seen is not None:
        _check_inside(crop, item.name, *image_size(seen))


def _check_inside(crop: Crop, name: str, w: int, h: int) -> None:
    if crop.x + crop.w > w or crop.y + crop.h > h:
        raise UserError(f'crop {crop.x},{crop.y},{crop.w},{crop.h} does not lie inside {name}, {w}x{h} pixels')


def crop_panels(evaluation: Evaluation, crops: Sequence[Crop], path: Path) -> None:
    """As in the paper's Figs. 5 to 10, a row for each crop: where it lies, then the input, every method, the truth.

    Raises:
        UserError: no such image, or the crop does not lie inside.
    """
    write_image(path, Image(side_by_side([_crop_row(evaluation, crop) for crop in crops], height=240)))


def _crop_row(evaluation: Evaluation, crop: Crop) -> list[Panel]:
    dataset, item = _find(evaluation, crop)
    metric = next((metric for metric in evaluation.metrics if not metric.of_folders), None)
    pictures, captions = [], []
    truth = None
    for method in evaluation.methods:
        restored, truth = evaluation.pair(method.name, dataset.name, item)
        pictures.append(restored)
        score = evaluation.scores[method.name, dataset.name, item.name]
        captions.append(f'{method.name}  {score[metric.name]:.{metric.digits}f}' if metric else method.name)
    h, w = pictures[0].shape[:2]
    _check_inside(crop, item.name, w, h)
    if truth is not None:
        pictures.append(truth)
        captions.append('HQ')
    if item.lq is not None:
        # Brought to the size of the result, so that the same rectangle shows the same place.
        pictures.insert(0, cv2.resize(read_image(item.lq).rgb, (w, h), interpolation=cv2.INTER_NEAREST))
        captions.insert(0, 'LQ')
    inside = np.s_[crop.y : crop.y + crop.h, crop.x : crop.x + crop.w]
    overview = pictures[-1].copy()
    thickness = max(2, round(max(h, w) / 200))
    cv2.rectangle(overview, (crop.x, crop.y), (crop.x + crop.w - 1, crop.y + crop.h - 1), FRAME, thickness)
    row = [Panel(overview, item.name)]
    # Nearest, so that pixels are seen as they are.
    zoom = max(1, round(240 / crop.h))
    for picture, caption in zip(pictures, captions, strict=True):
        enlarged = np.repeat(np.repeat(picture[inside], zoom, axis=0), zoom, axis=1)
        row.append(Panel(enlarged, caption))
    return row


def _find(evaluation: Evaluation, crop: Crop) -> tuple[DataSet, Item]:
    names = []
    for dataset in evaluation.datasets:
        if crop.dataset in (None, dataset.name):
            for item in dataset.items:
                names.append(item.name)
                if item.name == crop.image:
                    return dataset, item
    raise UserError(f"no image '{crop.image}' to crop{nearest(crop.image, names)}")


def cost_plot(evaluation: Evaluation, costs: Mapping[str, float], path: Path) -> None:
    """As in the paper's Fig. 1: quality by the first metric against multiply-adds, a panel for each test set.

    Args:
        evaluation: measured.
        costs: multiply-adds at a 64 x 64 input by method; methods without are left out, as their cost is not known.
        path: PNG to write.
    """
    metric = evaluation.metrics[0]
    figure, axes = _subplots(1, len(evaluation.datasets), width=5)
    for dataset, axis in zip(evaluation.datasets, axes[0], strict=True):
        for name, cost in costs.items():
            _point(axis, cost, evaluation.mean(name, dataset.name, metric), name, 'o')
        for row in published(dataset.name):
            if row.metric == metric.name and row.multiply_adds:
                _point(axis, row.multiply_adds, row.value, f'{row.method}, published', '*')
        label = 'multiply-adds at 64 x 64, G (published: as printed)'
        axis.set(title=plain_text(dataset.name), xlabel=label, ylabel=metric.heading)
        axis.margins(0.25)
        axis.grid(alpha=0.3)
    _save(figure, path)


def _point(axis: Any, cost: float, value: float, label: str, marker: str) -> None:
    axis.plot(cost / 1e9, value, marker, markersize=9)
    axis.annotate(plain_text(label), (cost / 1e9, value), xytext=(6, 6), textcoords='offset points')


def _subplots(rows: int, columns: int, width: float) -> tuple[Any, np.ndarray]:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    size = (width * columns, 3.2 * rows)
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout='constrained')


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
