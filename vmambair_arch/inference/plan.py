"""Which file becomes which, decided and checked before the network runs.

- Inputs are files, folders and patterns. A folder's tree is kept; of several inputs, each folder keeps its name.
- The tree is walked in sorted order; hidden names, symlinked folders (which may run in circles) and the output folder,
  where it lies inside, are left out, and named. A symlinked file is read like any other.
- What an earlier run of the same made of these inputs is none of them; what another run made is. A file that two inputs
  name is restored once.
- Nothing is written outside of the output folder, wherever symlinks in it point.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..errors import UserError, nearest
from ..images.formats import KINDS, MOVING, SUFFIXES, check_side, format_of
from ..images.image_io import MAX_PIXELS, Facts, Image, check_regular, inspect_image
from .records import FOLDER, entry, origin
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
RESULT = 'result of an earlier run'
TWICE = 'named twice, restored once'
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


@dataclass(frozen=True)
class _Source:
    """A file or folder that an input names.

    Attributes:
        path: as it was given.
        given: number of the input.
        root: the folder that the input holds all of: itself, or what comes before the first `*`; None for a file.
    """

    path: Path
    given: int
    root: Path | None


@dataclass(frozen=True)
class _Found:
    """A file that may be restored.

    Attributes:
        path: as it was found.
        entry: its place, see `records.entry`.
        folder: that of its result, below the output or below a folder of the source's name; None for a file by name.
        source: what it was found by.
    """

    path: Path
    entry: Path
    folder: Path | None
    source: _Source


def _made(
    inputs: Sequence[str | Path],
    output: str | Path,
    suffix: str,
    format: str,
    quality: int | None,
    max_pixels: int,
    scale: float,
) -> Plan:
    refuse_empty([*inputs, output])
    plan = Plan()
    sources = _expand(inputs, Path(output).resolve(), suffix, plan)
    every = list(_find(sources, Path(output), suffix, plan))
    found = _new(every, Path(output).resolve(), suffix, plan)
    # An input that gave nothing but results or what others name as well must not change where the rest goes.
    several = len(sources) - len({one.source for one in every} - {one.source for one in found}) > 1
    single = len(found) == 1 and found[0].folder is None
    target = _output(output, [one.path for one in found], single, format)
    named = target if single and not _is_folder(output) else None
    plan.output = None if single else target
    jobs = []
    for one in found:
        if one.folder is None:
            place = target
        else:
            place = target / (one.source.path.resolve().name if several else '') / one.folder
        try:
            jobs.append(_job(one.path, place, named, suffix, format, quality, max_pixels, scale))
        except (UserError, OSError) as error:
            if single:
                raise
            reason = f'{one.path}: cannot be used ({error.strerror})' if isinstance(error, OSError) else str(error)
            plan.failed.append((one.path, reason))
    plan.jobs = _apart(jobs, suffix, plan, single)
    if not plan.jobs and not plan.failed:
        raise UserError(_nothing(inputs, output, plan))
    return plan


def _nothing(inputs: Sequence[str | Path], output: str | Path, plan: Plan) -> str:
    """What to say where there is nothing to do."""
    where = ', '.join(map(str, inputs[:3]))
    if count := sum(why == RESULT for _, why in plan.ignored):
        what = 'the only picture is' if count == 1 else f'all {count} pictures are'
        return f'{where}: {what} of an earlier run into {output}; choose another output to restore that'
    looked = ', '.join((*SUFFIXES, '.gif', *VIDEOS))
    return f'{where}: no images in this folder (looked for {looked})'


def _expand(inputs: Sequence[str | Path], output: Path, suffix: str, plan: Plan) -> list[_Source]:
    """What the inputs name in their order, each once; a pattern that the shell left alone is one of ours.

    Args:
        output: resolved. As one of several inputs, as where the shell's `*` holds it, it is none.
    """
    found: dict[Path, _Source] = {}
    for number, given in enumerate(inputs):
        path, root = Path(given), None
        matches = [path]
        if not (path.exists() or path.is_symlink()):
            if not glob.has_magic(str(given)):
                raise UserError(f'{given}: no such file or folder')
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]  # noqa: PTH207 as a shell
            matches = [match for match in matches if not _is_left_out(match, root, output)]
            if not matches:
                raise UserError(f'{given}: nothing matches this pattern')
        for match in matches:
            place = _place(match)
            if place not in found:
                found[place] = _Source(match, number, match if match.is_dir() else root)
            elif found[place].given != number:
                plan.ignored.append((match, TWICE))
    if not found:
        raise UserError('name at least one image, video or folder')
    if len(found) > 1 and not suffix and output in found and output.is_dir():
        plan.ignored.append((found.pop(output).path, 'the output folder'))
    return list(found.values())


def _place(path: Path) -> Path:
    return path.resolve() if path.is_dir() else entry(path)


def _is_left_out(match: Path, root: Path, output: Path) -> bool:
    """Whether a pattern does not mean a file, as the same folder would not: records, and an output folder inside."""
    inside = root.resolve() in output.parents and _place(match).is_relative_to(output)
    return inside or FOLDER in match.relative_to(root).parts


def _new(found: list[_Found], output: Path, suffix: str, plan: Plan) -> list[_Found]:
    """The files, each once, without those that an earlier run of the same made of others of them."""
    places = {one.entry for one in found}
    together = {(one.source.given, one.entry) for one in found}
    kept: dict[Path, _Found] = {}
    for one in found:
        if one.entry in kept:
            if one.source.given != kept[one.entry].source.given:
                plan.ignored.append((one.path, TWICE))
            continue
        made_of = origin(one.path)
        if made_of is not None and made_of != one.entry:
            beside = (one.source.given, made_of) in together
            below = one.entry.is_relative_to(output)
            if beside or below and (made_of in places or _was_of(one, made_of, suffix)):
                plan.ignored.append((one.path, RESULT))
                continue
        kept[one.entry] = one
    return list(kept.values())


def _was_of(one: _Found, made_of: Path, suffix: str) -> bool:
    """Whether a result is one of this input although what it was made of is gone."""
    root = one.source.root
    mine = root is not None and made_of.is_relative_to(root.resolve())
    return mine and one.path.stem.endswith(suffix) and not os.path.lexists(made_of)


def refuse_empty(names: Iterable[str | Path]) -> None:
    """Refuse an input or output without a name, as of a variable that is not set: it would be the current folder.

    Raises:
        UserError: there is one.
    """
    if '' in map(str, names):
        raise UserError('an input or the output is an empty name; name a file or a folder, . for the current one')


def check_ending(output: str | Path, format: str) -> None:
    """Refuse a name of a result that says another format than the one that was asked for.

    Args:
        output: a file.
        format: as for `make_plan`.

    Raises:
        UserError: it does.
    """
    ending = Path(output).suffix.lower()
    if format != 'auto' and ending and SUFFIXES.get(ending) != SUFFIXES.get(f'.{format}'):
        raise UserError(f"{output}: ends in '{ending}', and the format is to be {format}; leave out --format, or agree")


def lossy_note(was: Facts | Image, format: str, quality: int | None) -> str:
    """What to say of a picture that loses something as it is written in `format`, '' where nothing is lost."""
    again = was.format == format == 'WEBP' and quality is None
    lossless = format == 'WEBP' and quality == 100
    if not KINDS[format].lossy or was.lossy or again or lossless:
        return ''
    return f'lossless before, now {format} of quality {quality or 95}'


def _is_folder(output: str | Path) -> bool:
    path = Path(output)
    return str(output).endswith(('/', os.sep)) or path.is_dir() or not path.suffix


def _output(output: str | Path, sources: list[Path], single: bool, format: str) -> Path:
    path = Path(output)
    if single and not _is_folder(output):
        source = sources[0]
        ending = path.suffix.lower()
        moving = source.suffix.lower() in VIDEOS
        if moving and ending in VIDEOS or not moving and ending in {**SUFFIXES, **MOVING}:
            check_ending(path, format)
            return path
        known = VIDEOS if moving else tuple(SUFFIXES)
        if ending in (*VIDEOS, *SUFFIXES):
            raise UserError(f'{path}: {source} cannot become that; use one of {", ".join(known)}')
        raise UserError(
            f"{path}: cannot be written as '{path.suffix}'{nearest(ending, list(known))}; "
            f'use one of {", ".join(known)}, or end the name with / for a folder'
        )
    if path.exists() and not path.is_dir():
        if single:
            raise UserError(f'{path}: is a file whose name says no format; end it with .png, or name a folder')
        raise UserError(f'{path}: is a file, but the results are several; name a folder for them')
    if not path.is_dir() and not str(output).endswith(('/', os.sep)) and _is_file_name(path.suffix.lower()):
        raise UserError(f'{path}: is the name of one file, but the results are several; end it with / for a folder')
    return path


def _is_file_name(suffix: str) -> bool:
    """Whether a suffix is that of a picture or video, or meant to be."""
    return suffix in NOT_FOLDERS or suffix[1:].isalpha() and bool(nearest(suffix, list(NOT_FOLDERS)))


def _find(sources: list[_Source], output: Path, suffix: str, plan: Plan) -> Iterator[_Found]:
    """The files that the sources are or hold."""
    place = output.resolve()
    for source in sources:
        if not source.path.is_dir():
            yield _Found(source.path, entry(source.path), None, source)
            continue
        here = source.path.resolve()
        if place == here and not suffix:
            raise UserError(f'{output}: is the input folder; name another one for the results, or a --suffix')
        for path in _walk(source.path, None if place == here else place, plan):
            within = path.relative_to(source.path)
            # The folders within are none that a symlink leads to.
            yield _Found(path, here / within, within.parent, source)


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
            elif path.suffix.lower() not in TAKEN and not _is_nameless_image(path):
                plan.ignored.append((path, 'no image or video by its name'))
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
        check_side(format_of(target), round(max(facts.width, facts.height) * scale), path)
        note = note or lossy_note(facts, format_of(target), quality)
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
    """The jobs with a place each: of a.png and a.jpg that both become a.png, the second becomes a.jpg.png, and a third
    a.jpg-2.png."""
    inputs = {job.source.resolve() for job in jobs}
    taken: set[Path] = set()
    placed: dict[Job, Path] = {}
    # Those that keep their own ending keep their name, and so do those that are alone with theirs.
    order = sorted(jobs, key=lambda job: job.source.suffix.lower() != job.target.suffix.lower())
    first = {job.target: job for job in reversed(order)}
    for job in sorted(order, key=lambda job: first[job.target] is not job):
        target = next(place for place in _names(job, suffix) if place not in taken)
        if target.resolve() in inputs and not single:
            message = f'{job.source}: its result would overwrite the input {target}; choose another output or --suffix'
            plan.failed.append((job.source, message))
        else:
            taken.add(target)
            placed[job] = target
    return [
        job if placed[job] == job.target else replace(job, target=placed[job], note=_moved(placed[job], job))
        for job in jobs
        if job in placed
    ]


def _names(job: Job, suffix: str) -> Iterator[Path]:
    """Names for a result, the best first."""
    yield job.target
    name, ending = job.source.name, job.target.suffix
    yield job.target.with_name(f'{name}{suffix}{ending}')
    for number in itertools.count(2):
        yield job.target.with_name(f'{name}-{number}{suffix}{ending}')


def _moved(target: Path, job: Job) -> str:
    return f'written as {target.name}, since another one becomes {job.target.name}'
