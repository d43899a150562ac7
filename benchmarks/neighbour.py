"""What a busy neighbour costs: the scan and a network on all cores, alone and beside a process that takes one of them.

    python -m benchmarks.neighbour
    python -m benchmarks.neighbour --spinning

Threads sleep when they have waited a little for each other, as in our commands, or as `GOMP_SPINCOUNT` and
`OMP_WAIT_POLICY` say; with `--spinning` they do what torch does by itself in a program of one's own.

A neighbour that takes half of one core of two leaves three quarters of the machine; twice the time is lost where
every step waits for the slower core. Rounds alternate; medians. On a machine with other work the two columns come
closer to each other than they are.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmambair_arch.errors import guard
from vmambair_arch.host import let_threads_sleep

from .arguments import duration, positive

BUSY = 'while True: pass'


@contextmanager
def neighbour(there: bool) -> Iterator[None]:
    """A process that never waits, for as long as the block lasts."""
    process = subprocess.Popen([sys.executable, '-c', BUSY]) if there else None
    try:
        time.sleep(0.2)
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def milliseconds(run: Callable[[], object], seconds: float) -> float:
    """Of one call, over as many as fit."""
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        run()
        count += 1
    return elapsed / count * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--threads', type=positive, default=os.cpu_count())
    parser.add_argument('--rounds', type=positive, default=5)
    parser.add_argument('--seconds', type=duration, default=1.0, help='of a measurement')
    parser.add_argument('--spinning', action='store_true', help='leave threads as torch has them')
    args = parser.parse_args()
    if not args.spinning:
        let_threads_sleep()  # before torch is imported

    import torch

    from benchmarks.scan import inputs
    from vmambair_arch.archs import VmambaIR
    from vmambair_arch.ops import omni_scan

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network, image, tensors = VmambaIR.from_preset('light').eval(), torch.rand(1, 3, 128, 128), inputs(1, 64, 64, 48)
    runs = {'scan 64x64x48': lambda: omni_scan(tensors), 'light 128x128': lambda: network(image)}
    with torch.inference_mode():
        for name, run in runs.items():
            run()
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(args.rounds):
                for busy in times:
                    with neighbour(busy):
                        times[busy].append(milliseconds(run, args.seconds))
            alone, beside = (statistics.median(times[busy]) for busy in (False, True))
            print(f'{name}, {args.threads} threads: {alone:.2f} ms alone, {beside:.2f} beside, {beside / alone:.2f} x')


if __name__ == '__main__':
    sys.exit(guard(main))
