"""Which file becomes which, decided and checked before the network runs.

- Inputs are files, folders and patterns. A folder's tree is kept; of several inputs, each folder keeps its name.
- The tree is walked in sorted order; hidden names, symlinked folders (which may run in circles) and the output folder,
  where it lies inside, are left out, and named. A symlinked file is read like any other.
- Nothing is written outside of the output folder, wherever symlinks in it point.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..errors import UserError, nearest
from ..images.formats import KINDS, MOVING, SUFFIXES, format_of
from ..images.image_io import MAX_PIXELS, Facts, check_regular, inspect_image, no_alpha
from .records import FOLDER, is_result
from .video import CONTAINERS, INSTEAD

VIDEOS = ('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi', '.mpg', '.mpeg', '.ts')
"""Suffixes that are read as video."""
NOT_FOLDERS = (
    *SUFFIXES,
    *MOVING,
    *VIDEOS,
    '.jxl',
    '.exr',
    '.psd',
    '.svg',
    '.pdf',
    '.raw',
    '.dng',
    '.hdr',
    '.wmv',
    '.flv',
)
"""What nobody calls a folder by."""
TAKEN = {*SUFFIXES, *MOVING, *VIDEOS}
"""Suffixes of what is restored in a folder; files without any are looked into."""
STILL_GIF = 'a GIF has 256 colours, too few for a photograph; write it as png or webp'


_PIXELS_A_BYTE = 50  # of a video, about


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Attributes:
        source, target: from where to where.
        kind: how it is done.
        weight: how much work it is beside others, in pixels.
        note: what is done otherwise than one might think.
    """

    source: Path
    target: Path
    kind: Literal['image', 'moving', 'video'] = 'image'
    weight: int = 1
    note: str = ''


@dataclass
class Plan:
    """What will be done.

    Attributes:
        jobs: in order.
        output: the folder that results may not leave; None for a single file.
        failed: bad inputs, and what is wrong with each in one line.
        ignored: files in folders that are not taken, and why.
    """

    jobs: list[Job] = field(default_factory=list)
    output: Path | None = None
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)


def make_plan(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    suffix: str = '',
    format: str = 'auto',
    quality: int | None = None,
    max_pixels: int = MAX_PIXELS,
    scale: float = 1,
) -> Plan:
    """Decide what to do; reads headers of images only.

    Args:
        inputs: files, folders, patterns.
        output: a folder, or for a single file also a file name.
        suffix: goes between the stem and the suffix of each result.
        format: 'auto', or a suffix of `formats.SUFFIXES` without the dot.
        quality: of lossy formats, for the notes.
        max_pixels: larger images are bad.
        scale: output size over input size, for formats with a largest size.

    Raises:
        UserError: an input is missing, there is nothing to restore, a single input is bad, the output cannot be one.
    """
    try:
        return _made(inputs, output, suffix, format, quality, max_pixels, scale)
    except OSError as error:
        raise UserError(f'{error.filename or output}: cannot be used ({error.strerror or error})') from error


def _made(
    inputs: Sequence[str | Path],
    output: str | Path,
    suffix: str,
    format: str,
    quality: int | None,
    max_pixels: int,
    scale: float,
) -> Plan:
    sources = _expand(inputs)
    single = len(sources) == 1 and not sources[0].is_dir()
    target = _output(output, sources, single)
    plan = Plan(output=None if single else target)
    found = [(sources[0], target)] if single and not _is_folder(output) else list(_find(sources, target, suffix, plan))
    named = found[0][1] if single and not _is_folder(output) else None
    jobs = []
    for path, place in found:
        try:
            jobs.append(_job(path, place, named, suffix, format, quality, max_pixels, scale))
        except (UserError, OSError) as error:
            if single:
                raise
            reason = f'{path}: cannot be used ({error.strerror})' if isinstance(error, OSError) else str(error)
            plan.failed.append((path, reason))
    plan.jobs = _apart(jobs, suffix, plan, single)
    if not plan.jobs and not plan.failed:
        looked = ', '.join((*SUFFIXES, '.gif', *VIDEOS))
        raise UserError(f'{", ".join(map(str, sources[:3]))}: no images in this folder (looked for {looked})')
    return plan


