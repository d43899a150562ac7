"""`vmambair prepare`: from downloaded archives to the folders that the option files read.

Images keep their bytes; each is decoded once to see that it is one, written, and read back. What is there already is
left, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError, nearest
from ...files import sweep
from ...images.headers import read_headers
from ..pairs import decode_pixels, folder_images
from . import derive
from .archives import Archive, find_archives
from .catalogue import SOURCES, Source

__all__ = ['SOURCES', 'Preparation', 'prepare']


@dataclass
class Preparation:
    """What was prepared.

    Attributes:
        say: gets a line for every folder when it is done.
        faults: what is missing or damaged, a line each.
    """

    say: Callable[[str], None] = lambda line: None
    faults: list[str] = field(default_factory=list)

    def done(self, path: Path, count: int) -> None:
        self.say(f'{path}: {count} images')


@dataclass(frozen=True)
class Extras:
    """What is made besides, see `prepare`."""

    bicubic: list[int] | None
    multiscale: bool
    sub_images: int
    lmdb: bool
    workers: int

    def scales(self, source: Source) -> list[int]:
        """Of the low-resolution images.

        Raises:
            UserError: sub-images that do not fit them.
        """
        scales = list(source.bicubic) if self.bicubic is None else self.bicubic
        unit = math.lcm(*scales)
        if self.sub_images < 0 or self.sub_images % unit:
            raise UserError(f'--sub-images {self.sub_images}: must be a multiple of {unit}, to fit at every scale')
        return scales


def prepare(
    names: list[str],
    downloads: Path,
    out: Path,
    *,
    bicubic: list[int] | None = None,
    multiscale: bool = False,
    sub_images: int = 0,
    lmdb: bool = False,
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Preparation:
    """Lay out data sets below `out`.

    Args:
        names: of `SOURCES`.
        downloads: folder of the archives, or of the folders that they were unpacked to.
        out: folder of all data sets, `datasets` in the option files.
        bicubic: scales of low-resolution images to make in `LR_bicubic/X<scale>`; by default 4 for SR test sets.
        multiscale: make `HR_multiscale`, smaller versions of the training images.
        sub_images: side of the squares that all SR images are cut into as well, in `<folder>_sub`; 0 for none.
            `meta_info_targets.txt` lists the high-resolution images or squares, with those of their smaller versions.
        lmdb: put every folder of images into an LMDB beside it too.
        workers: threads; default one for each core.
        say: gets a line for every folder when it is done.

    Raises:
        UserError: an unknown data set; sub-images that do not fit the scales; nothing of it in `downloads`, with its
            page and layout; a damaged archive.
    """
    for name in names:
        if name not in SOURCES:
            raise UserError(f"unknown data set '{name}'{nearest(name, list(SOURCES))}; there are {', '.join(SOURCES)}")
    extras = Extras(bicubic, multiscale, sub_images, lmdb, max(1, workers or os.cpu_count() or 1))
    sources = [SOURCES[name] for name in names]
    # All that can be refused is refused before the first image is written.
    plan = [(source, _archives(source, downloads), extras.scales(source)) for source in sources]
    result = Preparation(say)
    for source, archives, scales in plan:
        root = out / source.folder
        sweep(root, below=True)
        folders = _unpack(source, archives, root, result)
        _check_pairs(source, root, result)
        if 'HR' in folders:
            folders += _derive(root, scales, extras)
        _list(root, folders, extras, result)
    return result


def _list(root: Path, folders: list[str], extras: Extras, result: Preparation) -> None:
    """Lists and databases of finished folders."""
    for folder in folders:
        path = root / folder
        count = derive.meta_info(path, [path], root / f'meta_info_{folder.replace("/", "_")}.txt')
        result.done(path, count)
        if extras.lmdb:
            result.done(derive.make_lmdb(path, _ending(folder)), count)
    ending = '_sub' if extras.sub_images else ''
    if targets := [root / folder for folder in (f'HR{ending}', f'HR_multiscale{ending}') if folder in folders]:
        path = root / 'meta_info_targets.txt'
        result.done(path, derive.meta_info(root, targets, path))


def _archives(source: Source, downloads: Path) -> list[Path]:
    archives = find_archives(downloads, source.archives)
    if not archives:
        looked_for = ', '.join(dict.fromkeys(source.archives))
        raise UserError(
            f'{source.name}: nothing named {looked_for} in {downloads}; put its archives or unpacked folders there, '
            f'with {source.layout}; official page: {source.page}'
        )
    return archives


def _unpack(source: Source, archives: list[Path], root: Path, result: Preparation) -> list[str]:
    """Write the images of a data set; the folders that have any, in order."""
    found: dict[Path, str] = {}
    for path in archives:
        with Archive(path) as archive:
            jobs = [job for job in _jobs(source, archive, root) if job[2] not in found]
            for member, folder, target in derive.progress(jobs, path.name, len(jobs)):
                found[target] = folder
                if target.exists() and target.stat().st_size == archive.members[member]:
                    continue
                data = archive.read(member)
                try:
                    decode_pixels(data, f'{path}: {member}')
                except UserError as error:
                    result.faults.append(str(error))
                    continue
                derive.write_checked(target, data)
    if not found:
        names = ', '.join(path.name for path in archives)
        raise UserError(
            f'{source.name}: found {names}, but no images as {source.layout} in it; official page: {source.page}'
        )
    expected: dict[str, int] = {}
    for part in source.parts:
        expected[part.folder] = expected.get(part.folder, 0) + part.count
    folders = [folder for folder in expected if (root / folder).is_dir() and folder in found.values()]
    for folder, count in expected.items():
        present = len(folder_images(root / folder)) if folder in folders else 0
        if present < count:
            result.faults.append(f'{root / folder}: {present} of {count} images; official page: {source.page}')
    return folders


def _jobs(source: Source, archive: Archive, root: Path) -> Iterator[tuple[str, str, Path]]:
    """Member, folder and target of every image of an archive that belongs to the data set."""
    members = list(archive.members)
    taken: dict[Path, str] = {}
    for part in source.parts:
        for member, name in part.pick(members).items():
            target = root / part.folder / name
            if taken.setdefault(target, member) != member:
                raise UserError(f'{archive.path}: both {taken[target]} and {member} would become {target}')
            yield member, part.folder, target


def _check_pairs(source: Source, root: Path, result: Preparation) -> None:
    """Partners of equal size for every image; read from the files that were written."""
    for input_folder, target_folder in source.pairs:
        if not ((root / input_folder).is_dir() and (root / target_folder).is_dir()):
            continue
        inputs, targets = ({p.stem: p for p in folder_images(root / f)} for f in (input_folder, target_folder))
        for name in sorted(set(inputs) ^ set(targets)):
            path = inputs.get(name) or targets[name]
            result.faults.append(
                f'{path}: has no partner in {root / (target_folder if name in inputs else input_folder)}'
            )
        both = sorted(set(inputs) & set(targets))
        headers = zip(read_headers(inputs[n] for n in both), read_headers(targets[n] for n in both), strict=True)
        for name, (a, b) in zip(both, headers, strict=True):
            if fault := a.fault or b.fault:
                result.faults.append(f'{inputs[name] if a.fault else targets[name]}: {fault}')
            elif (a.width * source.scale, a.height * source.scale) != (b.width, b.height):
                times = f'{b.width}x{b.height}, not {source.scale} times its input of {a.width}x{a.height}'
                result.faults.append(f'{targets[name]}: is {times}')


def _derive(root: Path, scales: list[int], extras: Extras) -> list[str]:
    """Make what was asked for from `HR`; the new folders."""
    made = []
    for scale in scales:
        made.append(f'LR_bicubic/X{scale}')
        derive.bicubic(root / 'HR', root / made[-1], scale, extras.workers)
    if extras.multiscale:
        made.append('HR_multiscale')
        derive.multiscale(root / 'HR', root / made[-1], extras.workers)
    if size := extras.sub_images:
        unit = math.lcm(*scales)
        for folder in ['HR', *made]:
            ending = _ending(folder)
            scale = int(ending[1:] or 1)
            out = root / f'{folder}_sub'
            derive.sub_images(root / folder, out, size // scale, unit // scale, extras.workers, ending)
        made += [f'{folder}_sub' for folder in ['HR', *made]]
    return made


def _ending(folder: str) -> str:
    """What names in a folder of low-resolution images end in: `x4` in `LR_bicubic/X4`."""
    return f'x{folder.rpartition("X")[2]}' if folder.startswith('LR_bicubic') and folder[-1].isdigit() else ''
