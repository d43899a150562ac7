"""The command `vmambair restore` from its start to its end: one photograph, and a folder of small ones by cores.

    python -m benchmarks.folder --photographs 1 --size 720x480
    python -m benchmarks.folder --photographs 100 --size 160x120

Every run is the whole command in a process of its own, held to the first core or cores of the machine. The runs take
turns; medians. Beside the seconds on the clock stand those of the processors, which other work on the machine disturbs
least, and page faults. `system` leaves memory as the system's allocator has it, as in a program of one's own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from vmambair_arch.errors import guard

from .arguments import positive

SYSTEM = {'MALLOC_ARENA_TEST': '8'}
"""Of no effect by itself; a user who sets up the allocator is left alone."""
Measured = tuple[float, float, float, float]
"""Seconds on the clock, in the program, in the system; thousands of page faults."""


def write_photographs(folder: Path, count: int, width: int, height: int) -> None:
    """JPEGs of smooth noise: their time does not depend on what they show."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{number:03}.jpg'), image)


def run(folder: Path, cores: set[int], task: str, env: dict[str, str]) -> Measured:
    """Restore the folder on those cores alone."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, '-m', 'vmambair_arch', 'restore', str(folder), '-o', output, '--task', task]
        command += ['--device', 'cpu']
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            command, check=True, capture_output=True, env=os.environ | env,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        elapsed,
        after.ru_utime - before.ru_utime,
        after.ru_stime - before.ru_stime,
        (after.ru_minflt - before.ru_minflt) / 1e3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--photographs', type=positive, default=100)
    parser.add_argument('--size', default='160x120', metavar='WxH')
    parser.add_argument('--cores', type=positive, nargs='+', default=[1, 2])
    parser.add_argument('--memory', nargs='+', choices=('kept', 'system'), default=['kept', 'system'])
    parser.add_argument('--task', default='derain')
    parser.add_argument('--rounds', type=positive, default=3)
    args = parser.parse_args()
    width, height = map(int, args.size.split('x'))
    all_cores = sorted(os.sched_getaffinity(0))
    kinds = [(memory, cores) for memory in args.memory for cores in args.cores if cores <= len(all_cores)]
    measured: dict[tuple[str, int], list[Measured]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, args.photographs, width, height)
        for _ in range(args.rounds):
            for memory, cores in kinds:
                env = SYSTEM if memory == 'system' else {}
                measured[memory, cores].append(run(folder, set(all_cores[:cores]), args.task, env))
    print(f'{args.photographs} x {args.size}, {args.task}; medians of {args.rounds}')
    for (memory, cores), runs in measured.items():
        clock, program, system, faults = map(statistics.median, zip(*runs, strict=True))
        first = statistics.median(seconds for seconds, *_ in measured[memory, kinds[0][1]])
        print(
            f'{memory:>6}, {cores} cores: {clock:.2f} s ({first / clock:.2f} x {kinds[0][1]} core), '
            f'CPU {program:.2f} s in the program, {system:.2f} in the system, {faults:.0f} k page faults'
        )


if __name__ == '__main__':
    sys.exit(guard(main))
