"""`vmambair interpolate`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair interpolate careful.safetensors bold.safetensors -o between.safetensors --alpha 0.3',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('first', help='checkpoint: file, address or name')
    add('second', help='another of the same network, one trained from the other')
    add('-o', '--output', required=True, help='.safetensors or .pth')
    add('--alpha', type=float, default=0.5, help='share of the second, 0 to 1 (default: %(default)s)')
    add('--half', action='store_true', help='store fp16, in half the space')


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.interpolate import write_interpolated

    write_interpolated(args.first, args.second, args.output, args.alpha, half=args.half)
    print('wrote', args.output)
