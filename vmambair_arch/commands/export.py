"""`vmambair export`."""

from __future__ import annotations

import argparse

EXAMPLES = ('vmambair export derain derain.onnx', 'vmambair export derain derain.html --runtime node_modules')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='file, address or name')
    parser.add_argument('target', help='.onnx, .pt2, or .html: a page that restores in the browser')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('WIDTH', 'HEIGHT'), help='fixed, for AOTInductor and some ONNX runtimes'
    )
    parser.add_argument('--half', action='store_true', help='.onnx: weights as float16, half the file')
    parser.add_argument('--opset', type=int, help='.onnx: the ONNX operator set to write, 13 to 25 (default: 17)')
    parser.add_argument(
        '--kernel', action='store_true', help='.onnx: scan with the C kernel, for an onnxruntime that loads our library'
    )
    parser.add_argument(
        '--runtime', default='.', metavar='FOLDER', help='.html: where onnxruntime-web is (npm install onnxruntime-web)'
    )


def run(args: argparse.Namespace) -> None:
    from ..checkpoints.find import find_checkpoint
    from ..checkpoints.load import load_model
    from ..files import check_apart
    from ..inference.export import export
    from ..inference.onnx_graph import DEFAULT_OPSET
    from ..ops import c_library

    check_apart(args.target, map(find_checkpoint, [args.checkpoint]))
    network = load_model(args.checkpoint)
    export(
        network,
        args.target,
        tuple(args.size[::-1]) if args.size else None,
        half=args.half,
        opset=DEFAULT_OPSET if args.opset is None else args.opset,
        kernel=args.kernel,
        runtime=args.runtime,
    )
    print('wrote', args.target)
    if network.colour_fix != 'none':
        print(
            'this is the network alone: to give its results the colours of their inputs, as vmambair restore does '
            f'({network.colour_fix}), is left to your program'
        )
    if args.kernel:
        missing = c_library.why_not()
        where = c_library.LIBRARY if missing else c_library.path()
        note = f' (not usable here: {missing})' if missing else ''
        print(f'open it with: session_options.register_custom_ops_library({str(where)!r}){note}')
