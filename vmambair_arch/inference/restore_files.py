"""Restore files, folders and videos: check, plan, run.

- What exists is left alone only where it was made from the same input by the same network and settings (`records`).
- A bad file is noted, and the rest goes on.
- Under torchrun rank r of n takes files r, r + n, r + 2n, …, and says so.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import traceback
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import Stopped, UserError, nearest, one_line
from ..files import check_writable, sweep
from ..images.formats import HELD, KINDS, MOVING, SUFFIXES
from ..images.frames import read_frames, write_frames
from ..images.image_io import (
    MAX_PIXELS,
    Image,
    decode_image,
    encode_image,
    format_of,
    lost_in,
    read_bytes,
    read_image,
    write_image,
)
from ..images.pixels import beyond_memory
from ..ops import faults
from .plan import Job, Plan, lossy_note, make_plan
from .records import entry, judge, record_path, recorded
from .restorer import Restorer
from .side_by_side import side_by_side
from .video import VideoOptions, restore_video

logger = logging.getLogger('vmambair_arch')
SMALL = 512 * 512
"""Pixels up to which images are restored side by side on a CPU."""
NAMED = 4
"""So many files are named in a line, the rest are counted."""


@dataclass
class Report:
    """What became of the files.

    Attributes:
        written: results.
        skipped: results that existed before, made of the same.
        failed: bad input files and what is wrong with each, in one line.
        seams: what was measured of the tiles of each image, where that was asked for.
        ignored: files in folders that were not taken, and why.
        notes: what was done otherwise than one might think.
        share: 'share 2 of 4' where other processes take the rest.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    seams: list[tuple[Path, str]] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    share: str = ''

    def add(self, other: Report) -> None:
        """Put what became of other files behind what is here."""
        for each in fields(self):
            if each.name != 'share':
                getattr(self, each.name).extend(getattr(other, each.name))

    def lines(self) -> Iterator[str]:
        """The report: a line for each measurement, each kind of note and each bad file, and one for the rest."""
        return map(one_line, self._lines())

    def _lines(self) -> Iterator[str]:
        for path, measured in self.seams:
            yield f'seams: {path}: {measured}'
        for reason, text in _grouped(self.ignored):
            yield f'not taken: {text}: {reason}'
        for reason, text in _grouped(self.notes):
            yield f'note: {text}: {reason}'
        for _, message in self.failed:
            yield f'bad: {message}'
        skipped = (
            f', {len(self.skipped)} existed (made of the same; --overwrite makes them anew)' if self.skipped else ''
        )
        where = f' into {os.path.commonpath(self.written) or "."}' if self.written else ''
        share = f' ({self.share})' if self.share else ''
        yield f'{len(self.written)} restored{where}{skipped}, {len(self.failed)} bad{share}'


def _grouped(pairs: list[tuple[Path, str]]) -> Iterator[tuple[str, str]]:
    """Each reason with the files that it is of, the first of them by name."""
    files: dict[str, list[Path]] = {}
    for path, reason in pairs:
        files.setdefault(reason, []).append(path)
    for reason, paths in files.items():
        rest = f' and {len(paths) - NAMED} more' if len(paths) > NAMED else ''
        yield reason, f'{", ".join(path.name or str(path) for path in paths[:NAMED])}{rest}'


def restore_files(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    restorer: Restorer,
    *,
    suffix: str = '',
    format: str = 'auto',
    quality: int | None = None,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    report_seams: bool = False,
    codec: str | None = None,
    crf: int | None = None,
) -> Report:
    """Restore images, videos and folders of them, with a progress bar on stderr.

    Args:
        inputs: a file, a folder or a pattern, or several.
        output: a folder, made where missing, or for a single file also a file name with a known suffix.
        suffix: goes between the stem and the suffix of each result.
        format: 'auto' keeps each image's own, else a suffix of `formats.SUFFIXES` without the dot.
        quality: 1 to 100 of lossy formats; default 95, and lossless WebP stays so.
        overwrite: replace results that exist, whatever made them.
        max_pixels: larger images are refused.
        report_seams: also measure how far tiles are from the whole (see `seams`), on a part of each image.
        codec, crf: of videos, see `VideoOptions`.

    Raises:
        UserError: before any work: an input is missing, holds nothing to restore, or is a single bad file; the output
            cannot be one; arguments out of range.
    """
    check_arguments(suffix, format, quality, max_pixels)
    video = VideoOptions(codec, crf)
    share = _share()
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    scale = restorer.outscale or restorer.scale
    plan = make_plan(given, output, suffix=suffix, format=format, quality=quality, max_pixels=max_pixels, scale=scale)
    idle = _idle(plan, Path(output), format, quality, report_seams, video)
    _set_aside_videos(plan, video)
    return _run(plan, idle, restorer, quality, overwrite, max_pixels, report_seams, video, share)


