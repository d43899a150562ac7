"""Files are written whole or not at all; where what can be made anew is kept."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import UserError

CACHE_ENV = 'VMAMBAIR_CACHE'
METRICS_FILE = 'metrics.jsonl'
"""Figures of a training, in the folder of its experiment: a line has `iter`, `epoch`, `lrs`, `time`, `data_time` and
the losses, or `iter`, `dataset` and `metrics` of a validation."""
SAVED_FILE = 'saved.jsonl'
"""What a training has saved, in the folder of its experiment: a line has `iter` and the labels of its `networks`. Only
that may be removed to make room for newer checkpoints."""
logger = logging.getLogger('vmambair_arch')
_TEMPORARY = re.compile(r'\.[0-9a-f]{12}\.part(\.\w+)?$')


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (hidden, same suffix) to write to; it becomes `path` when the block ends well.

    Whatever ends the block early, Ctrl-C included, the temporary file is removed and an older `path` stays as it was.
    Missing parent folders are made.

    Raises:
        UserError: the file cannot be written (permission, disk full, a folder or a device of that name).
    """
    path = Path(path)
    check_place(path)
    temporary = path.with_name(f'.{secrets.token_hex(6)}.part{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error


def check_place(path: Path) -> None:
    """Refuse to replace what is no file: renaming over /dev/null would be the end of it.

    Raises:
        UserError: something else is there.
    """
    if path.exists() and not path.is_file():
        raise UserError(f'{path}: is there and is not a file; name another one')


def check_apart(target: str | Path, sources: Iterable[Path]) -> None:
    """Refuse to write over what is being read, under whatever name, by links as well.

    Args:
        target: the file to write.
        sources: those that are read, which must be there; looked at only where something is at the target.

    Raises:
        UserError: the target is one of them.
    """
    if Path(target).exists() and any(source.samefile(target) for source in sources):
        raise UserError(f'{target}: is the file that is read, and would be overwritten; name another one')


def check_writable(folder: Path) -> None:
    """Try whether files can be made in a folder, or it itself where it is missing: before hours of work, not after.

    Raises:
        UserError: they cannot.
    """
    try:
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place) or place == place.parent)
        with tempfile.NamedTemporaryFile(dir=there, prefix='.', suffix='.part'):
            pass
    except OSError as error:
        raise UserError(f'{folder}: nothing can be written here ({error.strerror or error})') from error


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `replacing` was writing, by its name."""
    return _TEMPORARY.match(path.name) is not None


STALE = 3600
"""Seconds without a write after which a temporary file is that of a process that was killed."""

_swept: set[Path] = set()


def sweep(folder: Path, *, below: bool = False) -> None:
    """Remove what killed processes left in a folder, once; what is being written elsewhere is younger.

    Args:
        folder: need not be there.
        below: in the folders below it as well.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    for leftover in folder.glob('**/.*.part*' if below else '.*.part*'):
        if is_temporary(leftover):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > STALE:
                    leftover.unlink()


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder for temporary files, removed at the end; those that killed processes left under this prefix are as well.

    A folder whose process lives is locked, see `lock`, and has its name only since then.

    Args:
        prefix: of its name, in the system's folder for such.
    """
    place = Path(tempfile.gettempdir())
    _sweep_scratch(place, prefix)
    made = Path(tempfile.mkdtemp(prefix=f'.{prefix}', dir=place))
    folder = made.with_name(made.name[1:])
    with suppress(UserError):
        lock(made / _SCRATCH_LOCK)
    made.rename(folder)
    try:
        yield folder
    finally:
        if held := _held.pop((made / _SCRATCH_LOCK).resolve(), None):
            held.close()
        shutil.rmtree(folder, ignore_errors=True)


_SCRATCH_LOCK = '.lock'


def _sweep_scratch(place: Path, prefix: str) -> None:
    try:
        import fcntl
    except ImportError:
        return
    for leftover in place.glob(f'{prefix}*'):
        try:
            with (leftover / _SCRATCH_LOCK).open('r+') as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:  # it is in use, somebody else's, or none of ours
            continue


PAUSES = (0.5, 1.0)
"""Seconds to wait before each further attempt at a file that a busy server does not hand out."""

_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def read_patiently(path: str | Path, read: Callable[[], Any] | None = None) -> Any:
    """The bytes of a file; a read that fails is tried again after pauses, since file servers have their moments.

    Args:
        path: the file, for `read` where that is None, and for messages.
        read: what reads it in another way, as from a database.

    Raises:
        UserError: it cannot be read.
    """
    attempt = read or Path(path).read_bytes
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except _FINAL as error:
            raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
        except OSError as error:
            if pause is None:
                tried = f'{len(PAUSES) + 1} times'
                raise UserError(f'{path}: cannot be read, tried {tried} ({error.strerror or error})') from error
            logger.warning('%s: %s; trying again in %s s', path, error, pause)
            time.sleep(pause)
    raise AssertionError('the last attempt raises or returns')


_held: dict[Path, IO[str]] = {}  # the locks of this process


def lock(path: str | Path) -> str:
    """Take a lock that ends with this process, however it ends; a second call of the same process holds it already.

    Args:
        path: a file of nothing else, which stays behind without meaning anything.

    Returns:
        Who holds it, in words; '' where it is ours now, or where the system has no such locks.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        return ''
    path = Path(path).resolve()
    if path in _held:
        return ''
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a+', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or 'another process'
        file.close()
        return holder
    except OSError:  # a file system without locks
        file.close()
        return ''
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    _held[path] = file
    return ''


def unlock(path: str | Path | None = None) -> None:
    """Give back what `lock` took, before this process ends; None: all of it."""
    for held in [Path(path).resolve()] if path is not None else list(_held):
        if held in _held:
            _held.pop(held).close()


def cache_folder() -> Path:
    """`$VMAMBAIR_CACHE`, or `vmambair` in the user's cache folder."""
    if CACHE_ENV in os.environ:
        return Path(os.environ[CACHE_ENV])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'vmambair'


def append_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Add one line of JSON to a file, as whole as the system writes a line; the file is made where there is none.

    What a power cut left of a last line is ended first, or this one would be lost with it.

    Raises:
        UserError: it cannot be written (exit code 1: the work up to here is done).
    """
    try:
        with Path(path).open('a+b') as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            cut_off = file.read(1) not in (b'', b'\n')
            file.write(b'\n' * cut_off + json.dumps(record).encode() + b'\n')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})', exit_code=1) from error


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The lines of `append_record`; one that a kill cut off is passed over.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
