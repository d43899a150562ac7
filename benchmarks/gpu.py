"""Speed and memory on a GPU, of a block, a network and a training schedule: python -m benchmarks.gpu

1. One OSS block, forward and backward, 8 maps of 96 x 64 x 64 in float32, against the steps of the authors' release
   around mamba-ssm's kernel, or where that is not installed around ours, one direction at a time. Time and peak memory.
2. The real-world SR network at 16 images of 64 x 64, bfloat16 autocast, against RRDBNet x4 (Real-ESRGAN's).
3. Hours of the paper's whole deraining schedule on this one GPU: the measured time of a training step of each of its
   six stages, with the batch of all 8 GPUs accumulated, times the iterations of the stage.
4. The scan of the block alone, with every backend that runs here: which is the fastest, `ops.BACKENDS` has to know.

Variants take turns; times are medians of CUDA events. float32 is float32, not TF32. Writes results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.released_block import ReleasedBlock, mamba_scan, scan_by_scan
from vmambair_arch.archs import VmambaIR
from vmambair_arch.archs.oss_block import BlockOptions, OSSBlock
from vmambair_arch.files import replacing
from vmambair_arch.ops import BACKENDS, ScanInputs, choose, omni_scan
from vmambair_arch.options import load_options, option_file

RESULTS = Path(__file__).parent / 'results' / 'gpu.json'
DEVICE = torch.device('cuda')
GPUS_OF_THE_PAPER = 8
MICRO_BATCH_PIXELS = 16 * 128**2
"""Pixels of the images that go through the network at once; the rest of a batch is accumulated."""


def median_ms(runs: dict[str, Callable[[], object]], rounds: int, warm_up: int = 3) -> dict[str, float]:
    """Milliseconds of each run, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(-warm_up, rounds):
        for name, run in runs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if i >= 0:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(ms) for name, ms in times.items()}


