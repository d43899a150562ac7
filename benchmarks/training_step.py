"""A training step against that of another checkout: both run in turns in one call, and their gradients are compared.

    git worktree add ../before 2af6626 && (cd ../before && python setup.py build_ext --inplace)
    python -m benchmarks.training_step --against ../before
    python -m benchmarks.training_step --forms
    python -m benchmarks.training_step --shares

The others measure this checkout: float32, `train: amp` and `train: compile` in turns; the operators of a step.
A step is what `vmambair train` does on a CPU: the network forward, an L1 loss, backward, gradients clipped, AdamW.
Wall time says what a user waits for on a quiet machine; CPU time is what can be compared on a busy one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SHOWN = 16  # operators of the longest times


# --- one checkout, in a process of its own ---------------------------------------------------------------------------


def prepare(preset: str, batch: int, side: int, threads: int) -> tuple[Any, ...]:
    """Network, optimiser, input and target of a training on a CPU."""
    import torch

    from vmambair_arch.archs import VmambaIR
    from vmambair_arch.models.optimizers import build_optimizer

    for home in ('host', 'models.memory'):  # now, and in an older checkout
        with contextlib.suppress(ImportError, AttributeError):
            importlib.import_module(f'vmambair_arch.{home}').keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = VmambaIR.from_preset(preset)
    optimizer = build_optimizer(network.named_parameters(), {'type': 'AdamW', 'lr': 1e-4})
    x = torch.rand(batch, 3, side, side)
    return network, optimizer, x, torch.rand(batch, 3, side * network.scale, side * network.scale)


def take_step(network: Any, optimizer: Any, x: Any, target: Any, amp: Any = None) -> None:
    """What `vmambair train` does in an iteration; `amp`: torch's dtype of `train: amp`."""
    import torch

    optimizer.zero_grad()
    with torch.autocast('cpu', dtype=amp or torch.bfloat16, enabled=amp is not None):
        output = network(x)
    (output.float() - target).abs().mean().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def work(preset: str, batch: int, side: int, threads: int, gradients: str) -> None:
    """Wait for numbers of steps on stdin, answer with [wall seconds, CPU seconds] a step."""
    import torch

    network, optimizer, x, target = prepare(preset, batch, side, threads)

    def step() -> None:
        take_step(network, optimizer, x, target)

    # Of squares: the L1 loss has a jump in its gradient wherever a pixel hits its target.
    (network(x) - target).square().mean().backward()
    torch.save({name: parameter.grad for name, parameter in network.named_parameters()}, gradients)
    step()
    step()
    print(json.dumps('ready'), flush=True)
    for line in sys.stdin:
        count, wall, cpu = int(line), time.perf_counter(), time.process_time()
        for _ in range(count):
            step()
        print(json.dumps([(time.perf_counter() - wall) / count, (time.process_time() - cpu) / count]), flush=True)


class Worker:
    """The process of one checkout."""

    def __init__(self, checkout: Path, arguments: list[str], gradients: Path) -> None:
        self.gradients = gradients
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), '--worker', str(gradients), *arguments],
            env=os.environ | {'PYTHONPATH': str(checkout)},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ''
        if not line:
            raise SystemExit(f'the worker of {self.process.args} ended')
        return json.loads(line)

    def measure(self, steps: int) -> tuple[float, float]:
        assert self.process.stdin
        self.process.stdin.write(f'{steps}\n')
        self.process.stdin.flush()
        wall, cpu = self.answer()
        return wall, cpu

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()


# --- both ------------------------------------------------------------------------------------------------------------


def largest_difference(ours: Path, theirs: Path) -> float:
    """Of the gradients at the start, over the largest of the same parameter and 1e-3 of the largest of all."""
    import torch

    a, b = torch.load(ours), torch.load(theirs)
    floor = 1e-3 * max(grad.abs().max().item() for grad in b.values())
    return max((a[name] - b[name]).abs().max().item() / max(b[name].abs().max().item(), floor) for name in b)


def compare(against: Path, arguments: list[str], rounds: int, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {'new': HERE.parents[1], 'old': against.resolve()}
        workers = {name: Worker(path, arguments, Path(folder, name)) for name, path in checkouts.items()}
        difference = largest_difference(workers['new'].gradients, workers['old'].gradients)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name].append(worker.measure(steps))
        for worker in workers.values():
            worker.end()
    row: dict[str, Any] = {'gradients_differ_by': difference}
    for place, clock in enumerate(('wall', 'cpu')):
        medians = {name: statistics.median(pair[place] for pair in pairs) for name, pairs in times.items()}
        row |= {f'{clock}_{name}_ms': seconds * 1e3 for name, seconds in medians.items()}
        row[f'{clock}_ratio'] = statistics.median(
            new[place] / old[place] for new, old in zip(times['new'], times['old'], strict=True)
        )
    return row


