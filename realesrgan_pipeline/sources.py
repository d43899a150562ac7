"""Several folders in one data set: which they are, and whose image comes at which place of a run.

Whose turn it is depends on the seed and the place alone, as everything that is drawn: the same for any number of
workers and after a resume.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPLATE = "text with one {} in it, as '{}x4'"
"""What `is_template` wants."""

BLOCK = 10_000
"""Draws in which every folder gets exactly its share; the least share is one draw of these."""

# Tags that keep the streams of random numbers apart; 1 is that of what is drawn of an image.
_ALL, _FOLDER, _WITHIN = 0, 2, 3


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder that lie in no hidden one; links are followed, and nothing is visited twice."""
    visited = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        where = os.path.realpath(root)
        if where in visited:
            folders.clear()
            continue
        visited.add(where)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        yield from (Path(root, name) for name in files)


def read_sources(section: Mapping[str, Any], keys: Collection[str], name: str) -> list[dict[str, Any]]:
    """The folders of a section, each as a section of its own: what is said for all, and what one entry says.

    Args:
        section: with `sources`, a list of sections.
        keys: that an entry may have beside `weight`. Those with `dataroot` or `meta_info` in them belong to a folder
            and may not stand beside `sources`; the others are there what they are in an entry that has none.
        name: of the data set, for messages.

    Returns:
        The sections, roots with `~` expanded; `weight` stands in all of them or in none.

    Raises:
        ValueError: one line that names the entry and the key.
    """
    entries = section.get('sources')
    where = f'data set {name}: sources'
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ValueError(f'{where} must be a list of folders, as - {{dataroot_gt: FOLDER, weight: 1}}')
    allowed = sorted({*keys, 'weight'})
    # What belongs to one folder.
    both = [key for key, value in section.items() if ('dataroot' in key or 'meta_info' in key) and value is not None]
    both = [key for key in both if key in allowed]
    if both:
        raise ValueError(f'data set {name}: {both[0]} stands beside sources; move it into an entry of them')
    rest = dict(section)
    rest.pop('sources')
    found = []
    for number, entry in enumerate(entries, 1):
        place = f'{where}: entry {number}'
        if not isinstance(entry, Mapping):
            raise ValueError(f'{place} must be a section, as {{dataroot_gt: FOLDER}}, not {entry!r}')
        if not entry.get('dataroot_gt'):
            raise ValueError(f'{place}: dataroot_gt is missing')
        for key, value in entry.items():
            if key not in allowed:
                near = get_close_matches(str(key), allowed, 1)
                hint = f' (did you mean {near[0]!r}?)' if near else f'; it may have {", ".join(allowed)}'
                raise ValueError(f'{place}: nothing reads {key!r}{hint}')
            if value is not None and (wanted := _unlike(key, value)):
                raise ValueError(f'{place}: {key} must be {wanted}, not {value!r}')
        own = {key: str(Path(v).expanduser()) if 'root' in key and v else v for key, v in entry.items()}
        found.append(rest | own)
    return found


def is_template(value: Any) -> bool:
    """Whether a value makes the name of an input of that of a target, which stands for its one `{}`."""
    try:
        return isinstance(value, str) and '{}' in value and bool(value.format('x'))
    except (IndexError, KeyError, ValueError, AttributeError):
        return False


def _unlike(key: str, value: Any) -> str:
    """What a value must be to stand under a key of an entry; '' where it may."""
    if key == 'io_backend':
        return '' if isinstance(value, Mapping) else 'a section'
    if key == 'recursive':
        return '' if isinstance(value, bool) else 'true or false'
    if key == 'filename_tmpl':
        return '' if is_template(value) else TEMPLATE
    return '' if key == 'weight' or isinstance(value, str) else 'text'


def read_weights(sections: Sequence[Mapping[str, Any]], name: str) -> list[float] | None:
    """The `weight` of each folder; None where no folder has one.

    Raises:
        ValueError: a weight that is no number above 0, is missing in some, or below 1/10000 of all.
    """
    given = [section.get('weight') for section in sections]
    if all(weight is None for weight in given):
        return None
    weights: list[float] = []
    for number, weight in enumerate(given, 1):
        where = f'data set {name}: sources: entry {number}: weight'
        if weight is None:
            raise ValueError(f'{where} is missing; give one to each folder, or to none')
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float('inf'):
            raise ValueError(f'{where} must be a number above 0, not {weight!r}')
        weights.append(weight)
    total = sum(weights)
    for number, weight in enumerate(weights, 1):
        if weight * BLOCK < total:
            raise ValueError(f'data set {name}: sources: entry {number}: weight {weight} is below 1/{BLOCK} of all')
    return [weight / total for weight in weights]


class Order:
    """Which image comes at which place of a run.

    Without weights every image comes once before any comes again. With them every folder gets its share of each
    `BLOCK` places, spread at random over them, and every image of a folder comes once before any of that folder again.

    Args:
        seed: of the run.
        sizes: how many images each folder has; they are numbered through.
        weights: the share of each folder, sum 1; None for one order over all.
    """

    def __init__(self, seed: int, sizes: Sequence[int], weights: Sequence[float] | None = None) -> None:
        self.seed, self.sizes, self.weights = seed, list(sizes), weights
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._turns: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._block: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        if weights is not None:
            # Whole numbers of draws with the right sum: places of the borders between folders, rounded.
            borders = np.rint(np.cumsum([0.0, *weights]) * BLOCK).astype(np.int64)
            self._counts = np.diff(borders)

    def __call__(self, place: int) -> int:
        """The image at a place, both counted from 0."""
        if self.weights is None:
            return self._turn(-1, place, sum(self.sizes), (self.seed, _ALL))
        block, within = divmod(place, BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = block, *self._deal(block)
        folder = int(self._block[1][within])
        number = block * int(self._counts[folder]) + int(self._block[2][within])
        return int(self._starts[folder]) + self._turn(folder, number, self.sizes[folder], (self.seed, _WITHIN, folder))

    def any(self, rng: np.random.Generator) -> int:
        """An image at random, folders by weight: for what is mixed into another."""
        if self.weights is None:
            return int(rng.integers(sum(self.sizes)))
        folder = int(rng.choice(len(self.sizes), p=self.weights))
        return int(self._starts[folder]) + int(rng.integers(self.sizes[folder]))

    def _deal(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each place of a block: its folder, and how many places before it in the block have the same."""
        folders = np.repeat(np.arange(len(self.sizes)), self._counts)
        folders = np.random.default_rng((self.seed, _FOLDER, block)).permutation(folders)
        before = np.empty_like(folders)
        for folder, count in enumerate(self._counts):
            before[folders == folder] = np.arange(count)
        return folders, before

    def _turn(self, key: int, number: int, size: int, seed: tuple[int, ...]) -> int:
        """Image `number` of an endless row of permutations."""
        turn, place = divmod(number, size)
        if self._turns.get(key, (-1,))[0] != turn:
            self._turns[key] = turn, np.random.default_rng((*seed, turn)).permutation(size)
        return int(self._turns[key][1][place])
