"""`vmambair autoload`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair autoload on',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('state', choices=('on', 'off'))
    parser.add_argument('--force', action='store_true', help='also outside a virtual environment')


def run(args: argparse.Namespace) -> None:
    from ..plugin import autoload

    for path in autoload.turn_on(args.force) if args.state == 'on' else autoload.turn_off():
        print('wrote' if args.state == 'on' else 'removed', path)
