"""Restore files, folders and videos.

Rules for folders:
- The tree is walked in sorted order; hidden names, symlinked folders (which may run in circles) and the output folder,
  where it lies inside, are left out. A symlinked file is read like any other.
- The output has the same tree. Nothing is written outside of the output folder, wherever symlinks in it point.
- What exists is left alone unless told otherwise. A bad file is noted, and the rest goes on.
- Under torchrun rank r of n takes files r, r + n, r + 2n, ….
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..files import replacing
from ..images.image_io import FORMATS, MAX_PIXELS, Image, check_regular, read_image, write_image
from .restorer import Restorer

VIDEOS = {'.mp4': 'mp4v', '.mov': 'mp4v', '.mkv': 'mp4v', '.avi': 'MJPG'}
"""Suffixes that are read as video and the codec that each is written with."""

logger = logging.getLogger('vmambair_arch')


@dataclass
class Report:
    """What became of the files.

    Attributes:
        written: results.
        skipped: results that existed before.
        failed: bad input files and what is wrong with each, in one line.
        seams: what was measured of the tiles of each image, where that was asked for.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    seams: list[tuple[Path, str]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report, a line for each measurement and each bad file and one for the rest."""
        for path, measured in self.seams:
            yield f'seams: {path}: {measured}'
        for _, message in self.failed:
            yield f'bad: {message}'
        skipped = f', {len(self.skipped)} existed (--overwrite replaces them)' if self.skipped else ''
        where = f' into {os.path.commonpath(self.written) or "."}' if self.written else ''
        yield f'{len(self.written)} restored{where}{skipped}, {len(self.failed)} bad'


def restore(
    source: str | Path,
    output: str | Path,
    restorer: Restorer,
    *,
    suffix: str = '',
    format: str = 'auto',
    quality: int = 95,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    report_seams: bool = False,
) -> Report:
    """Restore an image, a video or a folder of them, with a progress bar on stderr.

    Args:
        source: a file or a folder.
        output: a folder, made where missing, or for a single file also a file name with a known suffix.
        suffix: goes between the stem and the suffix of each result.
        format: 'auto' keeps each image's own, else a suffix of `image_io.FORMATS` without the dot.
        quality: 1 to 100 for JPEG and WebP.
        overwrite: replace results that exist.
        max_pixels: larger images are refused.
        report_seams: also measure how far tiles are from the whole (see `seams`), on a part of each image.

    Raises:
        UserError: `source` is missing, holds nothing to restore, or is a single bad file; arguments out of range.
    """
    source, output = Path(source), Path(output)
    if os.sep in suffix or '/' in suffix or '\0' in suffix:
        raise UserError(f"suffix '{suffix}' must not contain a path separator")
    if format != 'auto' and f'.{format}' not in FORMATS:
        raise UserError(f"format '{format}' is not one of auto, {', '.join(name[1:] for name in FORMATS)}")
    if not 1 <= quality <= 100:
        raise UserError(f'the quality must be 1 to 100, got {quality}')
    if not source.exists():
        raise UserError(f'{source}: no such file or folder')

    single = not source.is_dir()
    jobs = [_single_job(source, output, suffix, format)] if single else _folder_jobs(source, output, suffix, format)
    if single and jobs[0][1].resolve() == source.resolve():
        raise UserError(f'{source}: would be overwritten by its result; choose another output or a --suffix')
    report = Report()
    if not single:
        jobs = _without_collisions(jobs, report)
    rank, ranks = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    jobs = jobs[rank::ranks]

    # In parts of a file, so that one large image or video moves the bar as well as a thousand small ones.
    layout = '{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}'
    with tqdm(total=len(jobs), bar_format=layout, disable=rank > 0) as bar:
        for number, (path, target) in enumerate(jobs):
            bar.set_description_str(f'{path.name} ({number + 1}/{len(jobs)}) ')

            def progress(done: int, total: int, number: int = number) -> None:
                bar.update(number + done / total - bar.n)

            try:
                if not single and not _inside(target, output):
                    raise UserError(f'{path}: {target} leads out of the output folder through a symlink')
                if target.exists() and not overwrite:
                    report.skipped.append(target)
                else:
                    work = _restore_video if path.suffix.lower() in VIDEOS else _restore_image
                    work(path, target, restorer, quality, max_pixels, progress)
                    report.written.append(target)
                    if report_seams and path.suffix.lower() not in VIDEOS:
                        report.seams.append((path, _seams(path, restorer, max_pixels)))
            except UserError as error:
                if single:
                    raise
                report.failed.append((path, str(error)))
            bar.update(number + 1 - bar.n)
    return report


def _single_job(source: Path, output: Path, suffix: str, format: str) -> tuple[Path, Path]:
    kind, other = (VIDEOS, FORMATS) if source.suffix.lower() in VIDEOS else (FORMATS, VIDEOS)
    if not output.is_dir():
        if output.suffix.lower() in kind:
            return source, output
        if output.suffix.lower() in other:
            raise UserError(f'{output}: {source} cannot become that; use one of {", ".join(kind)}')
    return source, output / _result_name(source, suffix, format)


def _folder_jobs(source: Path, output: Path, suffix: str, format: str) -> list[tuple[Path, Path]]:
    if output.exists() and not output.is_dir():
        raise UserError(f'{output}: is a file, but {source} is a folder; name a folder for the results')
    if output.resolve() == source.resolve():
        raise UserError(f'{output}: is the input folder; name another one for the results')
    excluded = output.resolve()
    found = []
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(
            name for name in folders if not name.startswith('.') and Path(folder, name).resolve() != excluded
        )
        for name in sorted(files):
            if not name.startswith('.') and Path(name).suffix.lower() in {**FORMATS, **VIDEOS}:
                found.append(Path(folder, name))
    if not found:
        raise UserError(f'{source}: no images in this folder (looked for {", ".join({**FORMATS, **VIDEOS})})')
    return [(path, output / path.relative_to(source).with_name(_result_name(path, suffix, format))) for path in found]


def _without_collisions(jobs: list[tuple[Path, Path]], report: Report) -> list[tuple[Path, Path]]:
    """The jobs but those whose result an earlier one has taken (a.png and a.jpg to one format), which are bad."""
    taken: dict[Path, Path] = {}
    for path, target in jobs:
        if taken.setdefault(target, path) is not path:
            message = f'{path}: its result would overwrite that of {taken[target]}; restore it apart'
            report.failed.append((path, message))
    return [(path, target) for target, path in taken.items()]


def _result_name(source: Path, suffix: str, format: str) -> str:
    keep = format == 'auto' or source.suffix.lower() in VIDEOS
    return f'{source.stem}{suffix}{source.suffix if keep else f".{format}"}'


def _inside(target: Path, output: Path) -> bool:
    return target.parent.resolve().is_relative_to(output.resolve())


def _seams(path: Path, restorer: Restorer, max_pixels: int) -> str:
    from .seams import measure_seams

    image = read_image(path, max_pixels=max_pixels)
    try:
        return str(measure_seams(restorer, image))
    except UserError as error:  # too small to have any
        return str(error)


def _restore_image(
    path: Path, target: Path, restorer: Restorer, quality: int, max_pixels: int, progress: Callable[[int, int], None]
) -> None:
    image = restorer.restore(read_image(path, max_pixels=max_pixels), progress=progress)
    write_image(target, image, quality=quality)


def _restore_video(
    path: Path, target: Path, restorer: Restorer, quality: int, max_pixels: int, progress: Callable[[int, int], None]
) -> None:
    """Frame by frame through OpenCV, without sound."""
    check_regular(path)
    video = cv2.VideoCapture(str(path))
    writer = None
    try:
        expected = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = video.get(cv2.CAP_PROP_FPS)
        with replacing(target) as temporary:
            done = 0
            while True:
                there, frame = video.read()
                if not there:
                    break
                if frame.shape[0] * frame.shape[1] > max_pixels:
                    raise UserError(f'{path}: frames of {frame.shape[1]}x{frame.shape[0]} pixels are too large')
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
                rgb = restorer.restore(Image(rgb)).rgb
                size = (rgb.shape[1], rgb.shape[0])
                if writer is None:
                    codec = cv2.VideoWriter.fourcc(*VIDEOS[target.suffix.lower()])
                    frames_a_second = rate if math.isfinite(rate) and rate > 0 else 25.0
                    writer = cv2.VideoWriter(str(temporary), codec, frames_a_second, size)
                    if not writer.isOpened():
                        raise UserError(f'{target}: OpenCV has no encoder for {size[0]}x{size[1]} video of this kind')
                writer.write(cv2.cvtColor(np.rint(rgb * 255).astype(np.uint8), cv2.COLOR_RGB2BGR))
                done += 1
                progress(min(done, expected), expected or done)
            if writer is None:
                raise UserError(f'{path}: is no video that OpenCV can read, or has no frames')
            writer.release()
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if done < expected:
        logger.warning('%s: ended after %d of %d frames; it may be damaged', path, done, expected)
    logger.warning('%s: has no sound, which OpenCV does not copy', target)
