"""`vmambair check`."""

from __future__ import annotations

import argparse
from typing import Any

from ..plugin import launch

EXAMPLES = (
    'vmambair check -opt options/train_derain.yml',
    'vmambair check -opt options/train_derain.yml --samples sheets',
    'vmambair check -opt options/train_derain.yml --decode',
)


class _PrintSchema(argparse.Action):
    """Like `--version`: prints, and needs no other argument."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        launch.import_basicsr()
        from ..preflight import schema

        print(schema.text(), end='')
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    launch.add_arguments(parser)
    parser.add_argument('--samples', metavar='DIR', help='write a sheet of what the network will see to this folder')
    parser.add_argument(
        '--decode', action='store_true', help='decode every image: finds damage that headers do not show'
    )
    text = 'print the JSON schema of option files, for editors, and end'
    parser.add_argument('--schema', action=_PrintSchema, nargs=0, help=text)


def run(args: argparse.Namespace) -> int:
    report = launch.check(args)
    print('\n'.join(report.lines()))
    return 2 if report.faults else 0
