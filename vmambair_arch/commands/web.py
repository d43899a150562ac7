"""`vmambair web`."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ('vmambair web --port 8000', 'vmambair web --host 0.0.0.0 --max-pixels 100000000')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('-m', '--model', action='append', default=[], help='checkpoint; may be repeated (default: the bundled ones)')
    add('--host', default='127.0.0.1', help='0.0.0.0 lets other computers in (default: this one alone)')
    add('--port', type=int, help='default: the first free one from 7860 on')
    add('--device', help='default: a GPU where there is one')
    add('--max-pixels', type=int, default=2**25, help='largest picture (default: %(default)s)')
    add('--max-upload', type=int, default=100, metavar='MB', help='largest file (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    import threading

    from ..files import scratch_folder
    from ..inference.web import Settings, serve

    with scratch_folder('vmambair-web-examples-') as folder:
        settings = Settings(args.device, args.max_pixels, args.max_upload, examples(folder))
        with serve(args.model, host=args.host, port=args.port, settings=settings) as address:
            print(f'{address} (Ctrl-C ends it; POST {address}restore takes a picture)', flush=True)
            threading.Event().wait()


def examples(folder: Path) -> list[Path]:
    """Photographs to try, in the rain, where scikit-image is there to bring them."""
    import numpy as np

    from ..data.photographs import photographs
    from ..data.rain import add_rain
    from ..errors import UserError
    from ..images.image_io import Image, write_image

    try:
        found = photographs('unseen')
    except (UserError, OSError):
        return []
    paths: list[Path] = []
    for photograph in found:
        picture = np.ascontiguousarray(photograph.image[:400:, :480]).astype(np.float32) / 255
        rainy = add_rain(picture, np.random.default_rng(len(paths)))
        path = folder / f'{photograph.name}.jpg'
        write_image(path, Image(np.asarray(rainy, np.float32)))
        paths.append(path)
    return paths
