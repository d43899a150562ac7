"""`vmambair web`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair web --port 8000',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('-m', '--model', action='append', default=[], help='checkpoint; may be repeated (default: the bundled ones)')
    add('--host', default='127.0.0.1', help='0.0.0.0 lets other computers in (default: this one alone)')
    add('--port', type=int, help='default: the first free one from 7860 on')
    add('--device', help='default: a GPU where there is one')


def run(args: argparse.Namespace) -> None:
    import threading

    from ..inference.web import serve

    with serve(args.model, host=args.host, port=args.port, device=args.device) as address:
        print(f'{address} (Ctrl-C ends it)', flush=True)
        threading.Event().wait()
