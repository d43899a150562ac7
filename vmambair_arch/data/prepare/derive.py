"""What is made from the images of a data set: low-resolution pairs, smaller versions, sub-images, lists and LMDB.

Every file is written whole, read back and compared; what is there already is left, so that an interrupted run goes on
where it stopped. An image is decoded, worked on and encoded without Python's lock most of the time: threads suffice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice, product
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from realesrgan_pipeline import database
from realesrgan_pipeline.name_list import format_line
from realesrgan_pipeline.resize import imresize

from ...errors import UserError, as_user_error
from ...files import replacing
from ...images.headers import read_header, read_headers
from ..pairs import folder_images, read_file

MULTISCALE = (0.75, 0.5, 1 / 3)
"""Real-ESRGAN's smaller versions of its training images, T0 to T2; in T3 the shorter side is 400 pixels."""
SHORTER_SIDE = 400


def write_checked(path: Path, data: bytes) -> None:
    """Write a file, read it back, and only then give it its name.

    Raises:
        UserError: it cannot be written, or reads back as something else.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        if temporary.read_bytes() != data:
            raise UserError(f'{path}: what was written reads back differently; check the disk')


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB uint8 image as PNG, see `write_checked`."""
    data = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    write_checked(path, data.tobytes())


T = TypeVar('T')


def progress(items: Iterable[T], text: str, total: int) -> Iterable[T]:
    """`items`, counted on a terminal."""
    return tqdm(items, desc=text, total=total, unit='image', disable=None, leave=False)


