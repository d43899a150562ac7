"""`vmambair profile`."""

from __future__ import annotations

import argparse

from ..plugin import imports

EXAMPLES = ('vmambair profile light realsr_x4 --sizes 64 128x96',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('targets', nargs='*', metavar='PRESET|ARCH|OPTIONS.yml', help='default: all presets and some rivals')
    add('--sizes', nargs='+', default=['64'], metavar='HxW', help='default: 64x64')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('--repeats', type=int, default=3, help='timed runs for each figure (default: %(default)s)')
    imports.add_argument(parser)
    add('-o', '--output', metavar='FOLDER', help='also write profile.md and profile.png, time and memory over size')


def run(args: argparse.Namespace) -> None:
    from ..errors import require
    from ..evaluation import complexity
    from ..inference.restorer import find_device
    from ..options import load_options

    for target in args.targets:
        if target.endswith(('.yml', '.yaml')):
            imports.import_packages(imports.named_in(load_options(target), target))
    imports.import_packages(args.imports, '--import')
    if args.output:
        require('profile -o', 'matplotlib')
    device = find_device(args.device)
    sizes = [complexity.parse_size(size) for size in args.sizes]
    rows = complexity.profile(args.targets, sizes, device=device, repeats=args.repeats)
    print(complexity.report(rows, device, args.output), end='')
