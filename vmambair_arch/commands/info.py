"""`vmambair info`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair info derain',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='file, address or name')


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.describe import info

    print(*info(args.checkpoint), sep='\n')
