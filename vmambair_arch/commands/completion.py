"""`vmambair completion`: the script that lets a shell complete commands, options, their choices and file names."""

from __future__ import annotations

import argparse

from ..errors import UserError
from .table import COMMANDS, command_parser

SHELLS = ('bash', 'zsh', 'fish')
EXAMPLES = ('vmambair completion bash',)

FILES = {
    'opt', 'input', 'output', 'model', 'source', 'target', 'checkpoint', 'photo', 'image', 'methods', 'targets', 'data',
}  # fmt: skip
FOLDERS = {'truth', 'lq', 'weights', 'downloads', 'out', 'folder', 'experiment'}
"""Arguments that name files and folders, by what `args` calls them; those of demo take folders to write to."""


def whole_parser() -> argparse.ArgumentParser:
    """The command line as one parser; `table` has one a command, so that one command alone is imported."""
    parser = argparse.ArgumentParser(prog='vmambair')
    parser.add_argument('--version', action='store_true', help='print the version')
    commands = parser.add_subparsers(metavar='COMMAND')
    for name, text in COMMANDS.items():
        one = command_parser(name)
        commands.add_parser(name, parents=[one], add_help=False, help=text, description=text)
    return parser


def script(shell: str) -> str:
    """The completion script of a shell.

    Raises:
        UserError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError('completion needs shtab; install it with: pip install shtab') from None

    parser = whole_parser()
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for one in subparsers.choices.values():
        for action in one._actions:
            if action.dest in FILES | FOLDERS and not action.choices:
                action.complete = shtab.FILE if action.dest in FILES else shtab.DIRECTORY
    return str(shtab.complete(parser, shell))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('shell', choices=SHELLS, help='the shell to write for')


def run(args: argparse.Namespace) -> None:
    print(script(args.shell))
