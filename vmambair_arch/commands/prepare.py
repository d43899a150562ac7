"""`vmambair prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import pick

EXAMPLES = ('vmambair prepare rain13k derain-test --downloads ~/Downloads',)
PREPARE = ('names', 'downloads', 'out', 'bicubic', 'multiscale', 'sub_images', 'lmdb', 'workers')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('names', nargs='*', metavar='NAME', help='data sets, as rain13k derain-test; none: list those it knows')
    add('--downloads', type=Path, default=Path(), help='folder of the archives or unpacked folders (default: here)')
    add('--out', type=Path, default=Path('datasets'), help='folder of all data sets (default: %(default)s)')
    add('--bicubic', type=int, nargs='+', choices=(2, 3, 4, 8), help='make low-resolution images (SR test sets: 4)')
    add('--multiscale', action='store_true', help='make smaller versions, as Real-ESRGAN trains on')
    add('--sub-images', type=int, nargs='?', const=480, default=0, metavar='SIZE', help='cut into squares (480)')
    add('--lmdb', action='store_true', help='put every folder into an LMDB as well')
    add('--workers', type=int, help='threads (default: one for each core)')


def run(args: argparse.Namespace) -> int:
    from ..data.prepare import SOURCES, prepare

    if not args.names:
        for source in SOURCES.values():
            print(f'{source.name:<13} {source.images or "?":>6} images, {source.page}: {source.layout}')
        return 0
    result = prepare(**pick(args, PREPARE), say=lambda line: print(line, flush=True))
    print(*(f'missing or damaged: {fault}' for fault in result.faults), sep='\n', end='\n' * bool(result.faults))
    return 1 if result.faults else 0
