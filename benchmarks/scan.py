"""Speed and memory of the omni selective scan on a CPU: python -m benchmarks.scan

Beside one another in one run: the loop over pixels of `ops.reference`, direction by direction; the same loop as fast as
Python goes, all directions in one step; the torch version; the C kernel with every instruction set of this machine; and
the machine's own limit: the kernel's exponential on data in the first-level cache with nothing around it, once for
every state of every pixel. Variants take turns, times are medians. One thread is measured in CPU time of the process,
which other work on the machine disturbs least, more threads by the clock. The factors are over the faster loop. Freed
memory is kept for what comes next, as our commands do.

Memory is the growth of the peak of resident memory over a forward and a backward pass, in a process of its own.
Writes results/scan.json; `figures` are the numbers the project is held to.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vmambair_arch.errors import guard
from vmambair_arch.files import replacing
from vmambair_arch.host import keep_freed_memory
from vmambair_arch.ops import PLANE_DIRECTIONS, ScanInputs, c_library, c_scan, omni_scan, torch_scan

from .arguments import positive

N, K = 16, 4
TARGETS = {
    'scan_fwd_x': '>= 50',
    'scan_fwd_bwd_x': '>= 90',
    'exp_share': '>= 0.65',
    'extra_memory_x': '<= 12',
    'large_image_x': '<= 1.3',
}
RESULTS = Path(__file__).parent / 'results' / 'scan.json'


# --- inputs ----------------------------------------------------------------------------------------------------------


def inputs(b: int, h: int, w: int, d: int) -> ScanInputs:
    """x, x_dbl and the parameters as the networks have them at the start of training."""
    rng = torch.Generator().manual_seed(0)
    R = math.ceil(d / 16)
    x = F.silu(torch.randn(b, h, w, d, generator=rng))
    projection = torch.empty(K * (R + 2 * N), d).uniform_(-(d**-0.5), d**-0.5, generator=rng)
    dt_weight = torch.empty(K, d, R).uniform_(-(R**-0.5), R**-0.5, generator=rng)
    delta = torch.empty(K, d).uniform_(math.log(1e-3), math.log(0.1), generator=rng).exp()
    A = -torch.arange(1, N + 1.0).repeat(K, d, 1)
    return ScanInputs(x, F.linear(x, projection), dt_weight, delta.expm1().log(), A, torch.ones(K, d))


def batched_loop(tensors: ScanInputs, backend: str) -> Tensor:
    """The loop over pixels with all directions in one step: what Python can do at best."""
    x, A, D = tensors.x, tensors.A, tensors.D
    us, delta, B, C, orders = torch_scan.sequences(tensors, PLANE_DIRECTIONS)
    state, ys = 0.0, []
    for delta_t, write_t, B_t, C_t in zip(*(t.unbind(2) for t in (delta, delta * us, B, C)), strict=True):
        state = torch.exp(delta_t[..., None] * A) * state + write_t[..., None] * B_t[:, :, None]
        ys.append((state @ C_t[..., None])[..., 0])
    return torch_scan.merge(torch.stack(ys, 2), orders).view(x.shape) + x * D.sum(0)


def scan(tensors: ScanInputs, variant: str) -> Tensor:
    return (batched_loop if variant == 'batched_loop' else omni_scan)(tensors, backend=variant)


def forward(tensors: ScanInputs, variant: str) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.no_grad():
            return scan(tensors, variant)

    return run


def forward_backward(tensors: ScanInputs, variant: str) -> Callable[[], object]:
    leaves = ScanInputs(*(t.detach().requires_grad_() for t in tensors))
    grad_y = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    return lambda: torch.autograd.grad(scan(leaves, variant), leaves, grad_y)


def forward_into(tensors: ScanInputs) -> Callable[[], object]:
    """The kernel alone, into memory that is there already."""
    y, none = torch.empty_like(tensors[0]), torch.empty(0)
    problem = c_scan._problem(tensors, none, range(K))
    parts = c_scan._parts(problem)
    sums = c_scan._arrays(y, max(parts, 2))
    arguments = (problem, c_scan._pointers(sums), parts, c_scan._forward_channels(problem), y.data_ptr())

    def run() -> object:
        c_scan._functions().vmambair_scan_forward(*arguments)
        return tensors, sums, none  # which live as long as this function

    return run


# --- measuring -------------------------------------------------------------------------------------------------------


def medians(runs: dict[str, Callable[[], object]], rounds: int, threads: int) -> dict[str, float]:
    """Milliseconds of each run, in turns: medians over `rounds`, of as many calls each as take 20 ms."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter

    def measure(run: Callable[[], object], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            run()
        return (clock() - start) / calls * 1e3

    calls = {}
    for name, run in runs.items():
        run()
        calls[name] = max(1, round(20 / max(measure(run, 1), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(measure(run, calls[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def exponentials(count: int) -> tuple[Callable[[], object], float]:
    """Exponentials on 16 KiB, many times over, and what to multiply their time with for `count` of them."""
    # Input and output half a page apart: at a distance of whole pages a processor takes one for the other and waits.
    memory, times = torch.empty(4096 + 512 + 4096).uniform_(-5, 0), 1000
    t, out = memory[:4096], memory[-4096:]
    return lambda: c_scan.decay(t, 1.0, out, times), count / (t.numel() * times)


LABELS = {
    'reference': 'loop over pixels',
    'batched_loop': 'loop, directions together',
    'torch': 'torch version',
    'c': 'C kernel',
}


def measure_speed(h: int, w: int, d: int, threads: int, rounds: int, variants: tuple[str, ...]) -> dict[str, object]:
    """One row of the table: `variants` of `LABELS` on a map of h x w pixels and d channels."""
    tensors = inputs(1, h, w, d)
    limit, scale = exponentials(h * w * d * K * N)
    runs = {'limit': limit}
    for name in variants:
        runs |= {f'{name}_forward': forward(tensors, name), f'{name}_both': forward_backward(tensors, name)}
    times = medians(runs, rounds, threads)
    times['limit'] *= scale / threads
    print(f'\n{h} x {w}, {d} channels, {threads} thread{"s" * (threads > 1)}, {c_library.selected_isa()}')
    print(f'  exponentials alone        {times["limit"]:>10.2f} ms')
    for name in variants:
        once, both = times[f'{name}_forward'], times[f'{name}_both']
        print(f'  {LABELS[name]:<26}{once:>10.2f} ms forward {both:>10.2f} ms with backward')
    milliseconds = {name: round(value, 3) for name, value in times.items()}
    return {'h': h, 'w': w, 'd': d, 'threads': threads, 'isa': c_library.selected_isa(), 'ms': milliseconds}


def measure_large(threads: int, rounds: int) -> dict[str, float]:
    """One image of 256 x 256 against 16 of 64 x 64, 48 channels, outputs preallocated."""
    torch.set_num_threads(threads)
    times = medians(
        {'one_256': forward_into(inputs(1, 256, 256, 48)), 'sixteen_64': forward_into(inputs(16, 64, 64, 48))},
        rounds, threads,
    )  # fmt: skip
    ratio = times['one_256'] / times['sixteen_64']
    print(f'\n1 x 256 x 256 over 16 x 64 x 64, {threads} threads: {ratio:.2f}')
    return {'threads': threads, 'ratio': round(ratio, 3), **{k: round(v, 3) for k, v in times.items()}}


def measure_channel_scan(rounds: int) -> float:
    """Microseconds of a channel scan over 96 channels, forward, all of torch's work around it included."""
    d, R = 1, 6
    x, x_dbl = torch.randn(1, 1, 96, d), torch.randn(1, 1, 96, 2 * (R + 2 * N))
    rest = torch.randn(2, d, R), torch.randn(2, d), -torch.rand(2, d, N), torch.ones(2, d)
    with torch.no_grad():
        run = {'c': lambda: omni_scan(ScanInputs(x, x_dbl, *rest), (0, 2), backend='c')}
        return medians(run, rounds, 1)['c'] * 1e3


# --- memory ----------------------------------------------------------------------------------------------------------


def resident(field: str) -> int:
    """Bytes of resident memory of this process, now (VmRSS) or at most (VmHWM)."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def print_memory(side: int, d: int) -> None:
    """In the child: the growth of the peak over a forward and a backward pass, over the bytes of x."""
    forward_backward(inputs(1, 8, 8, d), 'c')()  # what is loaded once
    run = forward_backward(inputs(1, side, side, d), 'c')
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts again from here
    before = resident('VmRSS')
    gradients = run()
    print(json.dumps((resident('VmHWM') - before) / (4 * side**2 * d)))
    del gradients


def measure_memory(side: int, d: int, threads: int) -> float:
    command = [sys.executable, '-m', 'benchmarks.scan', '--memory', str(side), str(d), '--threads', str(threads)]
    ratio = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f'extra memory, {side} x {side}, {d} channels: {ratio:.1f} x the input')
    return ratio


def machine() -> str:
    """The name of the processor where Linux tells it."""
    cpus = Path('/proc/cpuinfo')
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    return next((line.partition(': ')[2] for line in lines if line.startswith('model name')), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--threads', type=positive, default=2, help='of the rows that are not about one thread')
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--memory', type=positive, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        return print_memory(*args.memory)
    keep_freed_memory()
    if not c_library.isa_names():
        parser.error(c_scan.unavailable(torch.device('cpu'), torch.float32))
    rows = [
        measure_speed(64, 64, 48, 1, args.rounds, tuple(LABELS)),
        measure_speed(64, 64, 96, 1, args.rounds, ('torch', 'c')),
        measure_speed(64, 64, 48, args.threads, args.rounds, ('c',)),
        measure_speed(64, 64, 96, args.threads, args.rounds, ('c',)),
    ]
    fastest, *others = c_library.isa_names()
    for isa in others:
        c_library.select_isa(isa)
        rows.append(measure_speed(64, 64, 48, 1, args.rounds, ('c',)))
    c_library.select_isa(fastest)
    large = [measure_large(threads, args.rounds) for threads in dict.fromkeys((1, args.threads))]
    memory = measure_memory(256, 48, args.threads)
    channel_us = measure_channel_scan(args.rounds)
    print(f'channel scan of 96 channels, forward: {channel_us:.0f} us')
    ms = rows[0]['ms']
    figures = {
        'scan_fwd_x': min(ms['reference_forward'], ms['batched_loop_forward']) / ms['c_forward'],
        'scan_fwd_bwd_x': min(ms['reference_both'], ms['batched_loop_both']) / ms['c_both'],
        'exp_share': ms['limit'] / ms['c_forward'],
        'extra_memory_x': memory,
        'large_image_x': large[-1]['ratio'],
    }
    print()
    for name, value in figures.items():
        print(f'{name:<16}{value:>8.2f}   target {TARGETS[name]}')
    results = {
        'machine': machine(),
        'torch': torch.__version__,
        'rounds': args.rounds,
        'figures': {name: round(value, 3) for name, value in figures.items()},
        'rows': rows,
        'large_image': large,
        'channel_scan_us': round(channel_us, 1),
    }
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + '\n')
    print(f'wrote {RESULTS}')


if __name__ == '__main__':
    sys.exit(guard(main))
