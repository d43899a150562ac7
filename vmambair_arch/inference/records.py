"""What a result was made of: a small file beside it, so that only what is the same is skipped the next time.

`out/a.png` has `out/.vmambair/a.png.json`: the input with its sha256, the network, the settings, and size and time of
the result itself. A result that was changed since, or that has no record, is somebody's own.
"""

from __future__ import annotations

import hashlib
import json
import os
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
        state: nothing is there; the same that would be made; made by us of something else; not made by us.
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


def is_result(path: Path) -> bool:
    """Whether a file was made by us and not changed since."""
    record = _read(path)
    return record is not None and record.get('result') == _stamp(path)


def judge(target: Path, source: Path, made_by: dict[str, Any]) -> Verdict:
    """Compare what is there with what would be made.

    Args:
        target: the result, whether it is there or not.
        source: the input.
        made_by: the network and the settings, in JSON's types.
    """
    if not target.exists() and not target.is_symlink():
        return Verdict('absent')
    record = _read(target)
    if record is None or record.get('result') != _stamp(target):
        return Verdict('foreign', 'was changed since' if record else 'was not made by this command')
    known = record.get('made_by')
    known = known if isinstance(known, dict) else {}
    different = [key for key in {**known, **made_by} if known.get(key) != made_by.get(key)]
    if different:
        return Verdict(
            'differs', ', '.join(f'{k} {_short(known.get(k))}, now {_short(made_by.get(k))}' for k in different)
        )
    if not _same_file(record.get('source'), source):
        return Verdict('differs', 'another input')
    return Verdict('same')


def write_record(target: Path, source: Path, made_by: dict[str, Any], sha256: str | None = None) -> None:
    """Note what `target` was made of.

    Args:
        target: the result, which is there.
        source: the input.
        made_by: as for `judge`.
        sha256: of the input, where it is known.
    """
    record = {
        'source': {'name': source.name, **_stamp(source), 'sha256': sha256 or _sha256(source)},
        'made_by': made_by,
        'result': _stamp(target),
    }
    with replacing(record_path(target)) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding='utf-8')


def _read(target: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(record_path(target).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _stamp(path: Path) -> dict[str, int]:
    try:
        status = path.stat()
    except OSError:
        return {}
    return {'size': status.st_size, 'mtime_ns': status.st_mtime_ns}


def _same_file(known: object, source: Path) -> bool:
    """By size and time, or by content where the time is another, as after a copy."""
    if not isinstance(known, dict):
        return False
    now = _stamp(source)
    if known.get('size') != now.get('size'):
        return False
    return known.get('mtime_ns') == now['mtime_ns'] or known.get('sha256') == _sha256(source)


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
