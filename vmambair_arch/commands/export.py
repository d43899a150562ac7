"""`vmambair export`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair export derain derain.onnx',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='file, address or name')
    parser.add_argument('target', help='.onnx or .pt2; both take images of any size')
    parser.add_argument('--size', nargs=2, type=int, metavar=('WIDTH', 'HEIGHT'), help='fixed, for AOTInductor')


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.convert import open_network
    from ..inference.export import export

    export(open_network(args.checkpoint), args.target, tuple(args.size[::-1]) if args.size else None)
    print('wrote', args.target)
