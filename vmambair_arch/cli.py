"""The command `vmambair`: the arguments of every command, and one call into the room that does the work."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .errors import guard


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, that of a UserError (2 for bad input), 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog='vmambair', description='VmambaIR for BasicSR: image restoration.')
    parser.add_argument('--version', action='version', version=f'vmambair {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for add in (
        _add_demo,
        _add_train,
        _add_test,
        _add_check,
        _add_prepare,
        _add_plot,
        _add_restore,
        _add_convert,
        _add_info,
        _add_card,
        _add_export,
        _add_web,
        _add_evaluate,
        _add_profile,
        _add_explain,
        _add_degrade,
        _add_autoload,
        _add_doctor,
    ):
        add(commands)
    args = parser.parse_args(argv)
    return guard(lambda: args.run(args))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> int:
        from . import demo

        say = functools.partial(print, flush=True)
        if args.shipped:
            demo.run_shipped(args.out, say=say)
        else:
            demo.run(args.task, args.out, say=say)
        return 0

    parser = commands.add_parser('demo', help='train on photographs, restore some it has never seen, show it')
    parser.add_argument('task', nargs='?', default='derain', help='derain (default), sr or realsr')
    parser.add_argument('--shipped', action='store_true', help="train nothing: show the package's own networks")
    parser.add_argument('--out', metavar='DIR', help='folder for everything it writes (default: demo_TASK)')
    parser.set_defaults(run=run)


def _add_train(commands: argparse._SubParsersAction) -> None:
    from . import launch

    parser = commands.add_parser('train', help='train with BasicSR')
    launch.add_arguments(parser)
    parser.set_defaults(run=launch.train)


def _add_test(commands: argparse._SubParsersAction) -> None:
    from . import launch

    parser = commands.add_parser('test', help='test with BasicSR')
    launch.add_arguments(parser)
    parser.set_defaults(run=launch.test)


def _add_plot(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from . import plot

        for path in plot.plot(args.experiment):
            print('wrote', path)

    parser = commands.add_parser('plot', help='draw loss, learning rate, patch size, metrics and images of a training')
    parser.add_argument('experiment', help='its folder, as experiments/NAME')
    parser.set_defaults(run=run)


def _add_restore(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> int:
        from .inference.restore import restore
        from .inference.restorer import Restorer

        restorer = Restorer.from_pretrained(args.model, task=args.task, **_pick(args, RESTORER))
        report = restore(args.input, args.output, restorer, **_pick(args, FILES))
        print(*report.lines(), sep='\n')
        return 1 if report.failed else 0

    RESTORER = ('device', 'precision', 'tile', 'overlap', 'self_ensemble', 'outscale', 'alpha')
    FILES = ('suffix', 'format', 'quality', 'overwrite', 'max_pixels', 'report_seams')
    parser = commands.add_parser('restore', help='restore an image, a video, or a folder of them')
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('input', nargs='?', default=argparse.SUPPRESS, help='image, video or folder')
    source.add_argument('-i', '--input', metavar='INPUT', help='the same as an option')
    add('-o', '--output', default='results', help='folder, or file for a single input (default: %(default)s)')
    network = parser.add_mutually_exclusive_group()
    network.add_argument('--task', default='derain', help="by the package's network: derain (default) or sr (x4)")
    network.add_argument('-m', '-n', '--model', '--model_name', help='by a checkpoint: file, https:// address or name')
    add('-s', '--outscale', type=float, help="final size over input size (default: the network's scale)")
    add('-t', '--tile', type=int, help='largest side of a tile; 0: whole (default: what memory allows)')
    add('--overlap', type=int, default=32, help='input pixels that neighbouring tiles share (default: %(default)s)')
    add('--suffix', default='', help='put between name and extension of every result')
    add('--format', '--ext', default='auto', help='png, jpg, webp, tif, … (default: as the input)')
    add('--quality', type=int, default=95, help='of JPEG and WebP, whose 100 is lossless (default: %(default)s)')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32')
    add('--self-ensemble', action='store_true', help='average over flips and turns, in eight times the time')
    add('--alpha', choices=('resize', 'restore'), default='resize', help='what happens to transparency')
    add('--report-seams', action='store_true', help='measure how far tiles are from the whole image')
    add('--overwrite', action='store_true', help='replace results that exist instead of skipping them')
    add('--max-pixels', type=int, default=2**27, help='refuse larger images (default: %(default)s)')
    parser.set_defaults(run=run)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from .inference.checkpoints import CLAIMS, convert, parse_metrics

        about = _pick(args, CLAIMS) | {'metrics': parse_metrics(args.metrics)}
        convert(args.source, args.target, half=args.half, **about)
        print('wrote', args.target)

    parser = commands.add_parser('convert', help='write a checkpoint that explains itself, or a .pth for BasicSR')
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
    add('--half', action='store_true', help='store fp16, in half the space')
    parser.set_defaults(run=run)


def _add_info(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from .inference.checkpoints import info

        print(*info(args.checkpoint), sep='\n')

    parser = commands.add_parser('info', help='what a checkpoint is: network, task, data, figures, checksum')
    parser.add_argument('checkpoint', help='file, address or name')
    parser.set_defaults(run=run)


def _add_card(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from .inference.card import write_card

        print('wrote', write_card(args.checkpoint, args.output))

    parser = commands.add_parser('card', help='write the model card of a checkpoint')
    parser.add_argument('checkpoint', help='file, address or name')
    parser.add_argument('-o', '--output', help='default: README.md, where there is none yet')
    parser.set_defaults(run=run)


def _add_export(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from .inference.checkpoints import open_network
        from .inference.export import export

        export(open_network(args.checkpoint), args.target, tuple(args.size[::-1]) if args.size else None)
        print('wrote', args.target)

    parser = commands.add_parser('export', help='write a network as ONNX or for torch.export')
    parser.add_argument('checkpoint', help='file, address or name')
    parser.add_argument('target', help='.onnx or .pt2; both take images of any size')
    parser.add_argument('--size', nargs=2, type=int, metavar=('WIDTH', 'HEIGHT'), help='fixed, for AOTInductor')
    parser.set_defaults(run=run)


def _add_web(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        import threading

        from .inference.web import serve

        with serve(args.model, host=args.host, port=args.port, device=args.device) as address:
            print(f'{address} (Ctrl-C ends it)', flush=True)
            threading.Event().wait()

    parser = commands.add_parser('web', help='restore photographs in the browser')
    add = parser.add_argument
    add('-m', '--model', action='append', default=[], help='checkpoint; may be repeated (default: the bundled ones)')
    add('--host', default='127.0.0.1', help='0.0.0.0 lets other computers in (default: this one alone)')
    add('--port', type=int, help='default: the first free one from 7860 on')
    add('--device', help='default: a GPU where there is one')
    parser.set_defaults(run=run)


def _pick(args: argparse.Namespace, names: Sequence[str]) -> dict[str, object]:
    return {name: getattr(args, name) for name in names}


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from .evaluation.evaluate import evaluate

        data = args.data or [['data', args.truth, args.lq]]
        evaluated = evaluate(args.methods, data, args.metrics, args.output, **_pick(args, OPTIONS))
        if evaluated:
            print(evaluated, end='')

    OPTIONS = ('crop_border', 'weights', 'crops', 'cost', 'device', 'tile', 'self_ensemble')
    parser = commands.add_parser('evaluate', help='metrics, tables and plots of restored images or checkpoints')
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
    add('--self-ensemble', action='store_true', help='average over flips and turns, in eight times the time')
    add('-o', '--output', default='results/evaluation', help='folder for everything (default: %(default)s)')
    parser.set_defaults(run=run)


def _add_profile(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from . import complexity
        from .inference.restorer import find_device

        device = find_device(args.device)
        sizes = [complexity.parse_size(size) for size in args.sizes]
        rows = complexity.profile(args.targets, sizes, device=device, repeats=args.repeats)
        print(complexity.report(rows, device, args.output), end='')

    parser = commands.add_parser('profile', help='parameters, multiply-adds, memory and time of networks')
    add = parser.add_argument
    add('targets', nargs='*', metavar='PRESET|ARCH|OPTIONS.yml', help='default: all presets and some rivals')
    add('--sizes', nargs='+', default=['64'], metavar='HxW', help='default: 64x64')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('--repeats', type=int, default=3, help='timed runs for each figure (default: %(default)s)')
    add('-o', '--output', metavar='FOLDER', help='also write profile.md and profile.png, time and memory over size')
    parser.set_defaults(run=run)


def _add_explain(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from .explain import explain

        print(explain(args.image, args.model, args.output, **_pick(args, ('at', 'size', 'window', 'device'))))
        print('wrote', args.output)

    parser = commands.add_parser('explain', help='what a checkpoint looks at: receptive field and local attribution')
    add = parser.add_argument
    add('image', metavar='IMAGE')
    add('-m', '--model', default='derain', help='checkpoint: file, address or name (default: the bundled %(default)s)')
    add('--at', nargs=2, type=int, metavar=('X', 'Y'), help='middle of the window, input pixels (default: the middle)')
    add('--size', type=int, default=128, help='input pixels looked at, a side (default: %(default)s)')
    add('--window', type=int, default=16, help='input pixels explained, a side (default: %(default)s)')
    add('--device', help='cpu, cuda, cuda:1, … (default: a GPU where there is one)')
    add('-o', '--output', default='explain.png', help='image to write (default: %(default)s)')
    parser.set_defaults(run=run)


def _add_degrade(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from . import degrade

        degrade.degrade(args.photo, args.output, args.seed, args.grid, args.scale)
        print('wrote', args.output)

    parser = commands.add_parser('degrade', help='a sheet that shows what the real-world degradation does to a photo')
    parser.add_argument('photo', help='image file')
    parser.add_argument('-o', '--output', default='degraded.png', help='the sheet (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--grid', type=int, default=16, help='pictures, the photo included (default: %(default)s)')
    parser.add_argument('--scale', type=int, default=4, help='how many times smaller they get (default: %(default)s)')
    parser.set_defaults(run=run)


def _add_check(commands: argparse._SubParsersAction) -> None:
    from . import launch

    def run(args: argparse.Namespace) -> int:
        report = launch.check(args)
        print('\n'.join(report.lines()))
        return 2 if report.faults else 0

    parser = commands.add_parser('check', help='find what is wrong with an option file and its data before a run')
    launch.add_arguments(parser)
    parser.set_defaults(run=run)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> int:
        from .data.prepare import SOURCES, prepare

        if not args.names:
            for source in SOURCES.values():
                print(f'{source.name:<12} {source.images:>6} images, {source.page}: {source.layout}')
            return 0
        result = prepare(**_pick(args, PREPARE), say=lambda line: print(line, flush=True))
        print(*(f'missing or damaged: {fault}' for fault in result.faults), sep='\n', end='\n' * bool(result.faults))
        return 1 if result.faults else 0

    PREPARE = ('names', 'downloads', 'out', 'bicubic', 'multiscale', 'sub_images', 'lmdb', 'workers')
    parser = commands.add_parser('prepare', help='lay out downloaded data sets as the option files read them')
    add = parser.add_argument
    add('names', nargs='*', metavar='NAME', help='data sets, as rain13k derain-test; none: list those it knows')
    add('--downloads', type=Path, default=Path(), help='folder of the archives or unpacked folders (default: here)')
    add('--out', type=Path, default=Path('datasets'), help='folder of all data sets (default: %(default)s)')
    add('--bicubic', type=int, nargs='+', choices=(2, 3, 4, 8), help='make low-resolution images (SR test sets: 4)')
    add('--multiscale', action='store_true', help='make smaller versions, as Real-ESRGAN trains on')
    add('--sub-images', type=int, nargs='?', const=480, default=0, metavar='SIZE', help='cut into squares (480)')
    add('--lmdb', action='store_true', help='put every folder into an LMDB as well')
    add('--workers', type=int, help='threads (default: one for each core)')
    parser.set_defaults(run=run)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> int:
        from . import doctor

        healthy = True
        for line in doctor.examine():
            print(line.text, flush=True)
            healthy &= line.well
        return 0 if healthy else 1

    parser = commands.add_parser('doctor', help='what is installed, which scan serves, and what would make it faster')
    parser.set_defaults(run=run)


def _add_autoload(commands: argparse._SubParsersAction) -> None:
    def run(args: argparse.Namespace) -> None:
        from . import autoload

        for path in autoload.turn_on(args.force) if args.state == 'on' else autoload.turn_off():
            print('wrote' if args.state == 'on' else 'removed', path)

    parser = commands.add_parser('autoload', help='let plain `python -m basicsr.train` see this package, or no longer')
    parser.add_argument('state', choices=('on', 'off'))
    parser.add_argument('--force', action='store_true', help='also outside a virtual environment')
    parser.set_defaults(run=run)
