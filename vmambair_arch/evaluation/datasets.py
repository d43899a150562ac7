"""What is evaluated: test sets, methods, and which of their images belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..checkpoints.download import is_url
from ..checkpoints.find import find_checkpoint
from ..data.pairs import folder_images
from ..errors import UserError


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
    check_name(name, 'data set')
    truths = _by_name(truth) if truth else {}
    lqs = _by_name(lq) if lq else {}
    if not truths and not lqs:
        raise UserError(f'data set {name}: name the folder of the true images, of the inputs, or both')
    stems = list(truths or lqs)
    found = partners(stems, lqs, str(lq)) if lq else {}
    return DataSet(name, tuple(Item(stem, truths.get(stem), found.get(stem)) for stem in stems))


def find_methods(arguments: Sequence[str]) -> list[Method]:
    """Methods from `NAME=PATH` or `PATH`, a path being a folder of restored images or a checkpoint.

    Raises:
        UserError: no such folder or checkpoint, or two methods of one name.
    """
    methods = []
    for argument in arguments:
        name, equals, path = argument.partition('=')
        if is_url(argument):  # which may have a = of its own, as a path may
            name, path = PurePosixPath(urlsplit(argument).path).stem, argument
        elif not equals or Path(argument).exists():
            name, path = Path(argument).resolve().stem, argument
        check_name(name, 'method')
        methods.append(Method(name, Path(path) if Path(path).is_dir() else find_checkpoint(path)))
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two methods are called '{twice}'; write NAME=PATH to tell them apart")
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
    return partners([item.name for item in dataset.items], images, str(folder))


def partners(stems: Sequence[str], images: Mapping[str, Path], where: str) -> dict[str, Path]:
    """The image of every stem: the one called so, else `stem` and then `x4` or `_suffix`, as results often are.

    An image belongs to the longest stem that it fits, so that `img_2_net` is never taken for a result of `img`.

    Args:
        stems: names without suffix.
        images: by name without suffix.
        where: their folder, for messages.

    Raises:
        UserError: a stem has no image, or more than one with a suffix.
    """
    # Read from the end of a name, the first stem that is met is the longest.
    known = set(stems)
    fitting: dict[str, list[str]] = {stem: [] for stem in stems}
    for name in images:
        for end in range(len(name), 0, -1):
            if name[:end] in known and _ENDING.fullmatch(name[end:]):
                fitting[name[:end]].append(name)
                break
    found = {}
    for stem, names in fitting.items():
        if stem in names:
            names = [stem]
        if len(names) != 1:
            several = f'; these could be it: {", ".join(names[:3])}' if names else ''
            raise UserError(f"{where}: no image for '{stem}'{several}")
        found[stem] = images[names[0]]
    return found


_ENDING = re.compile(r'((x\d+|_).*)?', re.IGNORECASE)


def _by_name(folder: str | Path) -> dict[str, Path]:
    return {path.stem: path for path in folder_images(folder)}


def check_name(name: str, what: str) -> None:
    """Raise a UserError for the name of a `what` that could not be a folder and a cell of a table."""
    if not name or name.startswith('.') or re.search(r'[/\\|\x00-\x1f]', name):
        raise UserError(
            f"'{name}' cannot name a {what}: no slash, bar or control character, and no dot at its beginning"
        )


def check_names(datasets: Iterable[DataSet]) -> None:
    """Raise a UserError where two test sets have one name."""
    seen = set()
    for dataset in datasets:
        if dataset.name in seen:
            raise UserError(f"two data sets are called '{dataset.name}'")
        seen.add(dataset.name)
