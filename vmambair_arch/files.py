"""Files are written whole or not at all; where what can be made anew is kept."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

CACHE_ENV = 'VMAMBAIR_CACHE'


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (hidden, same suffix) to write to; it becomes `path` when the block ends well.

    Whatever ends the block early, Ctrl-C included, the temporary file is removed and an older `path` stays as it was.
    Missing parent folders are made.

    Raises:
        UserError: the file cannot be written (permission, disk full, a folder or a device of that name).
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # renaming over /dev/null would be the end of it
        raise UserError(f'{path}: is there and is no file; name another one')
    temporary = path.with_name(f'.{secrets.token_hex(6)}.part{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error


def cache_folder() -> Path:
    """`$VMAMBAIR_CACHE`, or `vmambair` in the user's cache folder."""
    if CACHE_ENV in os.environ:
        return Path(os.environ[CACHE_ENV])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'vmambair'