def _share() -> tuple[int, int]:
    """Which process of how many this is, by the variables that torchrun sets; one of them alone means nothing.

    Raises:
        UserError: they are no such numbers.
    """
    rank, ranks = os.environ.get('RANK'), os.environ.get('WORLD_SIZE')
    if rank is None or ranks is None:
        return 0, 1
    if not (rank.isdecimal() and ranks.isdecimal() and int(rank) < int(ranks)):
        raise UserError(
            f"RANK is '{rank}' and WORLD_SIZE '{ranks}', which is no share of the files; "
            'unset both, or start with torchrun'
        )
    return int(rank), int(ranks)


def _set_aside_videos(plan: Plan, options: VideoOptions) -> None:
    """Videos that cannot be written are bad, and do not hold up what lies beside them.

    Raises:
        UserError: nothing is left to do.
    """
    kept = []
    for job in plan.jobs:
        try:
            if job.kind == 'video':
                options.check(job.target)
            kept.append(job)
        except UserError as error:
            if len(plan.jobs) == 1:
                raise
            plan.failed.append((job.source, str(error)))
    plan.jobs = kept


def _idle(
    plan: Plan, output: Path, format: str, quality: int | None, report_seams: bool, video: VideoOptions
) -> list[tuple[Path, str]]:
    """Notes on options that nothing, or not all, of what is done has a use for."""
    notes = []
    pictures = [job for job in plan.jobs if job.kind != 'video']
    others = [job for job in plan.jobs if job.kind == 'video']
    known = plan.jobs and not plan.failed  # of what cannot be read nobody knows what it is
    if known and not others:
        notes += [
            (output, f'--{name} is of videos, and there is none')
            for name, value in video.settings().items()
            if value is not None
        ]
    formats = {SUFFIXES.get(job.target.suffix.lower()) for job in pictures}
    if known and quality is not None and not any(KINDS[name].lossy for name in formats if name):
        notes.append((output, '--quality is of pictures in lossy formats, and there will be none'))
    if format != 'auto':
        notes += [(job.target, '--format is of pictures, not of videos') for job in others]
    if report_seams:
        notes += [
            (job.source, 'seams are measured in pictures that stand still') for job in plan.jobs if job.kind != 'image'
        ]
    return notes


def check_arguments(
    suffix: str = '', format: str = 'auto', quality: int | None = None, max_pixels: int = MAX_PIXELS
) -> None:
    """Refuse what no result can be named or written by.

    Raises:
        UserError: out of range.
    """
    if os.sep in suffix or '/' in suffix or '\0' in suffix:
        raise UserError(f"suffix '{suffix}' must not contain a path separator")
    known = [name[1:] for name in SUFFIXES]
    if format != 'auto' and format not in known:
        raise UserError(f"format '{format}'{nearest(format, known)} is not one of auto, {', '.join(known)}")
    if quality is not None and not 1 <= quality <= 100:
        raise UserError(f'the quality must be 1 to 100, got {quality}')
    if max_pixels < 1:
        raise UserError(f'the most pixels must be 1 or more, got {max_pixels}')


def restore_bytes(
    data: bytes,
    restorer: Restorer,
    *,
    format: str = 'auto',
    quality: int | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str = 'stdin',
) -> tuple[bytes, str]:
    """Restore the bytes of an image file.

    Args:
        data: any format that is read.
        format: as for `restore_files`.
        name: what messages call it.

    Returns:
        The bytes of the result, and Pillow's name of its format.

    Raises:
        UserError: no image, or it cannot be written as `format`.
    """
    return restore_bytes_with_notes(data, restorer, format=format, quality=quality, max_pixels=max_pixels, name=name)[
        :2
    ]


def restore_bytes_with_notes(
    data: bytes, restorer: Restorer, *, format: str, quality: int | None, max_pixels: int, name: str
) -> tuple[bytes, str, list[str]]:
    """`restore_bytes`, and what was done otherwise than one might think."""
    check_arguments(format=format, quality=quality, max_pixels=max_pixels)
    image = decode_image(data, name=name, max_pixels=max_pixels)
    kind = format_of(f'{name}.{format}') if format != 'auto' else image.format or 'PNG'
    kind = kind if kind in KINDS else 'PNG'
    image = restorer.fitting(image, kind, name)
    notes = [note] if (note := lossy_note(image, kind, quality)) else []
    if quality is not None and not KINDS[kind].lossy:
        notes.append(f'--quality is of lossy formats, and {kind} is none')
    try:
        image = restorer.restore(image)
        encoded = encode_image(image, kind, quality=quality, suffix=f'.{format}')
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise UserError(f'{name}: {error}', exit_code=error.exit_code) from error
        if faults.is_out_of_memory(error):
            raise beyond_memory(name, str(restorer.device)) from error
        if isinstance(error, RuntimeError):
            raise
        raise UserError(f'{name}: cannot be written as {kind} ({error})') from error
    return encoded, kind, notes + _not_carried(image, kind)