def for_each_image(folder: Path, work: Callable[[Path], None], text: str, workers: int) -> None:
    """Call `work` for every image of a folder, several at a time."""
    paths = folder_images(folder)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for _ in progress(pool.map(work, paths), text, len(paths)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def bicubic(hr: Path, lr: Path, scale: int, workers: int) -> None:
    """Low-resolution images as the SR benchmarks have them: MATLAB's bicubic, names `NAMEx<scale>.png`.

    Rows and columns at the bottom and right beyond a multiple of the scale do not count.
    """

    def make(path: Path) -> None:
        target = lr / f'{path.stem}x{scale}.png'
        if not target.exists():
            image = _rgb(path)
            h, w = (side - side % scale for side in image.shape[:2])
            if not (h and w):
                raise UserError(f'{path}: {image.shape[1]}x{image.shape[0]} cannot be reduced {scale} times')
            write_png(target, imresize(image[:h, :w], 1 / scale))

    for_each_image(hr, make, f'{lr}', workers)


def multiscale(hr: Path, out: Path, workers: int) -> None:
    """Smaller versions T0 to T3 of every image, by Lanczos, as Real-ESRGAN trains on them: names `NAMET<i>.png`."""

    def make(path: Path) -> None:
        targets = [out / f'{path.stem}T{i}.png' for i in range(len(MULTISCALE) + 1)]
        if all(target.exists() for target in targets):
            return
        image = Image.fromarray(_rgb(path))
        short = min(image.size)
        sizes = [[max(1, int(side * scale)) for side in image.size] for scale in MULTISCALE]
        sizes.append([side * SHORTER_SIDE // short for side in image.size])
        for target, (width, height) in zip(targets, sizes, strict=True):
            write_png(target, np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)))

    for_each_image(hr, make, f'{out}', workers)


def sub_images(folder: Path, out: Path, size: int, unit: int, workers: int, ending: str = '') -> None:
    """Cut images into squares of `size` pixels every `size / 2`, and one more at the end: names `NAME_s001.png`.

    Reading a whole 2K image for a small patch is what slows a loader down. Squares of images at two scales lie over one
    another where `size / unit` is the same for both.

    Args:
        folder, out: of the images, and of the squares.
        size: side in pixels; an image that is smaller is one piece.
        unit: places are multiples of it, and what is left of an image beyond a multiple does not count.
        ending: of the images' names, left out in those of the squares (`x4`).

    Raises:
        UserError: `out` holds squares of another size or at other places.
    """
    cut = {'size': size, 'unit': unit}
    record = out.with_name(f'.{out.name}.json')
    before = cut
    if out.is_dir() and record.is_file():
        with suppress(OSError, ValueError):
            before = json.loads(record.read_text(encoding='utf-8'))
    if before != cut:
        raise UserError(f'{out}: holds squares that were cut otherwise ({before}, now {cut}); remove the folder first')
    write_checked(record, json.dumps(cut).encode())

    def make(path: Path) -> None:
        header = read_header(path)
        h, w = header.height // unit, header.width // unit
        corners = list(product(_places(h, size // unit), _places(w, size // unit)))
        name = path.stem.removesuffix(ending)
        targets = [out / f'{name}_s{number:03d}.png' for number in range(1, len(corners) + 1)]
        if all(target.exists() for target in targets):
            return
        if not (h and w):
            raise UserError(
                f'{path}: {header.width}x{header.height} is smaller than {unit} pixels, the least for squares'
            )
        image = _rgb(path)[: h * unit, : w * unit]
        for target, (top, left) in zip(targets, corners, strict=True):
            write_png(target, image[top * unit : top * unit + size, left * unit : left * unit + size])

    for_each_image(folder, make, f'{out}', workers)


def _places(length: int, size: int) -> list[int]:
    """Starts of windows of `size`, half of it apart, that cover 0..length, the last one at the end."""
    if length <= size:
        return [0]
    places = list(range(0, length - size + 1, max(1, size // 2)))
    return places if places[-1] == length - size else [*places, length - size]


def meta_info(root: Path, folders: Iterable[Path], path: Path) -> int:
    """List the images of folders below `root` in BasicSR's form, `name (h,w,c)`; returns how many there are."""
    images = [image for folder in folders for image in folder_images(folder)]
    with as_user_error(f'{path}'):
        lines = [
            format_line(image.relative_to(root).as_posix(), (header.height, header.width, header.channels))
            for image, header in zip(images, read_headers(images), strict=True)
        ]
    write_checked(path, ''.join(lines).encode('utf-8', 'surrogateescape'))
    return len(lines)


def make_lmdb(folder: Path, ending: str = '') -> Path:
    """Put the files of a folder into an LMDB beside it, in BasicSR's form; keys are names without suffix.

    The database has another name until all is in it and was read back.

    Args:
        folder: of the images.
        ending: of their names, left out in the keys (`x4`), since BasicSR wants one key for input and target.

    Raises:
        UserError: it cannot be written, or reads back differently.
    """
    import lmdb

    target = folder.with_name(f'{folder.name}.lmdb')
    paths: dict[str, Path] = {}
    for path in folder_images(folder):
        other = paths.setdefault(path.stem.removesuffix(ending), path)
        if other is not path:
            raise UserError(
                f"{folder}: {other.name} and {path.name} have one name without '{ending}'; keep one of them"
            )
    with as_user_error(f'{target}'):
        lines = [
            format_line(f'{key}{paths[key].suffix}', (header.height, header.width, header.channels), 1)
            for key, header in zip(paths, read_headers(paths.values()), strict=True)
        ]
    meta = target / 'meta_info.txt'
    if meta.is_file() and meta.read_text(encoding='utf-8', errors='surrogateescape') == ''.join(lines):
        if changed := _differing(target, paths):
            raise UserError(f'{target}: holds another {changed} than {folder}; delete it to make it anew')
        return target
    if target.exists():
        raise UserError(f'{target}: holds other images than {folder}; delete it to make it anew')

    unfinished = target.with_name(f'{target.name}.part')
    # A value takes whole pages of 4096 bytes; the rest is for keys and the tree.
    size = sum(path.stat().st_size + 8192 for path in paths.values()) + 2**24
    try:
        with lmdb.open(str(unfinished), map_size=2 * size) as database:
            for batch in _batches(progress(paths.items(), f'{target}', len(paths))):
                with database.begin(write=True) as transaction:
                    for key, path in batch:
                        transaction.put(key.encode('utf-8', 'surrogateescape'), path.read_bytes(), overwrite=False)
            with database.begin() as transaction:
                for key, path in progress(paths.items(), f'{target}, read back', len(paths)):
                    if transaction.get(key.encode('utf-8', 'surrogateescape')) != path.read_bytes():
                        raise UserError(f'{unfinished}: {key} reads back differently; delete it to make it anew')
        write_checked(unfinished / 'meta_info.txt', ''.join(lines).encode('utf-8', 'surrogateescape'))
        unfinished.replace(target)
    except (lmdb.Error, OSError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{target}: cannot be written ({reason})') from error
    return target


def _differing(target: Path, paths: Mapping[str, Path]) -> str:
    """The name of a file that is not what a database holds under its key; '' where all are.

    Files that are older than the database are told by their length alone.
    """
    try:
        made = (target / 'data.mdb').stat().st_mtime
        for key, path in paths.items():
            kept, found = database.value(str(target), key), path.stat()
            if kept is None or len(kept) != found.st_size:
                return path.name
            if found.st_mtime >= made and kept != path.read_bytes():
                return path.name
    except (ValueError, OSError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{target}: cannot be read ({reason}); delete it to make it anew') from error
    return ''


def _batches(items: Iterable[Any], size: int = 256) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _rgb(path: Path) -> np.ndarray:
    """An image as RGB uint8."""
    pixels = read_file(str(path))
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
