"""Speed, memory and accuracy of the whole network on a CPU against its rivals: python -m benchmarks.network

RealSR x4 VmambaIR beside BasicSR's RRDBNet x4 (Real-ESRGAN's) and SwinIR-M and -light x4, forward and training step, at
the same inputs; growth of time and memory with the image; float32 against float64. The variants take turns, so that a
machine that slows down slows all of them; what counts are ratios of medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vmambair_arch.archs import PRESETS, VmambaIR
from vmambair_arch.errors import guard
from vmambair_arch.files import replacing
from vmambair_arch.ops import choose

from .arguments import positive

RESULTS = Path(__file__).parent / 'results' / 'network.json'
SIZES = (64, 128, 256, 512)
SWINIR = {
    'upscale': 4, 'in_chans': 3, 'img_size': 64, 'window_size': 8, 'img_range': 1.0, 'mlp_ratio': 2,
}  # fmt: skip


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Ours and the rivals, with the published sizes."""
    import vmambair_arch  # noqa: F401, I001 fixes basicsr
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from basicsr.archs.swinir_arch import SwinIR

    def swinir_m() -> nn.Module:
        depths = [6] * 6
        return SwinIR(
            depths=depths, num_heads=depths, embed_dim=180, upsampler='pixelshuffle', resi_connection='1conv', **SWINIR
        )

    def swinir_light() -> nn.Module:
        depths = [6] * 4
        return SwinIR(
            depths=depths, num_heads=depths, embed_dim=60, upsampler='pixelshuffledirect', resi_connection='1conv',
            **SWINIR,
        )  # fmt: skip

    return {
        'VmambaIR realsr_x4': lambda: VmambaIR.from_preset('realsr_x4'),
        'RRDBNet x4': lambda: RRDBNet(3, 3, scale=4),
        'SwinIR-M x4': swinir_m,
        'SwinIR-light x4': swinir_light,
    }


def forward(network: nn.Module, size: int) -> Callable[[], object]:
    network = network.eval()
    image = torch.rand(1, 3, size, size)

    def run() -> None:
        with torch.inference_mode():
            network(image)

    return run


def training_step(network: nn.Module, size: int) -> Callable[[], object]:
    """Forward, L1 loss, backward and Adam."""
    network = network.train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-5)
    image, target = torch.rand(1, 3, size, size), torch.rand(1, 3, size * 4, size * 4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.l1_loss(network(image), target).backward()
        optimizer.step()

    return run


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each run; they take turns, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def compare(kind: Callable[[nn.Module, int], Callable], size: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    return in_turns({name: kind(build(), size) for name, build in networks().items()}, rounds)


def growth(rounds: int) -> list[dict[str, float]]:
    """Median time and peak memory of our forward pass by size of the input; the small sizes share the rounds."""
    torch.manual_seed(0)
    network = networks()['VmambaIR realsr_x4']()
    runs = {str(size): forward(network, size) for size in SIZES}
    times = in_turns(runs, rounds)
    return [{'size': size, 'ms': times[str(size)], 'extra_mib': _extra_memory(size)} for size in SIZES]


def _extra_memory(size: int) -> float:
    """Peak memory of a forward pass in a process of its own, MiB beyond what it had before."""
    command = [sys.executable, '-m', 'benchmarks.network', '--memory-of', str(size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _print_memory(size: int) -> None:
    run = forward(networks()['VmambaIR realsr_x4'](), size)
    forward(networks()['VmambaIR realsr_x4'](), 8)()
    before = _memory('VmRSS')
    run()
    print((_memory('VmHWM') - before) / 1024)


def _memory(kind: str) -> float:
    """KiB in use now (VmRSS) or at the peak (VmHWM). `getrusage` would begin with the parent's peak."""
    with contextlib.suppress(OSError):
        return float(re.findall(rf'{kind}:\s+(\d+) kB', Path('/proc/self/status').read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def relative_rms() -> float:
    """float32 against float64 with the same weights: rms of the difference over rms of the output."""
    torch.manual_seed(0)
    network = networks()['VmambaIR realsr_x4']().eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        single = network(image).double()
        exact = network.double()(image.double())
    return ((single - exact).square().mean() / exact.square().mean()).sqrt().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=positive, default=7, help='repetitions of each figure (default: %(default)s)')
    parser.add_argument('--threads', type=positive, default=2)
    parser.add_argument('--memory-of', type=positive, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        _print_memory(args.memory_of)
        return
    ours, rrdb, swinir = list(networks())[:3]
    tables = {
        'forward 64x64': compare(forward, 64, args.rounds),
        'training step 64x64': compare(training_step, 64, max(args.rounds // 2, 1)),
        'forward 128x128': compare(forward, 128, 1),
        'training step 128x128': compare(training_step, 128, 1),
    }
    print(f'median ms, {args.threads} threads, batch 1; against RRDBNet in brackets')
    for name, times in tables.items():
        print(f'  {name:<22}' + '  '.join(f'{n} {t:.0f} ({t / times[rrdb]:.2f})' for n, t in times.items()))
    sizes = growth(max(args.rounds // 2, 1))
    for row in sizes:
        print(f'  {row["size"]}x{row["size"]}: {row["ms"]:.0f} ms, {row["extra_mib"]:.0f} MiB extra')
    fast, steps = tables['forward 64x64'], tables['training step 64x64']
    figures = {
        'net_growth_x': sizes[-1]['ms'] / (64 * sizes[0]['ms']),
        'net_vs_rrdb': fast[ours] / fast[rrdb],
        'net_vs_swinir_m': fast[ours] / fast[swinir],
        'train_vs_rrdb': steps[ours] / steps[rrdb],
        'rel_rms_fp64': relative_rms(),
    }
    for name, value in figures.items():
        print(f'  {name:<16}{value:.4g}')
    result = {
        'figures': figures,
        'threads': args.threads,
        'rounds': args.rounds,
        'torch': torch.__version__,
        'processor': platform.processor() or platform.machine(),
        'scan': choose(torch.device('cpu'), torch.float32).backend.name,
        'network': PRESETS['realsr_x4'],
        'median_ms': tables,
        'growth': sizes,
    }
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    print(f'written: {RESULTS}')


if __name__ == '__main__':
    sys.exit(guard(main))
