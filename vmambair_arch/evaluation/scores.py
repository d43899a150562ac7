"""Measure image by image, over several processes, and go on where an earlier run ended.

Every process appends a line of JSON for each image to a file of its own. A line counts as long as the files that it
was measured on have not changed. Averages are summed from the lines in the order of the images, so they are the same
for any number of processes and interruptions.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..files import replacing
from ..inference.image_io import read_image
from ..inference.restorer import Restorer
from ..metrics.catalogue import Metric
from .datasets import DataSet, Item, Method, results_of

Key = tuple[str, str, str]
"""Names of method, data set and image."""


@dataclass
class Evaluation:
    """What is measured, and the results.

    Attributes:
        methods, datasets, metrics: in the order of the tables.
        crop_border: pixels that PSNR and SSIM leave out at every edge.
        output: folder of everything that is written.
        restored: the restored image of every key; those of checkpoints come into being during `run`.
        scores: value of every metric of images, by key and name.
        folder_scores: value of every metric of folders, by method, data set and name.
    """

    methods: list[Method]
    datasets: list[DataSet]
    metrics: list[Metric]
    crop_border: int
    output: Path
    restored: dict[Key, Path] = field(default_factory=dict)
    scores: dict[Key, dict[str, float]] = field(default_factory=dict)
    folder_scores: dict[Key, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for method in self.methods:
            for dataset in self.datasets:
                if method.is_checkpoint:
                    folder = self.output / 'restored' / method.name / dataset.name
                    found = {item.name: folder / f'{item.name}.png' for item in dataset.items}
                else:
                    found = results_of(method, dataset, len(self.datasets) == 1)
                self.restored |= {(method.name, dataset.name, name): path for name, path in found.items()}
        self._check()

    def _check(self) -> None:
        for dataset in self.datasets:
            if any(metric.needs_truth for metric in self.metrics) and dataset.items[0].truth is None:
                names = ', '.join(metric.name for metric in self.metrics if metric.needs_truth)
                raise UserError(
                    f'data set {dataset.name}: {names} need the true images, and no folder of them is named'
                )
            if any(method.is_checkpoint for method in self.methods) and dataset.items[0].lq is None:
                raise UserError(f'data set {dataset.name}: a checkpoint needs inputs, and no folder of them is named')

    def images(self) -> Iterator[tuple[Method, DataSet, Item]]:
        for method in self.methods:
            for dataset in self.datasets:
                for item in dataset.items:
                    yield method, dataset, item

    def mean(self, method: str, dataset: str, metric: Metric) -> float:
        """The average over a test set."""
        if metric.of_folders:
            return self.folder_scores[method, dataset, metric.name]
        values = [v[metric.name] for (m, d, _), v in self.scores.items() if (m, d) == (method, dataset)]
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else float(np.mean(values))

    def pair(self, method: str, dataset: str, item: Item) -> tuple[np.ndarray, np.ndarray | None]:
        """A restored image and its truth, (h, w, 3) RGB in 0..1."""
        path = self.restored[method, dataset, item.name]
        image = read_image(path).rgb
        return image, None if item.truth is None else _fitting(read_image(item.truth).rgb, image, item.truth, path)


def _fitting(truth: np.ndarray, image: np.ndarray, truth_path: Path, path: Path) -> np.ndarray:
    """The truth without the last rows and columns that a downsampling by 2 to 4 has dropped."""
    (h, w), (full_h, full_w) = image.shape[:2], truth.shape[:2]
    if not (0 <= full_h - h < 4 and 0 <= full_w - w < 4):
        raise UserError(f'{path} has {w}x{h} pixels, its truth {truth_path} {full_w}x{full_h}')
    return truth[:h, :w]


def run(evaluation: Evaluation, restorers: Mapping[str, Restorer], rank: int = 0, ranks: int = 1) -> None:
    """Restore and measure this process's part of the images, with a progress bar from process 0.

    Args:
        evaluation: what to measure; `scores` gets what earlier runs have left and this process adds.
        restorers: of every method that is a checkpoint, by name.
        rank, ranks: this process takes images rank, rank + ranks, ….

    Raises:
        UserError: an image cannot be read, restored or measured, named.
    """
    metrics = [metric for metric in evaluation.metrics if not metric.of_folders]
    known = read_scores(evaluation)
    jobs = list(evaluation.images())[rank::ranks]
    evaluation.output.mkdir(parents=True, exist_ok=True)
    with (
        (evaluation.output / f'scores-{rank}.jsonl').open('a', encoding='utf-8') as file,
        tqdm(jobs, unit='image', disable=rank > 0) as bar,
    ):
        for method, dataset, item in bar:
            bar.set_description(f'{method.name}: {dataset.name}', refresh=False)
            key = method.name, dataset.name, item.name
            path = evaluation.restored[key]
            if method.is_checkpoint and not path.exists():
                restorers[method.name](item.lq, path)
            missing = [metric for metric in metrics if metric.name not in known.get(key, {})]
            if missing:
                image, truth = evaluation.pair(method.name, dataset.name, item)
                try:
                    values = {metric.name: metric(image, truth) for metric in missing}
                except UserError as error:
                    raise UserError(f'{path}: {error}') from error
                stamp = _stamp(evaluation.crop_border, path, item.truth)
                # The newline comes first: it parts this line from one that a killed run has cut off.
                file.write('\n' + json.dumps({'key': key, 'stamp': stamp, 'scores': values}))
                file.flush()


def read_scores(evaluation: Evaluation) -> dict[Key, dict[str, float]]:
    """What all processes of all runs have measured on files as they are now; a line that was cut off does not count."""
    stamps: dict[Key, list] = {}
    for method, dataset, item in evaluation.images():
        key = method.name, dataset.name, item.name
        if evaluation.restored[key].exists():
            stamps[key] = _stamp(evaluation.crop_border, evaluation.restored[key], item.truth)
    found: dict[Key, dict[str, float]] = {}
    for file in sorted(evaluation.output.glob('scores-*.jsonl')):
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
                key = tuple(entry['key'])
                if stamps.get(key) == entry['stamp']:
                    found.setdefault(key, {}).update(entry['scores'])
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _stamp(crop_border: int, *paths: Path | None) -> list:
    """What a measurement depends on, JSON-ready."""
    files = [path.stat() for path in paths if path is not None]
    return [crop_border, *([status.st_size, status.st_mtime_ns] for status in files)]


def collect(evaluation: Evaluation) -> None:
    """Fill `scores` and `folder_scores` when all processes are done.

    Raises:
        UserError: a process has not done its part.
    """
    found = read_scores(evaluation)
    for method, dataset, item in evaluation.images():
        key = method.name, dataset.name, item.name
        wanted = [metric.name for metric in evaluation.metrics if not metric.of_folders]
        if any(name not in found.get(key, {}) for name in wanted):
            raise UserError(f'{evaluation.output}: no scores of {" / ".join(key)}; run the same command again')
        evaluation.scores[key] = {name: found[key][name] for name in wanted}
    for metric in evaluation.metrics:
        if metric.of_folders:
            for method in evaluation.methods:
                for dataset in evaluation.datasets:
                    evaluation.folder_scores[method.name, dataset.name, metric.name] = metric(
                        (evaluation.pair(method.name, dataset.name, item)[0] for item in dataset.items),
                        (read_image(item.truth).rgb for item in dataset.items),
                    )


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Every image's scores, a row each."""
    names = [metric.name for metric in evaluation.metrics if not metric.of_folders]
    with replacing(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['method', 'dataset', 'image', *names])
        writer.writerows([*key, *(scores[name] for name in names)] for key, scores in evaluation.scores.items())


def load_restorers(methods: Sequence[Method], output: Path, **options: object) -> dict[str, Restorer]:
    """A restorer for every checkpoint; images that another checkpoint of that name restored before are refused.

    Raises:
        UserError: as `Restorer.from_pretrained`, or such images are there.
    """
    restorers = {}
    for method in methods:
        if not method.is_checkpoint:
            continue
        folder = output / 'restored' / method.name
        status = method.path.stat()
        mark = json.dumps([str(method.path.resolve()), status.st_size, status.st_mtime_ns, options], default=str)
        note = folder / 'checkpoint.json'
        if note.exists() and note.read_text(encoding='utf-8') != mark:
            raise UserError(f'{folder} holds images of another checkpoint or other settings; delete it or change -o')
        with replacing(note) as temporary:
            temporary.write_text(mark, encoding='utf-8')
        restorers[method.name] = Restorer.from_pretrained(method.path, **options)
    return restorers


def world() -> tuple[int, int]:
    """Rank and number of processes, as torchrun says them."""
    return int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
