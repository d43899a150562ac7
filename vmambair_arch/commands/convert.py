"""`vmambair convert`."""

from __future__ import annotations

import argparse

from .arguments import pick

EXAMPLES = ('vmambair convert net_g_latest.pth derain.safetensors --task derain --half',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('source', help="checkpoint of ours, BasicSR's or the authors': file, address or name")
    add('target', help='.safetensors or .pth')
    add('--task', help='what it does: derain, realsr, …')
    add('--training-data', help='what it was trained on')
    add(
        '--metric', dest='metrics', action='append', default=[], metavar='NAME=VALUE',
        help='a figure, such as psnr_y/Rain100L=39.09',
    )  # fmt: skip
    add('--license', help='of the weights')
    add('--recipe', help='the option file they were trained by')
    add('--compute', help='hardware and hours')
    add('--limits', help='what they are known to do badly')
    add(
        '--upright', action='store_true', default=None,
        help='it was trained on upright pictures alone (use_rot: false): never show it turned ones',
    )  # fmt: skip
    add(
        '--colour-fix', '--color-fix', choices=('none', 'adain', 'wavelet'),
        help='colours drift: what restore does about it unless it is told otherwise',
    )  # fmt: skip
    add('--half', action='store_true', help='store fp16, in half the space')


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.convert import convert, parse_metrics
    from ..checkpoints.load import CLAIMS

    about = pick(args, CLAIMS) | {'metrics': parse_metrics(args.metrics)}
    convert(args.source, args.target, half=args.half, **about)
    print('wrote', args.target)