def compare_forms(preset: str, batch: int, side: int, threads: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds of wall time of the first step, and the median of CPU seconds of a step in all threads, by form."""
    import torch

    network, optimizer, x, target = prepare(preset, batch, side, threads)
    forms = {
        'float32': (network, None),
        'amp: bf16': (network, torch.bfloat16),
        'amp: fp16': (network, torch.float16),
        'compile: true': (torch.compile(network), None),
    }
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(1 + rounds):
        for name, (form, amp) in forms.items():
            wall, cpu = time.perf_counter(), time.process_time()
            take_step(form, optimizer, x, target, amp)
            if i == 0:
                first[name] = time.perf_counter() - wall
            else:
                times[name].append(time.process_time() - cpu)
    return {name: (first[name], statistics.median(taken)) for name, taken in times.items()}


def shares(preset: str, batch: int, side: int, threads: int, rounds: int) -> dict[str, tuple[float, float]]:
    """CPU milliseconds of this thread in each operator, and calls, of a step."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: dict[str, list[float]] = {}

    class Clock(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            begun = time.thread_time()
            result = func(*args, **(kwargs or {}))
            found.setdefault(func.name(), []).append(time.thread_time() - begun)
            return result

    arguments = prepare(preset, batch, side, threads)
    take_step(*arguments)
    with Clock():
        for _ in range(rounds):
            take_step(*arguments)
    rows = {name: (sum(taken) / rounds * 1e3, len(taken) / rounds) for name, taken in found.items()}
    return dict(sorted(rows.items(), key=lambda row: -row[1][0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--against', type=Path, help='a checkout of this repository with its kernels built in place')
    parser.add_argument('--preset', default='light')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--side', type=int, default=64, help='of the input, pixels')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=3, help='in a round')
    parser.add_argument('--forms', action='store_true', help='float32, bf16, fp16 and compiled, of this checkout')
    parser.add_argument('--shares', action='store_true', help='time by operator')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    numbers = {name: getattr(args, name) for name in ('batch', 'side', 'threads', 'rounds', 'steps')}
    for name, number in numbers.items():  # not by .arguments: this file runs by itself in other checkouts
        if number < 1:
            parser.error(f'argument --{name}: {number} is no whole number from 1')
    if args.worker:
        work(args.preset, args.batch, args.side, args.threads, args.worker)
        return
    if args.forms:
        rows = compare_forms(args.preset, args.batch, args.side, args.threads, args.rounds)
        print('| form | first step, s | CPU ms a step | of float32 |\n| --- | ---: | ---: | ---: |')
        for name, (first, taken) in rows.items():
            print(f'| {name} | {first:.1f} | {taken * 1e3:.0f} | {taken / rows["float32"][1]:.2f} |')
        return
    if args.shares:
        operators = shares(args.preset, args.batch, args.side, args.threads, args.rounds)
        total = sum(taken for taken, _ in operators.values())
        print(f'{total:.0f} CPU ms a step in operators')
        print('| operator | ms | share | calls |\n| --- | ---: | ---: | ---: |')
        for name, (taken, calls) in list(operators.items())[:SHOWN]:
            print(f'| `{name}` | {taken:.1f} | {taken / total:.1%} | {calls:.0f} |')
        return
    if not args.against:
        parser.error('--against CHECKOUT is needed')
    names = ('preset', 'batch', 'side', 'threads')
    arguments = [part for name in names for part in (f'--{name}', str(getattr(args, name)))]
    row = compare(args.against, arguments, args.rounds, args.steps)
    print(f'{args.preset}, {args.batch} x {args.side} x {args.side}, {args.threads} thread(s), {args.rounds} rounds')
    for clock in ('wall', 'cpu'):
        new, old, ratio = (row[f'{clock}_{what}'] for what in ('new_ms', 'old_ms', 'ratio'))
        print(f'{clock:4}: {new:.0f} ms a step against {old:.0f}, ratio {ratio:.3f}')
    print(f'gradients before the first step differ by at most {row["gradients_differ_by"]:.1e}')


if __name__ == '__main__':
    main()
