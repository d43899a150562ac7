"""`vmambair restore`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .arguments import TASKS, pick

EXAMPLES = (
    'vmambair restore rainy.jpg -o clean.png',
    'vmambair restore *.jpg more/ -o restored --task sr',
    'vmambair restore clip.mp4 -o clean.mkv',
    'vmambair restore - -o - --format png',
)
RESTORER = ('device', 'precision', 'tile', 'overlap', 'self_ensemble', 'outscale', 'alpha', 'colour_fix')
FILES = ('suffix', 'format', 'quality', 'overwrite', 'max_pixels', 'report_seams', 'codec', 'crf')
STREAM = '-'
TASK_HELP = (
    "by the package's network: derain (default) takes rain streaks away; realsr enlarges photographs with noise, blur "
    'or JPEG blocks four times; sr enlarges clean pictures four times'
)
DEFAULT = 'results'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        'input', nargs='*', default=argparse.SUPPRESS,
        help="images, videos, folders, patterns such as '*.jpg'; - reads an image from stdin",
    )  # fmt: skip
    source.add_argument('-i', '--input', nargs='+', metavar='INPUT', help='the same as an option')
    add('-o', '--output', help=f'folder, or file for a single input, or - for stdout (default: {DEFAULT})')
    network = parser.add_mutually_exclusive_group()
    network.add_argument('--task', choices=TASKS, default='derain', help=TASK_HELP)
    network.add_argument(
        '-m',
        '-n',
        '--model',
        '--model_name',
        help='by a checkpoint: file, https:// address, name, or user/repo on the Hub',
    )
    add(
        '-dn', '--denoise-strength', type=float, metavar='0..1',
        help='for --task realsr: 0 leaves noise as --task sr does, 1 removes it (default)',
    )  # fmt: skip
    add('-s', '--outscale', type=float, help="final size over input size (default: the network's scale)")
    add('-t', '--tile', type=int, help='largest side of a tile; 0: whole (default: what memory allows)')
    add(
        '--overlap',
        type=int,
        default=32,
        help='input pixels that neighbouring tiles share, a third of a tile at most (default: %(default)s)',
    )
    add('--suffix', default='', help='put between name and extension of every result')
    add('--format', '--ext', default='auto', help='png, jpg, webp, avif, tif, … (default: as the input)')
    add('--quality', type=int, help='of lossy formats, 100 is lossless for WebP (default: 95; lossless WebP stays so)')
    add('--codec', choices=('h264', 'h265', 'av1', 'vp9'), help='of videos (default: h264, vp9 for webm)')
    add('--crf', type=int, help="the video encoder's constant quality, lower is better (default: 17 for h264)")
    add('--device', help='cpu, cuda, cuda:1, mps, … (default: a CUDA or ROCm GPU where there is one)')
    add('--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32', help='fp16 is slow on a CPU')
    add(
        '--self-ensemble',
        action='store_true',
        help='average over flips and turns: 8x the time (derain: mirror image, 2x)',
    )
    add('--alpha', choices=('resize', 'restore'), default='resize', help='what happens to transparency')
    add(
        '--colour-fix', '--color-fix', choices=('none', 'adain', 'wavelet'),
        help='give results the colours of their inputs (default: what the network asks for: wavelet for realsr)',
    )  # fmt: skip
    add('--report-seams', action='store_true', help='measure how far the tiles that are used are from the whole image')
    add('--overwrite', action='store_true', help='replace whatever is there, made of the same or not')
    add('--max-pixels', type=int, default=2**27, help='refuse larger images (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    from ..errors import UserError
    from ..host import keep_freed_memory
    from ..inference.plan import refuse_empty
    from ..inference.restore_files import check_arguments, restore_files
    from ..inference.restorer import Restorer

    keep_freed_memory(of_pictures=True)
    inputs = list(args.input)
    if not inputs:
        raise UserError('name at least one image, video or folder')
    streamed = STREAM in inputs or args.output == STREAM
    if streamed and len(inputs) > 1:
        raise UserError('- takes one picture; name a folder for several')
    output = args.output if args.output is not None else STREAM if streamed else DEFAULT
    refuse_empty([*inputs, output])
    check_arguments(args.suffix, args.format, args.quality, args.max_pixels)
    denoise = args.denoise_strength
    restorer = Restorer.from_pretrained(args.model, task=args.task, denoise=denoise, **pick(args, RESTORER))
    if parameter_set := getattr(restorer.model, 'parameter_set', ''):
        print(f'vmambair: {args.model}: {parameter_set}', file=sys.stderr)
    if restorer.outscale and restorer.outscale > restorer.scale:
        print(
            f'vmambair: note: the network makes pictures {restorer.scale} times as large, and bicubic interpolation '
            f'the rest of {restorer.outscale:g}; --task sr and realsr enlarge four times',
            file=sys.stderr,
        )
    if streamed:
        _run_streamed(inputs[0], output, args, restorer)
        return 0
    report = restore_files(inputs, output, restorer, **pick(args, FILES))
    print(*report.lines(), sep='\n')
    return 1 if report.failed else 0


def _run_streamed(source: str, output: str, args: argparse.Namespace, restorer: object) -> None:
    """One picture from stdin, to stdout, or both.

    Raises:
        UserError: an option that is of files; a name that says another format than --format; a file that is there, or
            cannot be written; a stream that is closed.
    """
    from ..errors import UserError, one_line
    from ..files import check_writable, replacing
    from ..images.image_io import format_of, read_bytes
    from ..inference.plan import check_ending
    from ..inference.restore_files import restore_bytes_with_notes
    from ..inference.restorer import Restorer

    assert isinstance(restorer, Restorer)
    for name in ('suffix', 'report_seams', 'codec', 'crf'):
        if getattr(args, name) not in (None, False, ''):
            raise UserError(f'--{name.replace("_", "-")} does not go with -, which is one picture and no file')
    if output != STREAM and Path(output).is_file() and not args.overwrite:
        raise UserError(f'{output}: is there; --overwrite replaces it, or choose another output')
    if output == STREAM and sys.stdout.isatty():
        raise UserError('a picture is not written to a terminal; redirect it (> clean.png), or name a file with -o')
    form = args.format
    if output != STREAM:
        check_ending(output, form)
        if form == 'auto':
            format_of(output)
            form = Path(output).suffix[1:].lower()
        check_writable(Path(output).parent)
    data = _stdin() if source == STREAM else read_bytes(source, max_pixels=args.max_pixels)
    name = 'stdin' if source == STREAM else source
    result, _, notes = restore_bytes_with_notes(
        data, restorer, format=form, quality=args.quality, max_pixels=args.max_pixels, name=name
    )
    for note in notes:
        print(one_line(f'vmambair: note: {name}: {note}'), file=sys.stderr)
    if output == STREAM:
        _to_stdout(result)
        return
    with replacing(output) as temporary:
        temporary.write_bytes(result)


def _to_stdout(data: bytes) -> None:
    from ..errors import UserError

    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f'stdout: cannot be written ({error.strerror or error})', exit_code=1) from error


def _stdin() -> bytes:
    from ..errors import UserError

    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise UserError(f'stdin: cannot be read ({error.strerror or error})') from error
