"""What is evaluated: test sets, methods, and which of their images belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.pairs import folder_images
from ..errors import UserError
from ..inference.checkpoints import find_checkpoint


@dataclass(frozen=True)
class Item:
    """One image of a test set: the name of its truth (else of its input) without suffix, and where the two lie."""

    name: str
    truth: Path | None
    lq: Path | None


@dataclass(frozen=True)
class DataSet:
    """A test set, its images sorted by name."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Method:
    """Who restored: a folder of results, or a checkpoint that is yet to be run."""

    name: str
    path: Path

    @property
    def is_checkpoint(self) -> bool:
        return self.path.is_file()


def find_dataset(name: str, truth: str | Path | None, lq: str | Path | None) -> DataSet:
    """Pair the images of two folders, either of which may be missing.

    Raises:
        UserError: a folder without images, an image without partner, neither folder.
    """
    truths = _by_name(truth) if truth else {}
    lqs = _by_name(lq) if lq else {}
    if not truths and not lqs:
        raise UserError(f'data set {name}: name the folder of the true images, of the inputs, or both')
    items = []
    for stem in truths or lqs:
        found = partner(stem, lqs, str(lq)) if lq else None
        items.append(Item(stem, truths.get(stem), found))
    return DataSet(name, tuple(items))


def find_methods(arguments: Sequence[str]) -> list[Method]:
    """Methods from `NAME=PATH` or `PATH`, a path being a folder of restored images or a checkpoint.

    Raises:
        UserError: no such folder or checkpoint, or two methods of one name.
    """
    methods = []
    for argument in arguments:
        name, equals, path = argument.partition('=')
        if not equals:
            name, path = Path(argument).stem, argument
        methods.append(Method(name, Path(path) if Path(path).is_dir() else find_checkpoint(path)))
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two methods are called '{twice}'; write NAME=PATH to tell them apart")
    if any('/' in name or not name for name in names):
        raise UserError('the name of a method must not be empty or contain a slash')
    return methods


def results_of(method: Method, dataset: DataSet, alone: bool) -> dict[str, Path]:
    """The restored images of a folder by the name of the item they belong to.

    Args:
        method: a folder with a subfolder for each test set, or the images themselves.
        dataset: the test set.
        alone: it is the only one, so that the folder need not have a subfolder for it.

    Raises:
        UserError: a folder or an image is missing.
    """
    folder = method.path / dataset.name
    if not folder.is_dir():
        if not alone:
            raise UserError(f'{method.path}: no subfolder {dataset.name} with the restored images of that data set')
        folder = method.path
    images = _by_name(folder)
    return {item.name: partner(item.name, images, str(folder)) for item in dataset.items}


def partner(stem: str, images: Mapping[str, Path], where: str) -> Path:
    """The image that is called `stem`, or `stem` and then `x4` or `_suffix`, as results and inputs often are.

    Raises:
        UserError: there is none, or more than one with a suffix.
    """
    if stem in images:
        return images[stem]
    pattern = re.compile(re.escape(stem) + r'(x\d+|_).*', re.IGNORECASE)
    found = [name for name in images if pattern.fullmatch(name)]
    if len(found) != 1:
        several = f'; these could be it: {", ".join(found[:3])}' if found else ''
        raise UserError(f"{where}: no image for '{stem}'{several}")
    return images[found[0]]


def _by_name(folder: str | Path) -> dict[str, Path]:
    return {path.stem: path for path in folder_images(folder)}


def check_names(datasets: Iterable[DataSet]) -> None:
    """Raise a UserError where two test sets have one name."""
    seen = set()
    for dataset in datasets:
        if dataset.name in seen:
            raise UserError(f"two data sets are called '{dataset.name}'")
        seen.add(dataset.name)