def _not_carried(image: Image, kind: str) -> list[str]:
    """Notes on what a picture had beside its pixels that its result has not."""
    lost = lost_in(image, kind)
    notes = [f'without {", ".join(lost)}, which {HELD[kind].suffixes[0]} does not hold'] if lost else []
    return notes + ([f'without {", ".join(image.dropped)}, which is not carried over'] if image.dropped else [])


def _run(
    plan: Plan,
    idle: list[tuple[Path, str]],
    restorer: Restorer,
    quality: int | None,
    overwrite: bool,
    max_pixels: int,
    report_seams: bool,
    video: VideoOptions,
    share: tuple[int, int],
) -> Report:
    rank, ranks = share
    report = Report(share=f'share {rank + 1} of {ranks}' if ranks > 1 else '')
    if rank == 0:
        report.failed, report.ignored, report.notes = list(plan.failed), plan.ignored, idle
    jobs = plan.jobs[rank::ranks]
    _check_output(jobs, overwrite)
    full, left, surprises = threading.Event(), list[Path](), set[tuple[str, int | None]]()
    for folder in {job.target.parent for job in jobs}:
        sweep(folder)  # also where nothing is left to be written
    made_by = {**restorer.settings(), 'quality': quality}
    sources = {entry(job.source) for job in plan.jobs}

    # By the pixels of the files, so that a large image or a video moves the bar as well as a thousand small ones.
    layout = '{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}'
    reports = [Report() for _ in jobs]
    with tqdm(total=sum(job.weight for job in jobs), bar_format=layout, disable=rank > 0, smoothing=0.1) as bar:

        def do(number: int, progress: _Progress | None) -> None:
            job, report = jobs[number], reports[number]
            if full.is_set():
                left.append(job.source)
                return
            try:
                settings = made_by | (video.settings() if job.kind == 'video' else {})
                if _wanted(job, plan, settings, overwrite, sources, report):
                    check_writable(job.target.parent)
                    check_writable(record_path(job.target).parent)
                    _restore_job(job, restorer, settings, quality, max_pixels, video, progress, report)
                if report_seams and job.kind == 'image':
                    report.seams.append((job.source, _seams(job.source, restorer, max_pixels)))
            except Exception as error:
                fault = _fault_of(job, error, restorer.device)
                if fault is None:
                    if plan.output is None or _ends_all(error):
                        raise
                    fault = _surprise(job, error, surprises)
                elif plan.output is None:
                    raise fault from error
                report.failed.append((job.source, str(fault)))
                if _is_full(error):
                    full.set()

        def say(number: int) -> None:
            bar.set_description_str(f'{one_line(jobs[number].source.name)} ({number + 1}/{len(jobs)}) ')

        small = [] if report_seams else [n for n, job in enumerate(jobs) if job.kind == 'image' and job.weight <= SMALL]
        workers = restorer.workers(max((jobs[n].weight for n in small), default=1)) if len(small) > 1 else 1
        before, beside = 0, set(small) if workers > 1 else set()
        if workers > 1:
            for number in side_by_side(lambda number: do(number, None), small, workers):
                say(number)
                bar.update(jobs[number].weight)
                before += jobs[number].weight
        for number in range(len(jobs)):
            if number not in beside:
                say(number)
                do(number, _Progress(bar, before, jobs[number].weight))
                before += jobs[number].weight
                bar.update(before - bar.n)
                bar.set_postfix_str('')
    for one in reports:
        report.add(one)
    if left:
        what = f'the disk is full, and {len(left)} files were left; free some of it and run this again'
        report.failed.append((left[0], f'{plan.output}: {what}'))
    return report


def _fault_of(job: Job, error: Exception, device: torch.device) -> UserError | None:
    """What ends the work on one file and not that on others; None for what is nobody's doing but ours."""
    if isinstance(error, UserError):
        return _naming(error, job)
    if isinstance(error, OSError):
        place = error.filename or job.source
        return _naming(UserError(f'{place}: cannot be used ({error.strerror or error})'), job)
    if faults.is_out_of_memory(error):
        return beyond_memory(job.source, str(device))
    return None


