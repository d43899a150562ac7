"""Files are written whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


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
