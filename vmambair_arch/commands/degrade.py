"""`vmambair degrade`: see what the real-world degradation does to a photograph of one's own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, as_user_error
from ..options import parse_value

EXAMPLES = (
    'vmambair degrade photo.jpg -o sheet.png',
    'vmambair degrade photo.jpg --set halo_prob=1 codec_prob=1 codec_list=[avif,h264]',
)


def degrade(
    photo: str | Path,
    out: str | Path,
    seed: int = 0,
    grid: int = 16,
    scale: int = 4,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a sheet of `grid` pictures: the photograph, and degradations with their draws below.

    Args:
        photo: image file.
        out: the sheet.
        seed: of the draws.
        grid: number of pictures, the photograph included.
        scale: how many times smaller they get.
        options: further options of the degradation, by the names of option files.

    Raises:
        UserError: no photograph, one too small, numbers out of range, a sheet that cannot be written.
    """
    from realesrgan_pipeline import DegradationConfig
    from realesrgan_pipeline.contact_sheet import contact_sheet

    from ..images.image_io import Image, read_image, write_image

    if Path(photo).resolve() == Path(out).resolve():
        raise UserError(f'{out}: is the photograph itself; name another file for the sheet')
    if 'scale' in (options or {}):
        raise UserError('--set scale: write --scale')
    photograph = read_image(photo).rgb
    with as_user_error(str(photo)):
        sheet = contact_sheet(
            photograph, seed, grid, DegradationConfig.from_options({**(options or {}), 'scale': scale})
        )
    write_image(out, Image(sheet.astype('float32') / 255))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('photo', help='image file')
    parser.add_argument('-o', '--output', default='degraded.png', help='the sheet (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--grid', type=int, default=16, help='pictures, the photo included (default: %(default)s)')
    parser.add_argument('--scale', type=int, default=4, help='how many times smaller they get (default: %(default)s)')
    parser.add_argument(
        '--set', nargs='+', default=[], metavar='OPTION=VALUE', help='options of the degradation, as in option files'
    )


def run(args: argparse.Namespace) -> None:
    options = {}
    for entry in args.set:
        name, equals, value = entry.partition('=')
        if not equals:
            raise UserError(f"--set: '{entry}' is not of the form option=value")
        options[name] = parse_value(value)
    degrade(args.photo, args.output, args.seed, args.grid, args.scale, options)
    print('wrote', args.output)
