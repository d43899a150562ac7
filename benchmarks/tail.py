"""Upsamplers with their tail as one convolution against the chain of it: python -m benchmarks.tail

Networks with their weights at random, forward and a training step (forward, L1 loss, backward) in turns; ratios of
medians of CPU time, and the most memory of a forward pass as `vmambair restore` reckons it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from vmambair_arch.archs import VmambaIR
from vmambair_arch.archs.tail import UpsamplingTail
from vmambair_arch.errors import guard
from vmambair_arch.inference.tiles import peak_memory

from .arguments import positive

PRESETS: dict[str, dict[str, int]] = {'light x4': {'scale': 4}, 'realsr_x4': {}}


def networks(preset: str) -> dict[str, VmambaIR]:
    """The same network twice."""
    found = {}
    for name in ('one convolution', 'chain'):
        torch.manual_seed(0)
        found[name] = VmambaIR.from_preset(preset.split()[0], **PRESETS[preset])
    for module in found['chain'].modules():
        if isinstance(module, UpsamplingTail):
            module.forward = module.chain
    return found


def forward(network: nn.Module, batch: int, side: int) -> Callable[[], object]:
    x = torch.rand(batch, 3, side, side)

    def run() -> None:
        with torch.inference_mode():
            network(x)

    return run


def step(network: nn.Module, batch: int, side: int) -> Callable[[], object]:
    x, target = torch.rand(batch, 3, side, side), torch.rand(batch, 3, side * 4, side * 4)

    def run() -> None:
        network.zero_grad()
        nn.functional.l1_loss(network(x), target).backward()

    return run


def ratio(runs: list[Callable[[], object]], rounds: int) -> tuple[float, float]:
    """Milliseconds of the first, and its share of the second's: medians of CPU time in turns, after one of each."""
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for run, kept in zip(runs, times, strict=True):
            begun = time.process_time()
            run()
            if number:
                kept.append(1e3 * (time.process_time() - begun))
    ours, chain = map(statistics.median, times)
    return ours, ours / chain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--threads', type=positive, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print('| network | forward, 64x64 | 128x128 | training step, 4 x 48x48 | memory, forward, 128x128 |')
    print('| --- | ---: | ---: | ---: | ---: |')
    for preset in PRESETS:
        pair = list(networks(preset).values())
        cells = []
        for kind, batch, side in ((forward, 1, 64), (forward, 1, 128), (step, 4, 48)):
            ms, share = ratio([kind(network, batch, side) for network in pair], args.rounds)
            cells.append(f'{ms:.0f} ms, {share:.2f} x')
        with torch.inference_mode():
            ours, chain = (peak_memory(network, torch.rand(1, 3, 128, 128)) / 2**20 for network in pair)
        print(f'| {preset} | {" | ".join(cells)} | {ours:.0f} MiB, {ours / chain:.2f} x |')


if __name__ == '__main__':
    sys.exit(guard(main))