def _expand(inputs: Sequence[str | Path]) -> list[Path]:
    """Paths in their order, each once; a pattern that the shell left alone is one of ours."""
    found: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.exists() or path.is_symlink():
            found.append(path)
            continue
        matches = sorted(glob.glob(str(given), recursive=True)) if glob.has_magic(str(given)) else []  # noqa: PTH207 as a shell
        if not matches:
            what = 'nothing matches this pattern' if glob.has_magic(str(given)) else 'no such file or folder'
            raise UserError(f'{given}: {what}')
        found += map(Path, matches)
    if not found:
        raise UserError('name at least one image, video or folder')
    return list(dict.fromkeys(found))


def _is_folder(output: str | Path) -> bool:
    path = Path(output)
    return str(output).endswith(('/', os.sep)) or path.is_dir() or not path.suffix


def _output(output: str | Path, sources: list[Path], single: bool) -> Path:
    path = Path(output)
    if single and not _is_folder(output):
        source = sources[0]
        ending = path.suffix.lower()
        moving = source.suffix.lower() in VIDEOS
        if moving and ending in VIDEOS or not moving and ending in {**SUFFIXES, **MOVING}:
            return path
        known = VIDEOS if moving else tuple(SUFFIXES)
        if ending in (*VIDEOS, *SUFFIXES):
            raise UserError(f'{path}: {source} cannot become that; use one of {", ".join(known)}')
        raise UserError(
            f"{path}: cannot be written as '{path.suffix}'{nearest(ending, list(known))}; "
            f'use one of {", ".join(known)}, or end the name with / for a folder'
        )
    if path.exists() and not path.is_dir():
        raise UserError(f'{path}: is a file, but there are several inputs; name a folder for the results')
    if not path.is_dir() and not str(output).endswith(('/', os.sep)) and _is_file_name(path.suffix.lower()):
        raise UserError(f'{path}: is the name of one file, but the results are several; end it with / for a folder')
    return path


def _is_file_name(suffix: str) -> bool:
    """Whether a suffix is that of a picture or video, or meant to be."""
    return suffix in NOT_FOLDERS or suffix[1:].isalpha() and bool(nearest(suffix, list(NOT_FOLDERS)))


def _find(sources: list[Path], output: Path, suffix: str, plan: Plan) -> Iterator[tuple[Path, Path]]:
    """Each input file and the folder that its result goes to."""
    for source in sources:
        if not source.is_dir():
            yield source, output
            continue
        inside = output.resolve() == source.resolve()
        if inside and not suffix:
            raise UserError(f'{output}: is the input folder; name another one for the results, or a --suffix')
        base = output if len(sources) == 1 else output / source.resolve().name
        for path in _walk(source, None if inside else output.resolve(), plan):
            yield path, base / path.relative_to(source).parent


def _walk(source: Path, excluded: Path | None, plan: Plan) -> Iterator[Path]:
    def sealed(error: OSError) -> None:
        plan.failed.append((Path(error.filename), f'{error.filename}: cannot be looked into ({error.strerror})'))

    for here, folders, files in os.walk(source, onerror=sealed):
        kept = []
        for name in sorted(folders):
            path = Path(here, name)
            if name == FOLDER or path.resolve() == excluded:
                continue
            if name.startswith('.'):
                plan.ignored.append((path, 'hidden'))
            elif path.is_symlink():
                plan.ignored.append((path, 'symlinked folder'))
            else:
                kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            path = Path(here, name)
            if name.startswith('.'):
                plan.ignored.append((path, 'hidden'))
            elif path.suffix.lower() not in {**SUFFIXES, **MOVING}.keys() | set(VIDEOS) and not _is_nameless_image(
                path
            ):
                plan.ignored.append((path, 'no image or video by its name'))
            elif is_result(path):
                plan.ignored.append((path, 'result of an earlier run'))
            else:
                yield path


def _is_nameless_image(path: Path) -> bool:
    if path.suffix:
        return False
    try:
        inspect_image(path)
    except UserError:
        return False
    return True


