"""`vmambair evaluate`."""

from __future__ import annotations

import argparse

from .arguments import pick

EXAMPLES = ('vmambair evaluate ours=net_g_latest.pth --truth val/target --lq val/input',)
OPTIONS = ('crop_border', 'weights', 'crops', 'cost', 'device', 'tile', 'self_ensemble')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('methods', nargs='+', metavar='[NAME=]PATH', help='folder of restored images, or checkpoint to run')
    add('--truth', metavar='FOLDER', help='the true images, of one data set')
    add('--lq', metavar='FOLDER', help='its inputs, for checkpoints and pictures')
    add('--data', nargs='+', action='append', metavar='NAME TRUTH [LQ]', help='one of several data sets; - for none')
    add('--metrics', nargs='+', default=['psnr_y', 'ssim_y'], metavar='NAME', help='default: psnr_y ssim_y')
    add('--crop-border', type=int, default=0, metavar='N', help='pixels that PSNR and SSIM leave out (default: 0)')
    add('--weights', metavar='PATH', help='folder of backbone weights for LPIPS, DISTS and FID')
    add('--crops', nargs='+', default=[], metavar='IMAGE:X,Y,W,H', help='zoomed crops of all methods side by side')
    add('--cost', nargs='+', default=[], metavar='NAME=G', help='10^9 multiply-adds of a folder, for the plot of cost')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('--tile', type=int, help='largest side of a tile; 0: whole (default: what memory allows)')
    add(
        '--self-ensemble',
        action='store_true',
        help='average over flips and turns: 8x the time (derain: mirror image, 2x)',
    )
    add('-o', '--output', default='results/evaluation', help='folder for everything (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    from ..errors import UserError
    from ..evaluation.evaluate import evaluate
    from ..host import keep_freed_memory

    keep_freed_memory(of_pictures=True)
    if args.data and (args.truth or args.lq):
        raise UserError('--data names its own folders; put those of --truth and --lq there')
    data = args.data or [['data', args.truth, args.lq]]
    evaluated = evaluate(args.methods, data, args.metrics, args.output, **pick(args, OPTIONS))
    if evaluated:
        print(evaluated, end='')
