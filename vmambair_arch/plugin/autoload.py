"""`vmambair autoload on|off`: plain `python -m basicsr.train` and spandrel see this package, in one environment."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

from ..errors import UserError
from ..files import replacing

HOOK = '_vmambair_autoload'


def turn_on(force: bool = False) -> list[Path]:
    """Write the hook and the `.pth` file that imports it at every start of this environment's Python.

    Args:
        force: also outside a virtual environment.

    Returns:
        The files, as they are now.

    Raises:
        UserError: not in a virtual environment; a file cannot be written.
    """
    if sys.prefix == sys.base_prefix and not force:
        raise UserError(
            f'{sys.executable} is in no virtual environment and the hook would run in every program of this Python; '
            'activate one, or add --force'
        )
    hook, pth = files()
    source = Path(__file__).with_name('autoload_hook.py').read_text(encoding='utf-8')
    # The hook first: a .pth file without it would complain at every start.
    for path, text in ((hook, source), (pth, f'import {HOOK}\n')):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding='utf-8')
    return [hook, pth]


def turn_off() -> list[Path]:
    """Remove what `turn_on` wrote, and the byte code that Python made of it.

    Returns:
        The files that were there.

    Raises:
        UserError: a file cannot be removed.
    """
    hook, pth = files()
    removed = []
    for path in (pth, hook, Path(importlib.util.cache_from_source(hook))):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f'{path}: cannot be removed ({error.strerror})') from error
        removed.append(path)
    return removed


def files() -> tuple[Path, Path]:
    """The hook and the `.pth` file of the running Python's environment."""
    folder = Path(sysconfig.get_path('purelib'))
    return folder / f'{HOOK}.py', folder / f'{HOOK}.pth'