def _job(
    path: Path,
    place: Path,
    named: Path | None,
    suffix: str,
    format: str,
    quality: int | None,
    max_pixels: int,
    scale: float,
) -> Job:
    check_regular(path)
    if path.suffix.lower() in VIDEOS:
        held = path.suffix.lower() in CONTAINERS
        target = named or place / f'{path.stem}{suffix}{path.suffix if held else INSTEAD}'
        note = '' if held or named else f'written as {INSTEAD}, since videos are not written as {path.suffix}'
        return Job(path, _not_itself(path, target), 'video', max(1, path.stat().st_size * _PIXELS_A_BYTE), note)
    facts = inspect_image(path, max_pixels=max_pixels)
    moving = facts.frames > 1
    if moving and facts.format not in MOVING.values():
        raise UserError(f'{path}: has {facts.frames} frames or pages; extract those you want as single images first')
    ending = named.suffix if named else _ending(path, facts, format, moving)
    target = named or place / f'{path.stem if path.suffix else path.name}{suffix}{ending}'
    note = ''
    if named is None and format == 'auto' and path.suffix and ending.lower() != path.suffix.lower():
        note = f'is {facts.format} in truth, written as {ending}' if facts.format != 'GIF' else f'written as {ending}'
    if moving:
        if ending.lower() not in MOVING:
            raise UserError(f'{path}: has {facts.frames} frames, which {ending} cannot hold; use gif, webp or png')
        if facts.width * facts.height * facts.frames > max_pixels:
            raise UserError(
                f'{path}: too large ({facts.frames} frames of {facts.width}x{facts.height} pixels, the limit is '
                f'{max_pixels} pixels); make a video of it'
            )
    else:
        if ending.lower() == '.gif':
            raise UserError(f'{target}: {STILL_GIF}')
        kind = KINDS[format_of(target)]
        if facts.alpha and not kind.alpha:
            raise UserError(f'{path}: {no_alpha(format_of(target))}')
        largest = round(max(facts.width, facts.height) * scale)
        if kind.largest and largest > kind.largest:
            raise UserError(f'{path}: {format_of(target)} holds {kind.largest} pixels a side, not {largest}; use png')
        if kind.lossy and not facts.lossy and not (facts.format == format_of(target) == 'WEBP' and quality is None):
            lossless = quality == 100 and format_of(target) == 'WEBP'
            note = note or ('' if lossless else f'lossless before, now {format_of(target)} of quality {quality or 95}')
    return Job(
        path,
        _not_itself(path, target),
        'moving' if moving else 'image',
        facts.width * facts.height * facts.frames,
        note,
    )


def _ending(path: Path, facts: Facts, format: str, moving: bool) -> str:
    """The suffix of the result where the user named no file."""
    if format != 'auto':
        return f'.{format}'
    if moving:
        return next(suffix for suffix, name in MOVING.items() if name == facts.format)
    if facts.format == 'GIF':
        return '.png'
    own = SUFFIXES.get(path.suffix.lower())
    if own is None or facts.alpha and not KINDS[own].alpha:
        return KINDS[facts.format].suffixes[0]
    return path.suffix


def _not_itself(path: Path, target: Path) -> Path:
    if target.resolve() == path.resolve():
        raise UserError(f'{path}: would be overwritten by its result; choose another output or a --suffix')
    return target


def _apart(jobs: list[Job], suffix: str, plan: Plan, single: bool) -> list[Job]:
    """The jobs with a place each: of a.png and a.jpg that both become a.png, the second becomes a.jpg.png."""
    inputs = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    # Those that keep their own ending keep their name.
    for job in sorted(jobs, key=lambda job: job.source.suffix.lower() != job.target.suffix.lower()):
        target = job.target
        if target in taken and job.source.suffix:
            target = target.with_name(f'{job.source.name}{suffix}{target.suffix}')
        if target in taken:
            message = f'{job.source}: its result would overwrite that of {taken[target]}; restore it apart'
            plan.failed.append((job.source, message))
        elif target.resolve() in inputs and not single:
            message = f'{job.source}: its result would overwrite the input {target}; choose another output or --suffix'
            plan.failed.append((job.source, message))
        else:
            taken[target] = job.source
    places = {source: target for target, source in taken.items()}
    return [
        job if places[job.source] == job.target else replace(job, target=places[job.source], note=_moved(places, job))
        for job in jobs
        if job.source in places
    ]


def _moved(places: dict[Path, Path], job: Job) -> str:
    return f'written as {places[job.source].name}, since another one becomes {job.target.name}'
