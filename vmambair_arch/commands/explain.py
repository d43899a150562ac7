"""`vmambair explain`."""

from __future__ import annotations

import argparse

from .arguments import pick

EXAMPLES = ('vmambair explain rainy.jpg -o explain.png',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('image', metavar='IMAGE')
    add('-m', '--model', help='checkpoint: file, address or name (default: the bundled derain)')
    add('--at', nargs=2, type=int, metavar=('X', 'Y'), help='middle of the window, input pixels (default: the middle)')
    add('--size', type=int, default=128, help='input pixels looked at, a side (default: %(default)s)')
    add('--window', type=int, default=16, help='input pixels explained, a side (default: %(default)s)')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('-o', '--output', default='explain.png', help='image to write (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.find import checkpoint_for
    from ..evaluation.explain import explain

    model = args.model or checkpoint_for('derain')
    print(explain(args.image, model, args.output, **pick(args, ('at', 'size', 'window', 'device'))))
    print('wrote', args.output)
