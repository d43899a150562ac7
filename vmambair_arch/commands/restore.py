"""`vmambair restore`."""

from __future__ import annotations

import argparse

from .arguments import TASKS, pick

EXAMPLES = (
    'vmambair restore rainy.jpg -o clean.png',
    'vmambair restore photos -o restored --task sr',
)
RESTORER = ('device', 'precision', 'tile', 'overlap', 'self_ensemble', 'outscale', 'alpha')
FILES = ('suffix', 'format', 'quality', 'overwrite', 'max_pixels', 'report_seams')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('input', nargs='?', default=argparse.SUPPRESS, help='image, video or folder')
    source.add_argument('-i', '--input', metavar='INPUT', help='the same as an option')
    add('-o', '--output', default='results', help='folder, or file for a single input (default: %(default)s)')
    network = parser.add_mutually_exclusive_group()
    network.add_argument('--task', choices=TASKS, default='derain', help="by the package's network (default: derain)")
    network.add_argument('-m', '-n', '--model', '--model_name', help='by a checkpoint: file, https:// address or name')
    add('-s', '--outscale', type=float, help="final size over input size (default: the network's scale)")
    add('-t', '--tile', type=int, help='largest side of a tile; 0: whole (default: what memory allows)')
    add('--overlap', type=int, default=32, help='input pixels that neighbouring tiles share (default: %(default)s)')
    add('--suffix', default='', help='put between name and extension of every result')
    add('--format', '--ext', default='auto', help='png, jpg, webp, tif, … (default: as the input)')
    add('--quality', type=int, default=95, help='of JPEG and WebP, whose 100 is lossless (default: %(default)s)')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32')
    add(
        '--self-ensemble',
        action='store_true',
        help='average over flips and turns: 8x the time (derain: mirror image, 2x)',
    )
    add('--alpha', choices=('resize', 'restore'), default='resize', help='what happens to transparency')
    add('--report-seams', action='store_true', help='measure how far tiles are from the whole image')
    add('--overwrite', action='store_true', help='replace results that exist instead of skipping them')
    add('--max-pixels', type=int, default=2**27, help='refuse larger images (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    from ..inference.restore import restore
    from ..inference.restorer import Restorer

    restorer = Restorer.from_pretrained(args.model, task=args.task, **pick(args, RESTORER))
    report = restore(args.input, args.output, restorer, **pick(args, FILES))
    print(*report.lines(), sep='\n')
    return 1 if report.failed else 0
