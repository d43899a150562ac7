"""Packages of the user's own, imported so that what they register is there: `import: [mypkg]` and `--import mypkg`."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..options import read_options

KEY = 'import'
_PASSED_THROUGH = (str(Path('basicsr', 'utils', 'registry.py')), str(Path('vmambair_arch', 'plugin')), 'importlib')
"""Files that an error comes through, and is not of."""
_MODULE = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*')


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--import', dest='imports', action='append', default=[], metavar='PACKAGE',
        help='import your own package first, whose networks, data sets, losses and metrics the option file names',
    )  # fmt: skip


def import_for(arguments: argparse.Namespace) -> None:
    """Import what the option file names under `import`, then what `--import` names.

    Args:
        arguments: of `launch.add_arguments`.

    Raises:
        UserError: the option file cannot be read, or as in `import_packages`.
    """
    options = read_options(arguments, [])  # keys that are there twice are the check's to say
    import_packages(named_in(options, str(arguments.opt)))
    import_packages(getattr(arguments, 'imports', ()), '--import')


def named_in(options: Mapping[str, Any], file: str) -> list[str]:
    """What an option file names under `import`: a name or a list of names.

    Raises:
        UserError: it is anything else.
    """
    value = options.get(KEY)
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{file}: import must be the name of a package, or a list of names, not {value!r}')
    return names


def import_packages(names: Iterable[str], asked_by: str = 'import') -> None:
    """Import packages by name, in their order; one that is imported already stays as it is.

    The current folder is searched last, so a package beside the option file needs no installation and hides none.

    Args:
        names: dotted names of packages or modules.
        asked_by: stands in messages.

    Raises:
        UserError: no such package, or an error inside of it, with its place.
    """
    names = list(names)
    here = str(Path.cwd())
    if names and not {'', here} & set(sys.path):
        sys.path.append(here)
    for name in names:
        _import(name, f'{asked_by}: {name}')


def _import(name: str, where: str) -> None:
    if not _MODULE.fullmatch(name):
        raise UserError(f"{where}: not the name of a package, as 'mypkg' or 'mypkg.archs'; write the name, not a path")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f'{name}.'.startswith(f'{error.name}.'):
            raise UserError(
                f"{where}: there is no module '{error.name}' in {Path.cwd()} nor in this Python; start in the folder "
                'that holds it, or install it'
            ) from None
        raise UserError(f'{where}: {_told(error)}') from error
    except (Exception, SystemExit) as error:  # somebody else's code may do anything
        raise UserError(f'{where}: {_told(error)}') from error


def _told(error: BaseException) -> str:
    """An error in one line, with where it was raised."""
    text = ' '.join(str(error).split())[:300] or 'failed'
    places = traceback.extract_tb(error.__traceback__)
    theirs = [place for place in places if not any(part in place.filename for part in ('<frozen', *_PASSED_THROUGH))]
    file, line = (theirs or places)[-1].filename, (theirs or places)[-1].lineno
    if isinstance(error, SyntaxError) and error.filename:
        text, file, line = error.msg, error.filename, error.lineno
    return f'{text} ({type(error).__name__} at {file}, line {line})'