def _ends_all(error: BaseException | None) -> bool:
    """Whether no other file has a chance: the device is lost, or a library made an error of a signal."""
    while error is not None:
        if faults.is_lost(error) or isinstance(error, (KeyboardInterrupt, Stopped)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _surprise(job: Job, error: Exception, told: set[tuple[str, int | None]]) -> UserError:
    """The line for a file on which this program failed; once for each place the traceback goes to the log.

    Args:
        told: places, by file and line, whose traceback is there already; this one's is added.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    if (last.filename, last.lineno) not in told:
        told.add((last.filename, last.lineno))
        logger.error('%s: this program failed, please report it with these lines:', job.source, exc_info=error)
    return UserError(
        f'{job.source}: {faults.one_line(error)} (a fault of this program, not of the file; please report it with the '
        'traceback above)'
    )


def _naming(error: UserError, job: Job) -> UserError:
    """An error of one file among others, which says of which."""
    message, folder = str(error), job.target.parent
    if any(str(path) in message for path in (job.source, job.target)) or message.startswith(
        (f'{folder}:', f'{folder}/')
    ):
        return error
    return UserError(f'{job.source}: {message}', exit_code=error.exit_code)


def _is_full(error: BaseException | None) -> bool:
    """Whether the disk is full, so that no other result fits either."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _check_output(jobs: list[Job], overwrite: bool) -> None:
    """Find before the work that nothing at all can be written.

    Raises:
        UserError: no folder takes a result that is missing.
    """
    fault = None
    for folder in dict.fromkeys(job.target.parent for job in jobs if overwrite or not os.path.lexists(job.target)):
        try:
            return check_writable(folder)
        except UserError as error:
            fault = fault or error
    if fault:
        raise fault


@dataclass
class _Progress:
    """Moves the bar within one file."""

    bar: tqdm[Any]
    before: float
    weight: float

    def __call__(self, done: int, total: int, note: str = '') -> None:
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(self.before + self.weight * done / max(total, 1) - self.bar.n)


def _wanted(
    job: Job, plan: Plan, made_by: dict[str, Any], overwrite: bool, others: Container[Path], report: Report
) -> bool:
    """Whether there is something to do; notes what is not."""
    target = job.target
    if plan.output is not None and not target.parent.resolve().is_relative_to(plan.output.resolve()):
        raise UserError(f'{job.source}: {target} leads out of the output folder through a symlink')
    if overwrite:
        return True
    verdict = judge(target, job.source, made_by, others)
    if verdict.state == 'same':
        report.skipped.append(target)
        return False
    if verdict.state == 'foreign':
        raise UserError(f'{target}: is there and {verdict.why}; --overwrite replaces it, or choose another output')
    if verdict.state == 'differs':
        report.notes.append((target, f'made again, since it was made of something else ({verdict.why})'))
    return True


def _restore_job(
    job: Job,
    restorer: Restorer,
    made_by: dict[str, Any],
    quality: int | None,
    max_pixels: int,
    video: VideoOptions,
    progress: _Progress | None,
    report: Report,
) -> None:
    notes = [job.note] if job.note else []
    if job.kind == 'video':
        notes += restore_video(
            job.source, job.target, restorer, video, made_by=made_by, max_pixels=max_pixels, progress=progress
        )
    elif job.kind == 'moving':
        frames, timing = read_frames(job.source, max_pixels=max_pixels)
        image = frames[0]
        restorer.check_room(image, job.source)
        with recorded(job.target, job.source, made_by) as temporary:
            write_frames(temporary, _restored(frames, restorer, progress), timing, quality=quality)
        notes += [] if job.target.suffix.lower() != '.gif' else ['a GIF has 256 colours a frame; webp has all']
    else:
        data = read_bytes(job.source, max_pixels=max_pixels)
        sha256 = hashlib.sha256(data).hexdigest()
        image = decode_image(data, name=str(job.source), max_pixels=max_pixels)
        del data
        image = restorer.fitting(image, format_of(job.target), job.source)
        image = restorer.restore(image, progress=progress)
        with recorded(job.target, job.source, made_by, sha256) as temporary:
            write_image(temporary, image, quality=quality)
    if job.kind != 'video':
        notes += _not_carried(image, {**SUFFIXES, **MOVING}[job.target.suffix.lower()])
    report.written.append(job.target)
    report.notes += [(job.target, note) for note in notes]


def _restored(frames: Sequence[Image], restorer: Restorer, progress: _Progress | None) -> Iterator[Image]:
    for number in range(len(frames)):
        yield restorer.restore(frames[number])
        if progress:
            progress(number + 1, len(frames))


def _seams(path: Path, restorer: Restorer, max_pixels: int) -> str:
    from .seams import measure_seams

    image = read_image(path, max_pixels=max_pixels)
    tile = restorer.tile_for(*image.rgb.shape[:2])
    if tile is None:
        return 'restored whole: it has no seams'
    try:
        return str(measure_seams(restorer, image, tile=tile))
    except UserError as error:  # too small to have any
        return str(error)
