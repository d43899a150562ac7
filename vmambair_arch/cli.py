"""The command `vmambair`: the arguments of every command, and one call into the room that does the work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import __version__
from .errors import guard


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, that of a UserError (2 for bad input), 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog='vmambair', description='VmambaIR for BasicSR: image restoration.')
    parser.add_argument('--version', action='version', version=f'vmambair {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for add in (_add_train, _add_test, _add_doctor):
        add(commands)
    args = parser.parse_args(argv)
    return guard(lambda: args.run(args))


def _add_train(commands: argparse._SubParsersAction) -> None:
    from . import launch

    parser = commands.add_parser('train', help='train with BasicSR')
    launch.add_arguments(parser)
    parser.set_defaults(run=launch.train)


def _add_test(commands: argparse._SubParsersAction) -> None:
    from . import launch

    parser = commands.add_parser('test', help='test with BasicSR')
    launch.add_arguments(parser)
    parser.set_defaults(run=launch.test)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> int:
        from . import doctor

        healthy = True
        for line in doctor.examine():
            print(line.text, flush=True)
            healthy &= line.well
        return 0 if healthy else 1

    parser = commands.add_parser('doctor', help='what is installed, which scan serves, and what would make it faster')
    parser.set_defaults(run=run)
