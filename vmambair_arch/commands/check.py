"""`vmambair check`."""

from __future__ import annotations

import argparse

from ..errors import UserError
from ..plugin import launch

EXAMPLES = (
    'vmambair check -opt options/train_derain.yml',
    'vmambair check -opt options/train_derain.yml --samples sheets',
    'vmambair check -opt options/train_derain.yml --decode',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    launch.add_arguments(parser, required=False)
    parser.add_argument('--samples', metavar='DIR', help='write a sheet of what the network will see to this folder')
    parser.add_argument(
        '--decode', action='store_true', help='decode every image: finds damage that headers do not show'
    )
    parser.add_argument(
        '--schema', action='store_true', help='print the JSON schema of option files, for editors, and end'
    )


def run(args: argparse.Namespace) -> int:
    if args.schema:
        launch.import_basicsr()
        from ..preflight import schema

        print(schema.text(), end='')
        return 0
    if args.opt is None:
        raise UserError('-opt FILE is missing: which option file?')
    report = launch.check(args)
    print('\n'.join(report.lines()))
    return 2 if report.faults else 0