def peak_mib(run: Callable[[], object]) -> float:
    """MiB that a run takes at its peak beyond what was allocated before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def bfloat16(enabled: bool = True) -> AbstractContextManager:
    return torch.autocast('cuda', torch.bfloat16, enabled=enabled)


# --- 1. the block ----------------------------------------------------------------------------------------------------


def block(rounds: int) -> dict[str, Any]:
    """Forward and backward of one block, ours and as released, on the same input."""
    torch.manual_seed(0)
    ours = OSSBlock(96, BlockOptions(channel_width=1)).to(DEVICE)
    x = torch.randn(8, 64, 64, 96, device=DEVICE)
    grad = torch.randn_like(x)
    mamba = next(backend for backend in BACKENDS if backend.name == 'mamba')
    installed = mamba.unavailable(DEVICE, torch.float32) is None
    released = ReleasedBlock(ours, mamba_scan if installed else scan_by_scan)

    def step(network: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
        leaf = x.clone().requires_grad_()

        def run() -> Tensor:
            for parameter in [leaf, *ours.parameters()]:
                parameter.grad = None
            y = network(leaf)
            y.backward(grad)
            return y.detach()

        return run

    first = [t.permute(0, 3, 1, 2).contiguous() for t in (x, grad)]
    runs = {'ours': step(ours, x, grad), 'released': step(released, *first)}
    wanted = runs['released']().permute(0, 2, 3, 1)
    deviation = ((runs['ours']() - wanted).norm() / wanted.norm()).item()
    ms = median_ms(runs, rounds)
    mib = {name: peak_mib(run) for name, run in runs.items()}
    return {
        'released_scan': 'mamba-ssm' if installed else 'ours, one direction at a time (mamba-ssm is not installed)',
        'relative_deviation': deviation,
        'ms': ms,
        'peak_mib': mib,
        'faster_x': ms['released'] / ms['ours'],
        'memory_x': mib['ours'] / mib['released'],
    }


# --- 2. the network --------------------------------------------------------------------------------------------------


def network(rounds: int) -> dict[str, Any]:
    """Images a second of the real-world SR network and, with BasicSR, of RRDBNet x4."""
    batch = 16
    torch.manual_seed(0)
    x = torch.rand(batch, 3, 64, 64, device=DEVICE)
    networks: dict[str, nn.Module] = {'vmambair': VmambaIR.from_preset('realsr_x4')}
    if find_spec('basicsr'):
        from basicsr.archs.rrdbnet_arch import RRDBNet

        # Convolutions in bfloat16 run fastest in this memory format.
        networks['rrdbnet'] = RRDBNet(3, 3, 4, 64, 23, 32).to(memory_format=torch.channels_last)

    def forward(network: nn.Module) -> Callable[[], Tensor]:
        network.eval().to(DEVICE)

        def run() -> Tensor:
            with torch.inference_mode(), bfloat16():
                return network(x)

        return run

    ms = median_ms({name: forward(network) for name, network in networks.items()}, rounds)
    images = {name: 1000 * batch / value for name, value in ms.items()}
    figures: dict[str, Any] = {'images_per_s': images}
    if 'rrdbnet' in images:
        figures['against_rrdbnet_x'] = images['vmambair'] / images['rrdbnet']
    return figures


# --- 3. the schedule -------------------------------------------------------------------------------------------------


def training_step(network: nn.Module, options: dict[str, Any], size: int, batch: int, amp: bool) -> Callable[[], None]:
    """One optimizer step on `batch` patches of `size`, a micro-batch at a time."""
    optimizer_options = {key: value for key, value in options['train']['optim_g'].items() if key != 'type'}
    optimizer = torch.optim.AdamW(network.parameters(), **optimizer_options)
    lq, gt = (torch.rand(batch, 3, size, size, device=DEVICE) for _ in range(2))
    micro = max(1, MICRO_BATCH_PIXELS // size**2)

    def run() -> None:
        optimizer.zero_grad()
        for lq_part, gt_part in zip(lq.split(micro), gt.split(micro), strict=True):
            with bfloat16(amp):
                loss = F.l1_loss(network(lq_part).float(), gt_part)
            (loss * (len(lq_part) / batch)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options['train']['grad_clip'])
        optimizer.step()

    return run


def schedule(rounds: int) -> dict[str, Any]:
    """Hours of the schedule of options/train_derain.yml, in bfloat16 autocast and in float32."""
    options = load_options(option_file('train_derain.yml'))
    data = options['datasets']['train']
    stages = list(zip(data['gt_sizes'], data['mini_batch_sizes'], data['iters'], strict=True))
    figures: dict[str, Any] = {}
    for name, amp in (('bfloat16', True), ('float32', False)):
        network = VmambaIR.from_preset('derain').to(DEVICE)
        rows = []
        for size, per_gpu, iterations in stages:
            batch = per_gpu * GPUS_OF_THE_PAPER
            step = training_step(network, options, size, batch, amp)
            ms = median_ms({'step': step}, rounds, warm_up=2)['step']
            rows.append({'size': size, 'batch': batch, 'ms': ms, 'hours': ms * iterations / 3.6e6})
            print(f'   {name:<9} {batch:>3} patches of {size:>3}: {ms:9.1f} ms a step, {rows[-1]["hours"]:6.1f} h')
        figures[name] = {'stages': rows, 'hours': sum(row['hours'] for row in rows)}
    return figures


# --- 4. the scan -----------------------------------------------------------------------------------------------------


def scan(rounds: int) -> dict[str, Any]:
    """Milliseconds of the scan alone, forward and forward + backward, by backend."""
    torch.manual_seed(0)
    K, d, N, R = 4, 96, 16, 6
    x, x_dbl = torch.randn(8, 64, 64, d, device=DEVICE), torch.randn(8, 64, 64, K * (R + 2 * N), device=DEVICE)
    dt_weight, dt_bias = 0.1 * torch.randn(K, d, R, device=DEVICE), torch.empty(K, d, device=DEVICE).uniform_(-7, -2)
    A, D = -torch.arange(1.0, N + 1, device=DEVICE).repeat(K, d, 1), torch.ones(K, d, device=DEVICE)
    inputs = ScanInputs(*(t.requires_grad_() for t in (x, x_dbl, dt_weight, dt_bias, A, D)))
    grad = torch.randn_like(x)

    def forward(backend: str) -> None:
        with torch.no_grad():
            omni_scan(inputs, backend=backend)

    def both(backend: str) -> None:
        torch.autograd.grad(omni_scan(inputs, backend=backend), inputs, grad)

    names = [b.name for b in BACKENDS if 'cuda' in b.devices and b.unavailable(DEVICE, torch.float32) is None]
    return {
        'forward_ms': median_ms({name: partial(forward, name) for name in names}, rounds),
        'forward_backward_ms': median_ms({name: partial(both, name) for name in names}, rounds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=30, help='repetitions of the block and the network')
    parser.add_argument(
        '--schedule-rounds', type=int, default=3, help='training steps of each stage; 0 leaves them out'
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('benchmarks.gpu: torch sees no CUDA or ROCm GPU here; run it on a machine that has one', file=sys.stderr)
        return 2
    # torch would run the release's 1x1 convolutions in TF32, and the matrix products that they are here in float32.
    torch.backends.cudnn.allow_tf32 = False
    backend = choose(DEVICE, torch.float32).backend.name
    results: dict[str, Any] = {
        'gpu': torch.cuda.get_device_name(), 'torch': torch.__version__, 'backend': backend, 'rounds': args.rounds,
    }  # fmt: skip
    print(f'{results["gpu"]}, torch {torch.__version__}, scan backend: {backend}')

    results['block'] = row = block(args.rounds)
    print(
        f'1. OSS block, forward + backward: {row["ms"]["ours"]:.2f} ms, {row["peak_mib"]["ours"]:.0f} MiB; as released '
        f'({row["released_scan"]}) {row["ms"]["released"]:.2f} ms, {row["peak_mib"]["released"]:.0f} MiB: '
        f'{row["faster_x"]:.2f} x faster (to reach: 2), {row["memory_x"]:.2f} of the memory (0.5), '
        f'deviation {row["relative_deviation"]:.1e}'
    )
    results['network'] = row = network(args.rounds)
    images = row['images_per_s']
    against = f'RRDBNet {images["rrdbnet"]:.1f}' if 'rrdbnet' in images else 'no RRDBNet: basicsr is not installed'
    ratio = f': {row["against_rrdbnet_x"]:.2f} x (to reach: 1.5)' if 'rrdbnet' in images else ''
    print(f'2. real-world SR x4, bfloat16, 64 x 64: {images["vmambair"]:.1f} images/s, {against}{ratio}')
    if args.schedule_rounds:
        print('3. the deraining schedule on this GPU alone')
        results['schedule'] = row = schedule(args.schedule_rounds)
        hours = ', '.join(f'{name} {figures["hours"]:.1f} h' for name, figures in row.items())
        print(f'   300k iterations at the batch of {GPUS_OF_THE_PAPER} GPUs: {hours} (to reach: 72)')

    results['scan'] = row = scan(args.rounds)
    for name, ms in row['forward_ms'].items():
        print(f'4. scan alone, {name}: forward {ms:.3f} ms, with backward {row["forward_backward_ms"][name]:.3f} ms')

    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + '\n')
    print(f'wrote {RESULTS}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
