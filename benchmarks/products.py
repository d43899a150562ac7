"""Matrix products through MKL and through oneDNN, side by side in one run: every shape of a network, whole networks.

    python -m benchmarks.products                     # shapes and networks
    python -m benchmarks.products --rivals            # and the real-world x4 network beside RRDBNet and SwinIR

The variants take turns. A figure is the median of the ratios of a round, time over that of torch's own product (MKL,
where torch has it); below 1 is faster. On one thread CPU time is compared, which other work on the machine disturbs
least, on several the time on the clock. `vmambair_arch/ops/products.py` says what is chosen by these figures.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vmambair_arch.archs import VmambaIR
from vmambair_arch.errors import guard
from vmambair_arch.ops import products

from .arguments import positive

Runs = dict[str, Callable[[], object]]
SIDES = {'realsr_x4': 64, 'derain': 96, 'light': 128}
"""Presets and sides of the picture they are given."""


def processor() -> str:
    """The model name of this machine's processor."""
    cpus = Path('/proc/cpuinfo')
    names = [line for line in cpus.read_text().splitlines() if 'model name' in line] if cpus.is_file() else []
    return names[0].partition(':')[2].strip() if names else platform.processor()


# --- time ------------------------------------------------------------------------------------------------------------


def in_turns(runs: Runs, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one call of every run, a figure a round; in a round each run is called for about `seconds`."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    counts = {}
    for name, run in runs.items():
        run()
        start = clock()
        run()
        counts[name] = max(1, round(seconds / max(clock() - start, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            for _ in range(counts[name]):
                run()
            times[name].append((clock() - start) / counts[name])
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


# --- shapes ----------------------------------------------------------------------------------------------------------


class _Shapes(TorchFunctionMode):
    """Counts (pixels, c, o) of the products that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[int, int, int]] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear:
            x, weight = args[:2]
            self.seen[x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def through(library: str) -> Iterator[None]:
    """Products of any size by 'torch' or 'onednn', or by 'rule': what an AMD processor gets."""
    before = products._library, products._smallest
    products._library = lambda: 'torch' if library == 'torch' else 'onednn'  # type: ignore[assignment]
    if library != 'rule':
        products._smallest = lambda: 0  # type: ignore[assignment]
    try:
        yield
    finally:
        products._library, products._smallest = before


def shapes(preset: str, side: int) -> Counter[tuple[int, int, int]]:
    """How often a forward pass multiplies maps of so many pixels and c channels to o."""
    with through('torch'), torch.inference_mode(), _Shapes() as passing:
        VmambaIR.from_preset(preset).eval()(torch.rand(1, 3, side, side))
    return passing.seen


def of_shape(pixels: int, c: int, o: int) -> dict[str, Runs]:
    """The ways to compute a product and its two gradients."""
    x, weight, grad = torch.randn(pixels, c), torch.randn(o, c), torch.randn(pixels, o)
    by_onednn = products._onednn()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, pixels)

    def onednn(a: Tensor, b: Tensor) -> Tensor:
        return by_onednn(a, b, None, 'none', [], '')

    return {
        'forward': {
            'torch': lambda: F.linear(x, weight),
            'onednn': lambda: onednn(x, weight),
            'packed': lambda: onednn(x, packed),
        },
        'of input': {'torch': lambda: grad @ weight, 'onednn': lambda: onednn(grad, weight.t())},
        'of weight': {'torch': lambda: grad.t() @ x, 'onednn': lambda: onednn(grad.t(), x.t())},
    }


def print_shapes(preset: str, side: int, rounds: int) -> None:
    print(f'\n{preset}, {side}x{side}: a product by oneDNN, with its weight packed before, and its gradients')
    header = ('times', 'pixels', 'c', 'o', 'torch us', 'GF/s', 'onednn', 'packed', 'of input', 'of weight')
    print('  ' + ''.join(f'{name:>10}' for name in header))
    for (pixels, c, o), count in sorted(shapes(preset, side).items(), reverse=True):
        if min(c, o) < products.NARROWEST:
            continue
        with torch.inference_mode():
            times = {what: in_turns(runs, rounds, 0.01) for what, runs in of_shape(pixels, c, o).items()}
        seconds = statistics.median(times['forward']['torch'])
        ratios = [
            ratio(times[what], name, 'torch')
            for what, name in (
                ('forward', 'onednn'), ('forward', 'packed'), ('of input', 'onednn'), ('of weight', 'onednn'),
            )
        ]  # fmt: skip
        row = f'{count:>10}{pixels:>10}{c:>10}{o:>10}{seconds * 1e6:>10.0f}{2e-9 * pixels * c * o / seconds:>10.0f}'
        print('  ' + row + ''.join(f'{value:>10.2f}' for value in ratios), flush=True)


# --- networks --------------------------------------------------------------------------------------------------------


def forward(network: nn.Module, side: int) -> Callable[[], object]:
    image = torch.rand(1, 3, side, side)

    def run() -> None:
        with torch.inference_mode():
            network.eval()(image)

    return run


def step(network: nn.Module, side: int) -> Callable[[], object]:
    """Forward and backward pass."""
    image = torch.rand(1, 3, side, side)

    def run() -> None:
        network.train().zero_grad(set_to_none=True)
        network(image).square().mean().backward()

    return run


def by(library: str, run: Callable[[], object]) -> Callable[[], object]:
    def chosen() -> None:
        with through(library):
            run()

    return chosen


def print_networks(kind: Callable[[nn.Module, int], Callable], name: str, rounds: int) -> None:
    print(f'\n{name}: ms by torch; by oneDNN for all; for products of at least {products._smallest()} multiplications')
    for preset, side in SIDES.items():
        run = kind(VmambaIR.from_preset(preset), side)
        times = in_turns({library: by(library, run) for library in ('torch', 'onednn', 'rule')}, rounds, 0.1)
        ratios = [f'{ratio(times, library, "torch"):.3f}' for library in ('onednn', 'rule')]
        print(f'  {preset:<10}{side}x{side:<6}{1e3 * statistics.median(times["torch"]):>8.0f}', *ratios, flush=True)


def print_rivals(rounds: int, side: int = 64) -> None:
    from benchmarks import network

    ours, *rivals = network.networks()
    for name, kind in (('forward', forward), ('forward and backward', step)):
        runs = {rival: kind(network.networks()[rival](), side) for rival in rivals}
        run = kind(network.networks()[ours](), side)
        libraries = ('torch', 'onednn', 'rule')
        times = in_turns(runs | {library: by(library, run) for library in libraries}, rounds, 0.1)
        print(f'\n{ours}, {name}, {side}x{side}, time over that of the rival: torch, onednn, rule')
        for rival in rivals:
            print(f'  {rival:<16}', *(f'{ratio(times, library, rival):.3f}' for library in libraries), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--threads', type=positive, default=1)
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--no-shapes', action='store_true')
    parser.add_argument('--no-networks', action='store_true')
    parser.add_argument('--rivals', action='store_true')
    args = parser.parse_args()
    if not products._has_onednn():
        raise SystemExit('this torch has no oneDNN: there is nothing to compare')
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    print(f'{processor()}, {args.threads} thread(s), torch {torch.__version__}, {args.rounds} rounds')
    if not args.no_shapes:
        for preset, side in SIDES.items():
            print_shapes(preset, side, args.rounds)
    if not args.no_networks:
        print_networks(forward, 'forward', args.rounds)
        print_networks(step, 'forward and backward', args.rounds)
    if args.rivals:
        print_rivals(args.rounds)


if __name__ == '__main__':
    sys.exit(guard(main))
