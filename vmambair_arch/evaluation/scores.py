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
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..files import read_records, replacing
from ..images.image_io import image_size, read_image
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
    """The truth without the last rows and columns that a downsampling by 2, 3 or 4 has dropped."""
    (h, w), (full_h, full_w) = image.shape[:2], truth.shape[:2]
    if not any((h, w) == (full_h // s * s, full_w // s * s) for s in (1, 2, 3, 4)):
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
    known, restored = read_scores(evaluation), _read_restored(evaluation)
    jobs = list(evaluation.images())[rank::ranks]
    with (
        _appending(evaluation.output / f'scores-{rank}.jsonl') as scores,
        _appending(evaluation.output / f'restored-{rank}.jsonl') as made,
        tqdm(jobs, unit='image', disable=rank > 0) as bar,
    ):
        for method, dataset, item in bar:
            bar.set_description(f'{method.name}: {dataset.name}', refresh=False)
            key = method.name, dataset.name, item.name
            path = evaluation.restored[key]
            if method.is_checkpoint and key not in restored:
                assert item.lq is not None  # `Evaluation` refuses checkpoints for images without one
                restorers[method.name](item.lq, path)
                made({'key': key, 'stamp': _stamp(path, item.lq)})
                known.pop(key, None)
            missing = [metric for metric in metrics if metric.key not in known.get(key, {})]
            if missing:
                image, truth = evaluation.pair(method.name, dataset.name, item)
                try:
                    values = {metric.key: metric(image, truth) for metric in missing}
                except UserError as error:
                    raise UserError(f'{path}: {error}') from error
                stamp = [evaluation.crop_border, *_stamp(path, item.truth)]
                scores({'key': key, 'stamp': stamp, 'scores': values})


@contextmanager
def _appending(path: Path) -> Iterator[Callable[[Any], None]]:
    """What adds a line of JSON to a file, at once.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error

    def add(entry: Any) -> None:
        # The newline comes first: it parts this line from one that a killed run has cut off.
        file.write('\n' + json.dumps(entry))
        file.flush()

    with file:
        yield add


def read_scores(evaluation: Evaluation) -> dict[Key, dict[str, float]]:
    """What all processes of all runs have measured on files as they are now, by `Metric.key`."""
    stamps: dict[Key, list] = {}
    for method, dataset, item in evaluation.images():
        key = method.name, dataset.name, item.name
        if evaluation.restored[key].exists():
            stamps[key] = [evaluation.crop_border, *_stamp(evaluation.restored[key], item.truth)]
    found: dict[Key, dict[str, float]] = {}
    for key, entry in _entries(evaluation.output, 'scores'):
        scores = entry.get('scores')
        if stamps.get(key) == entry['stamp'] and isinstance(scores, dict):
            numbers = {name: value for name, value in scores.items() if isinstance(value, (int, float))}
            found.setdefault(key, {}).update(numbers)
    return found


def _read_restored(evaluation: Evaluation) -> set[Key]:
    """The images that earlier runs have restored from inputs as they are now."""
    stamps: dict[Key, list] = {}
    for method, dataset, item in evaluation.images():
        key = method.name, dataset.name, item.name
        if method.is_checkpoint and evaluation.restored[key].exists():
            stamps[key] = _stamp(evaluation.restored[key], item.lq)
    return {key for key, entry in _entries(evaluation.output, 'restored') if stamps.get(key) == entry['stamp']}


def _entries(output: Path, kind: str) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The lines of all processes, by key; one that was cut off, or has no key or stamp, does not count."""
    for file in sorted(output.glob(f'{kind}-*.jsonl')):
        for entry in read_records(file):
            match entry:
                case {'key': [str(method), str(dataset), str(image)], 'stamp': list()}:
                    yield (method, dataset, image), entry


def _stamp(*paths: Path | None) -> list:
    """What changes when one of the files does, JSON-ready."""
    files = [(path, path.stat()) for path in paths if path is not None]
    return [[str(path.resolve()), status.st_size, status.st_mtime_ns] for path, status in files]


def collect(evaluation: Evaluation) -> None:
    """Fill `scores` and `folder_scores` when all processes are done.

    Raises:
        UserError: a process has not done its part.
    """
    found = read_scores(evaluation)
    for method, dataset, item in evaluation.images():
        key = method.name, dataset.name, item.name
        wanted = [metric for metric in evaluation.metrics if not metric.of_folders]
        if any(metric.key not in found.get(key, {}) for metric in wanted):
            raise UserError(f'{evaluation.output}: no scores of {" / ".join(key)}; run the same command again')
        evaluation.scores[key] = {metric.name: found[key][metric.key] for metric in wanted}
    for metric in evaluation.metrics:
        if metric.of_folders:
            for method in evaluation.methods:
                for dataset in evaluation.datasets:
                    evaluation.folder_scores[method.name, dataset.name, metric.name] = metric(
                        (evaluation.pair(method.name, dataset.name, item)[0] for item in dataset.items),
                        (read_image(item.truth).rgb for item in dataset.items if item.truth),
                    )


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Every image's scores, a row each."""
    names = [metric.name for metric in evaluation.metrics if not metric.of_folders]
    with (
        replacing(path) as temporary,
        temporary.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file,
    ):
        writer = csv.writer(file)
        writer.writerow(['method', 'dataset', 'image', *names])
        writer.writerows([*key, *(scores[name] for name in names)] for key, scores in evaluation.scores.items())


def load_restorers(evaluation: Evaluation, **options: Any) -> dict[str, Restorer]:
    """A restorer for every checkpoint, with a word on which of its parameters it takes.

    Images that another checkpoint of that name restored before are refused.

    Raises:
        UserError: as `Restorer.from_pretrained`, such images are there, or the scale is not that of the data.
    """
    restorers = {}
    for method in evaluation.methods:
        if not method.is_checkpoint:
            continue
        restorer = restorers[method.name] = Restorer.from_pretrained(method.path, **options)
        parameter_set = getattr(restorer.model, 'parameter_set', '')
        if parameter_set and world()[0] == 0:
            sys.stderr.write(f'vmambair: {method.path}: {parameter_set}\n')
        _check_scale(evaluation, method, getattr(restorer.model, 'scale', 1))
        folder = evaluation.output / 'restored' / method.name
        status = method.path.stat()
        settings = {name: value for name, value in options.items() if name != 'device'}
        mark = json.dumps([str(method.path.resolve()), status.st_size, status.st_mtime_ns, settings], default=str)
        note = folder / 'checkpoint.json'
        if note.exists() and note.read_text(encoding='utf-8') != mark and any(folder.glob('*/*.png')):
            raise UserError(f'{folder} holds images of another checkpoint or other settings; delete it or change -o')
        with replacing(note) as temporary:
            temporary.write_text(mark, encoding='utf-8')
    return restorers


def _check_scale(evaluation: Evaluation, method: Method, scale: int) -> None:
    """Raise a UserError where a network of this scale cannot make an image of the size of its truth."""
    for dataset in evaluation.datasets:
        for item in dataset.items:
            if item.truth is None or item.lq is None:
                continue
            (w, h), (full_w, full_h) = image_size(item.lq), image_size(item.truth)
            if not (0 <= full_w - w * scale < 4 and 0 <= full_h - h * scale < 4):
                raise UserError(
                    f'{method.path} makes images {scale} times as large, which do not fit: {item.lq} has {w}x{h} '
                    f'pixels, its truth {item.truth} {full_w}x{full_h}'
                )


def world() -> tuple[int, int]:
    """Rank and number of processes, as torchrun says them."""
    return int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
