"""One call that evaluates, and the files it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
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
    evaluation = Evaluation(found, datasets, wanted, crop_border, output)
    rectangles = [figures.parse_crop(text) for text in crops]
    costs = _costs(cost, [method.name for method in found])
    # What cannot work is said before hours of work, not after.
    _check_border(evaluation)
    for rectangle in rectangles:
        figures.check_crop(evaluation, rectangle)
    for metric in wanted:
        metric.load()
    restorers = load_restorers(evaluation, **restoring)
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


def _check_border(evaluation: Evaluation) -> None:
    """Find out before anything is measured whether the crop leaves enough of every true image.

    Raises:
        UserError: the border is negative, or leaves less than a metric needs of an image, which is named.
    """
    border = evaluation.crop_border
    if border < 0:
        raise UserError(f'--crop-border {border}: must be 0 or more pixels')
    needed = {metric.name: metric.smallest for metric in evaluation.metrics if 'crop_border' in metric.options}
    if not needed:
        return
    name = max(needed, key=lambda key: needed[key])
    for truth in {item.truth for dataset in evaluation.datasets for item in dataset.items if item.truth is not None}:
        w, h = image_size(truth)
        if min(w, h) - 2 * border < needed[name]:
            raise UserError(
                f'--crop-border {border}: leaves {max(w - 2 * border, 0)}x{max(h - 2 * border, 0)} pixels of {truth}, '
                f'{w}x{h} pixels, and {name} needs {needed[name]}x{needed[name]}'
            )


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
