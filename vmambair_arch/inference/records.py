"""What a result was made of: a small file beside it, so that only what is the same is skipped the next time.

`out/a.png` has `out/.vmambair/a.png.json`: the input with its path and sha256, the network, the settings, and size and
time of the result itself. A result that was changed since, or that has no record, is somebody's own, and one that was
made of another input, which is still there, is that one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..files import replacing

FOLDER = '.vmambair'
_BLOCK = 2**20
_LONGEST = 255 - len('.parts')  # bytes of a name that file systems take
State = Literal['absent', 'same', 'differs', 'foreign']


@dataclass(frozen=True)
class Verdict:
    """What stands at the place of a result.

    Attributes:
        state: nothing is there; the same that would be made; made by us of something else; not ours to replace.
        why: what differs, in words.
    """

    state: State
    why: str = ''


def record_path(target: Path) -> Path:
    """Where the record of a result is; a name that is too long with an ending more is replaced by its hash."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.parent / FOLDER / f'{name}.json'


def entry(path: Path) -> Path:
    """The place of a file, the same whichever way leads to its folder; a symlink is a file of its own."""
    return path.parent.resolve() / path.name


def origin(path: Path) -> Path | None:
    """The `entry` of what a file was made of; None where it was not made by us, or was changed since."""
    record = _read(path)
    if record is None or not _is_of(record, path):
        return None
    # Records had no path once: then it is taken to lie beside its result.
    return _source_path(record) or entry(path).parent / str(_dict(record, 'source').get('name', ''))


def judge(target: Path, source: Path, made_by: dict[str, Any], others: Container[Path] = ()) -> Verdict:
    """Compare what is there with what would be made.

    Args:
        target: the result, whether it is there or not.
        source: the input.
        made_by: the network and the settings, in JSON's types.
        others: the `entry` of inputs that get results of their own, so that one of theirs may be replaced.
    """
    if not target.exists() and not target.is_symlink():
        return Verdict('absent')
    record = _read(target)
    if record is None or not _is_of(record, target):
        return Verdict('foreign', 'was changed since' if record else 'was not made by this command')
    known = _dict(record, 'made_by')
    different = [key for key in {**known, **made_by} if known.get(key) != made_by.get(key)]
    finished = record.get('result') == _stamp(target)  # else it is what was to be replaced when the run was killed
    if finished and not different and _same_file(_dict(record, 'source'), source):
        return Verdict('same')
    other = _source_path(record)
    if other is not None and other != entry(source) and other not in others and os.path.lexists(other):
        return Verdict('foreign', f'was made of {other}')
    if different:
        return Verdict(
            'differs', ', '.join(f'{k} {_short(known.get(k))}, now {_short(made_by.get(k))}' for k in different)
        )
    return Verdict('differs', 'another input')


@contextmanager
def recorded(target: Path, source: Path, made_by: dict[str, Any], sha256: str | None = None) -> Iterator[Path]:
    """`files.replacing`, with a record of what the result was made of.

    The record is written before the result gets its name, with the size and time that it keeps: whatever ends the run
    between the two, no result is without one.

    Args:
        target: the result.
        source: the input.
        made_by: as for `judge`.
        sha256: of the input, where it is known.

    Raises:
        UserError: the result or its record cannot be written.
    """
    with replacing(target) as temporary:
        try:
            yield temporary
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(target)), exit_code=error.exit_code) from error
        record = {
            'source': {
                'name': source.name,
                'path': str(entry(source)),
                **_stamp(source),
                'sha256': sha256 or _sha256(source),
            },
            'made_by': made_by,
            'result': _stamp(temporary),
            'replaces': None if origin(target) is None else _stamp(target),
        }
        with replacing(record_path(target)) as place:
            place.write_text(json.dumps(record, indent=1), encoding='utf-8')


def _read(target: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(record_path(target).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _is_of(record: dict[str, Any], path: Path) -> bool:
    """Whether a record is that of the file, or of what was to replace it."""
    stamp = _stamp(path)
    return bool(stamp) and stamp in (record.get('result'), record.get('replaces'))


def _source_path(record: dict[str, Any]) -> Path | None:
    known = _dict(record, 'source').get('path')
    return Path(known) if isinstance(known, str) else None


def _dict(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _stamp(path: Path) -> dict[str, int]:
    try:
        status = path.stat()
    except OSError:
        return {}
    return {'size': status.st_size, 'mtime_ns': status.st_mtime_ns}


def _same_file(known: dict[str, Any], source: Path) -> bool:
    """By size and time, or by content where the time or the place is another, as after a copy."""
    now, place = _stamp(source), str(entry(source))
    if known.get('size') != now.get('size'):
        return False
    untouched = known.get('mtime_ns') == now['mtime_ns'] and known.get('path', place) == place
    return untouched or known.get('sha256') == _sha256(source)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    return digest.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text
