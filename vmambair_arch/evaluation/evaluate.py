"""One call that evaluates, and the files it leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest, require
from ..files import replacing
from ..images.image_io import image_size
from ..metrics.catalogue import get_metrics
from ..ranks.distributed import barrier
from . import figures
from .complexity import count
from .datasets import DataSet, check_names, find_dataset, find_methods
from .scores import Evaluation, collect, load_restorers, run, world, write_csv
from .tables import summary


def evaluate(
    methods: Sequence[str],
    data: Sequence[Sequence[str | None]],
    metrics: Sequence[str],
    output: str | Path,
    *,
    crop_border: int = 0,
    weights: str | Path | None = None,
    crops: Sequence[str] = (),
    cost: Sequence[str] = (),
    **restoring: Any,
) -> str | None:
    """Measure methods on test sets.

    Below `output` go `table.md`, `scores.csv`, `box.png`, `ends/<method>/<data set>.png`, `crops.png`, `cost.png`
    where the cost of a method is known, what checkpoints restored, and what a second run goes on from. Under torchrun
    the images are shared among the processes.

    Args:
        methods: `NAME=PATH` or `PATH` of folders of restored images and of checkpoints.
        data: name, folder of the true images and folder of the inputs of every test set; '-' or None for none.
        metrics: names of `metrics.catalogue`.
        output: folder, made where missing.
        crop_border: pixels that PSNR and SSIM leave out at every edge.
        weights: folder of backbone weights, see `pretrained.pretrained_state`.
        crops: see `figures.parse_crop`.
        cost: `NAME=G`, multiply-adds at a 64 x 64 input in 10^9 of methods that are folders; those of checkpoints are
            counted.
        restoring: keyword arguments of `Restorer`.

    Returns:
        The table, where this process is the first; else None.

    Raises:
        UserError: bad input.
    """
    rank, ranks = world()
    if ranks > 1:
        from ..ranks.start import init_dist

        init_dist('pytorch', 'gloo')
    output = Path(output)
    found = find_methods(methods)
    datasets = [_dataset(entry) for entry in data]
    check_names(datasets)
    wanted = get_metrics(metrics, crop_border=crop_border, weights=weights)
    require('evaluate', 'matplotlib')
    evaluation = Evaluation(found, datasets, wanted, crop_border, output)
    rectangles = [figures.parse_crop(text) for text in crops]
    costs = _costs(cost, [method.name for method in found])
    # What cannot work is said before hours of work, not after.
    _check_sizes(evaluation, {})
    for rectangle in rectangles:
        figures.check_crop(evaluation, rectangle)
    for metric in wanted:
        metric.load()
    restorers = load_restorers(evaluation, **restoring)
    _check_sizes(evaluation, {name: getattr(restorer.model, 'scale', 1) for name, restorer in restorers.items()})
    run(evaluation, restorers, rank, ranks)
    barrier()
    if rank:
        return None
    collect(evaluation)
    write_csv(evaluation, output / 'scores.csv')
    table = summary(evaluation)
    with replacing(output / 'table.md') as temporary:
        temporary.write_text(table, encoding='utf-8', errors='surrogateescape')
    if any(not metric.of_folders for metric in wanted):
        figures.box_plots(evaluation, output / 'box.png')
        for method in found:
            for dataset in datasets:
                figures.contact_sheet(
                    evaluation, method.name, dataset, output / 'ends' / method.name / f'{dataset.name}.png'
                )
    if rectangles:
        figures.crop_panels(evaluation, rectangles, output / 'crops.png')
    costs |= {name: count(restorer.model).total for name, restorer in restorers.items()}
    if costs:
        figures.cost_plot(evaluation, costs, output / 'cost.png')
    return table


def _check_sizes(evaluation: Evaluation, scales: Mapping[str, int]) -> None:
    """Find out before anything is measured whether every image is large enough for every metric, after any crop.

    Args:
        evaluation: what is measured.
        scales: of the checkpoints that are loaded, by method; images without a truth are known by them.

    Raises:
        UserError: the border is negative, or leaves less than a metric needs of an image, which is named.
    """
    border = evaluation.crop_border
    if border < 0:
        raise UserError(f'--crop-border {border}: must be 0 or more pixels')
    for path, (w, h) in _sizes(evaluation, scales):
        for metric in evaluation.metrics:
            crop = border if 'crop_border' in metric.options else 0
            short, long = metric.smallest
            left = max(w - 2 * crop, 0), max(h - 2 * crop, 0)
            if min(left) >= short and max(left) >= long:
                continue
            needs = f'{metric.name} needs {short}x{long}'
            if crop:
                left_over = f'leaves {left[0]}x{left[1]} pixels of {path}, {w}x{h} pixels'
                raise UserError(f'--crop-border {border}: {left_over}, and {needs}')
            raise UserError(f'{path}: {w}x{h} pixels are too few: {needs}; leave it out')


def _sizes(evaluation: Evaluation, scales: Mapping[str, int]) -> Iterator[tuple[Path, tuple[int, int]]]:
    """The images that are measured, by their truth where there is one, with widths and heights that they will have.

    Args:
        evaluation: what is measured.
        scales: of the checkpoints that are known, by method.
    """
    seen: set[Path] = set()
    for method, dataset, item in evaluation.images():
        restored, scale = evaluation.restored[method.name, dataset.name, item.name], 1
        if item.truth is not None:
            path = item.truth
        elif not method.is_checkpoint:
            path = restored
        elif item.lq is not None and method.name in scales:
            path, scale = item.lq, scales[method.name]
        else:
            continue
        if path not in seen:
            w, h = image_size(path)
            yield path, (w * scale, h * scale)
            if scale == 1:
                seen.add(path)


def _costs(entries: Sequence[str], methods: Sequence[str]) -> dict[str, float]:
    """Multiply-adds by method from `NAME=G`."""
    costs = {}
    for entry in entries:
        name, _, giga = entry.rpartition('=')
        if name not in methods:
            raise UserError(f"--cost {entry}: no method '{name}'{nearest(name, methods)}; write NAME=G")
        try:
            costs[name] = float(giga) * 1e9
        except ValueError:
            costs[name] = math.nan
        if not 0 < costs[name] < math.inf:
            raise UserError(f"--cost {entry}: '{giga}' is not a number of 10^9 multiply-adds")
    return costs


def _dataset(entry: Sequence[str | None]) -> DataSet:
    name = entry[0] if entry else None
    if not 2 <= len(entry) <= 3 or name is None:
        raise UserError(f'--data {" ".join(map(str, entry))}: write NAME TRUTH [LQ], - for a folder that is not there')
    folders = [None if folder == '-' else folder for folder in [*entry[1:], None][:2]]
    return find_dataset(name, *folders)
