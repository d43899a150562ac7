"""`vmambair card`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair card derain.safetensors -o README.md',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='file, address or name')
    parser.add_argument('--openmodeldb', action='store_true', help='an entry for OpenModelDB (JSON) instead')
    parser.add_argument('-o', '--output', help='default: README.md, where there is none yet')


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.card import write_card, write_openmodeldb

    write = write_openmodeldb if args.openmodeldb else write_card
    print('wrote', write(args.checkpoint, args.output))
