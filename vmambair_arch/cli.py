"""The command `vmambair`: its commands in groups; each is a module of `commands` with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands.table import COMMANDS, GROUPS, Parser, command_parser
from .errors import guard, nearest, write_any_letter
from .host import let_threads_sleep

__all__ = ['COMMANDS', 'GROUPS', 'command_parser', 'main']


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, that of a UserError (2 for bad input), 130 after Ctrl-C."""
    write_any_letter()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        let_threads_sleep()
        args = command_parser(words[0]).parse_args(words[1:])
        return guard(lambda: args.run(args))
    lines = [f'\n{group}:\n' + ''.join(f'  {n:<10} {t}\n' for n, t in names.items()) for group, names in GROUPS.items()]
    parser = Parser(
        prog='vmambair',
        usage='vmambair COMMAND [options]',
        description='VmambaIR for BasicSR: image restoration.\n' + ''.join(lines),
        epilog='vmambair COMMAND --help shows the options of a command, with examples.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'vmambair {__version__}')
    parser.add_argument('command', nargs='?', metavar='COMMAND', help=argparse.SUPPRESS)
    name = parser.parse_known_args(words)[0].command
    if name is None:
        parser.error('which command?')
    parser.error(f"unknown command '{name}'{nearest(name, list(COMMANDS))}")
    return 2
