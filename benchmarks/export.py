"""What an exported network costs in other programs, beside torch with our kernel: python -m benchmarks.export

One thread each, in turns in one process, so that a machine that slows down slows all of them; medians of CPU time,
which other work on the machine disturbs least, and their ratio to torch's. `--beside FILE`: an ONNX file written
otherwise. Writes `results/export.json`, where what was not measured stays as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vmambair_arch.archs.base import Network
from vmambair_arch.checkpoints.load import load_model
from vmambair_arch.errors import guard
from vmambair_arch.files import replacing
from vmambair_arch.inference.export import export
from vmambair_arch.ops import c_library

from .arguments import positive

RESULTS = Path(__file__).parent / 'results' / 'export.json'
Image = npt.NDArray[np.float32]
Run = Callable[[Image], Image]


def in_torch(network: Network) -> Run:
    def run(image: Image) -> Image:
        with torch.inference_mode():
            return network(torch.from_numpy(image)).clamp(0, 1).numpy()

    return run


def in_onnxruntime(path: Path, threads: int, library: Path | None = None) -> Run:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda image: session.run(['restored'], {'image': image})[0]


def in_openvino(path: Path, threads: int, precision: str) -> Run:
    import openvino

    settings = {'INFERENCE_NUM_THREADS': threads, 'INFERENCE_PRECISION_HINT': precision}
    model = openvino.Core().compile_model(path, 'CPU', settings)
    return lambda image: model(image)['restored']


def programs(network: Network, folder: Path, args: argparse.Namespace) -> tuple[dict[str, Run], dict[str, object]]:
    """What runs and is asked for, by name, and what the files took that it wanted."""
    files: dict[str, object] = {}
    why_not = c_library.why_not()
    library = None if why_not else c_library.path()

    def file(kind: str) -> Path:
        path, start = folder / f'{kind}.onnx', time.process_time()
        if kind not in files:
            export(network, path, half=kind == 'half', kernel=kind == 'kernel')
            files[kind] = {'seconds': round(time.process_time() - start, 2), 'bytes': path.stat().st_size}
            print(f'{kind}: written in {files[kind]}', flush=True)
        return path

    offers: dict[str, Callable[[], Run]] = {
        'onnxruntime, plain': lambda: in_onnxruntime(file('plain'), args.threads),
        'onnxruntime, half': lambda: in_onnxruntime(file('half'), args.threads),
        'onnxruntime, kernel': lambda: in_onnxruntime(file('kernel'), args.threads, library),
        'openvino, f32': lambda: in_openvino(file('plain'), args.threads, 'f32'),
        'openvino, bf16': lambda: in_openvino(file('plain'), args.threads, 'bf16'),
    }
    for path in args.beside:  # which may have our kernel in it
        offers[f'onnxruntime, {path.name}'] = partial(in_onnxruntime, path, args.threads, library)
    runs = {'torch': in_torch(network)}
    for name, make in offers.items():
        if not any(word in name for word in args.only):
            continue
        if why_not and name == 'onnxruntime, kernel':
            print(f'{name}: left out ({why_not})')
            continue
        try:
            runs[name] = make()
        except ImportError as error:
            print(f'{name}: left out ({error})')
    return runs, files


def compare(runs: dict[str, Run], size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds, ratio to torch and largest difference from it, by program."""
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    times: dict[str, list[float]] = {name: [] for name in runs}
    expected = runs['torch'](image)
    differences = {name: float(np.abs(run(image) - expected).max()) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run(image)
            times[name].append(1e3 * (time.process_time() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {'ms': round(ms, 1), 'of_torch': round(ms / medians['torch'], 2), 'difference': differences[name]}
        for name, ms in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='derain', help='checkpoint or name')
    parser.add_argument('--sizes', type=positive, nargs='+', default=[96, 512])
    parser.add_argument('--rounds', type=positive, default=9, help='at the smallest size; fewer at larger ones')
    parser.add_argument('--threads', type=positive, default=1)
    parser.add_argument('--beside', type=Path, nargs='*', default=[], metavar='FILE', help='further ONNX files')
    parser.add_argument('--only', nargs='+', default=[''], metavar='WORD', help='programs with such a word in the name')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = load_model(args.model)
    with tempfile.TemporaryDirectory() as folder:
        runs, files = programs(network, Path(folder), args)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        sizes: dict[str, dict[str, dict[str, float]]] = kept.get('sizes', {})
        files = {**kept.get('files', {}), **files}
        for size in args.sizes:
            rounds = max(2, round(args.rounds * min(args.sizes) / size))
            rows = compare(runs, size, rounds)
            sizes.setdefault(str(size), {}).update(rows)
            for name, row in rows.items():
                print(f'{size}x{size}  {name:24} {row}', flush=True)
    about = {'machine': _processor(), 'torch': torch.__version__, 'threads': args.threads, 'model': args.model}
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps({**about, 'files': files, 'sizes': sizes}, indent=1) + '\n')


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor()
    return f'{name}, {os.cpu_count()} cores'


if __name__ == '__main__':
    sys.exit(guard(main))
