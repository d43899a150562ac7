"""Everything to be known of a GPU, in minutes: python -m benchmarks.gpu --minutes 8

Is it right: versions, the self-check with and without a C compiler, the tests of the kernels, networks against the CPU,
a scan above 2^31 elements, a training that is killed and goes on. How fast is it: the scan by backend and by cut, one
OSS block against the steps of the authors' release around mamba-ssm's kernel (to reach: 2 times as fast at half the
memory), the real-world SR network in bfloat16 beside RRDBNet (1.5 times the images a second), launches and CUDA graphs,
depthwise convolutions, large pictures, and the hours of the paper's deraining schedule on this GPU alone (48).

The trials run in a process of their own, in turn, and each result is written the moment it is there. One that raises is
written with its error; one that crashes or hangs takes that process with it, is written too, and the next one begins in
a new process. `--dry` runs all of it on the CPU at tiny sizes: the figures mean nothing, but that it runs.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_trials import TRIALS, Machine
from vmambair_arch.files import replacing
from vmambair_arch.ops.faults import is_lost

from .arguments import duration, positive

RESULTS = Path(__file__).parent / 'results' / 'gpu.json'
Trial = Callable[[Machine], dict[str, Any]]

SHARE = 1 / 3
"""Of the minutes, that one trial may take: the longest, which compiles every kernel first, takes less."""
LEAST_S = 20.0
"""Seconds that a trial has at least, also if it begins right before the minutes are over."""
START_S, GRACE_S = 120.0, 5.0
"""Seconds for a process to begin its first trial, and for a trial that is to end to do so by itself."""


def write(path: Path, results: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=2, default=str) + '\n', encoding='utf-8')


def read(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    return results


def add(path: Path, name: str, result: dict[str, Any]) -> None:
    """Write one result, and show it."""
    write(path, {**read(path), name: result})
    print(f'{name}: {json.dumps(result, default=str)}', flush=True)


def run(machine: Machine, trials: dict[str, Trial], path: Path, keep: bool = False) -> dict[str, Any]:
    """Trials in turn, in a process that is started anew behind one that crashes or hangs.

    Args:
        trials: by name; functions of modules, for another process imports them.
        path: the results, written one by one.
        keep: add to the results that are in `path`.
    """
    if not (keep and path.is_file()):
        write(path, {'dry': machine.dry})
    limit_s = SHARE * machine.seconds_left
    waiting = trials
    while waiting:
        waiting = _in_a_process(machine, waiting, path, limit_s)
    return read(path)


def _in_a_process(machine: Machine, trials: dict[str, Trial], path: Path, limit_s: float) -> dict[str, Trial]:
    """Run trials in one process until all are done or one crashes or hangs, and write down what did not end well.

    Returns:
        The trials that are left for another process.
    """
    now, wait_s, is_done, fault = next(iter(trials)), START_S, False, ''
    context = multiprocessing.get_context('spawn')  # a fork would not get at the GPU
    said, answers = context.Pipe(duplex=False)
    child = context.Process(target=serve, args=(machine, trials, path, limit_s, answers))
    try:
        child.start()
        answers.close()
        while not fault:
            if said.poll(wait_s + GRACE_S):
                now, wait_s, is_done = said.recv()
            else:
                fault = f'ran past {wait_s:.0f} s'
    except EOFError:  # it has ended
        child.join(GRACE_S)
        if not is_done:
            fault = _how(child.exitcode)
    except KeyboardInterrupt:
        child.join(GRACE_S)  # a terminal interrupts both
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGINT)
            child.join(GRACE_S)
        raise
    finally:
        if child.is_alive():
            child.kill()
            child.join()
        said.close()
    if fault:
        add(path, now, {'error': fault})
    names = list(trials)
    return {name: trials[name] for name in names[names.index(now) + 1 :]}


def _how(exit_code: int | None) -> str:
    """A process ended, in words."""
    return f'crashed (signal {-exit_code})' if exit_code and exit_code < 0 else f'ended with exit code {exit_code}'


def serve(machine: Machine, trials: dict[str, Trial], path: Path, limit_s: float, answers: Connection) -> None:
    """What the process does: says which trial begins, how long it may take and when its result is written."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    faulthandler.enable()
    # torch would run the release's 1x1 convolutions in TF32, and the matrix products that they are here in float32.
    torch.backends.cudnn.allow_tf32 = False
    if machine.dry:
        torch.set_num_threads(1)  # what is tiny gains nothing by more, and waits for them where others compute
    try:
        for name, trial in trials.items():
            left = machine.seconds_left
            mine = min(limit_s, max(left, LEAST_S))
            answers.send((name, mine, False))
            result = _try(replace(machine, deadline=time.monotonic() + mine), trial) if left > 0 else SKIPPED
            add(path, name, result)
            answers.send((name, GRACE_S, True))
            if is_lost(result.get('error', '')):
                break  # the device is of no use to this process any more
    except KeyboardInterrupt:  # the parent has it too, and says so
        pass
    answers.close()
    os._exit(0)  # nothing of the device is to be taken down in order, which can hang as well


SKIPPED = {'skipped': 'no time was left'}


def _try(machine: Machine, trial: Trial) -> dict[str, Any]:
    """The result of a trial, or what it raised, with the seconds that it took."""
    start = time.perf_counter()
    faulthandler.dump_traceback_later(machine.seconds_left + GRACE_S / 2)  # where it hangs, before it is ended
    try:
        result = trial(machine)
    except Exception as error:  # the others are worth having all the same
        result = {'error': f'{type(error).__name__}: {error}'}
    finally:
        faulthandler.cancel_dump_traceback_later()
    return result | {'trial_seconds': round(time.perf_counter() - start, 1)}


def _end_with_parent() -> None:
    """A trial that has processes of its own ends them when it is interrupted."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_S)
        os._exit(1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--minutes', type=duration, default=8, help='for all; one trial may take a third of them')
    parser.add_argument('--rounds', type=positive, default=20, help='repetitions of what is timed')
    parser.add_argument('--dry', action='store_true', help='on the CPU, at tiny sizes: does it run at all')
    names = list(TRIALS)
    parser.add_argument('--only', nargs='+', choices=names, default=names, metavar='TRIAL', help=', '.join(names))
    parser.add_argument('--out', type=Path, help='default: benchmarks/results/gpu.json; with --dry, nothing')
    parser.add_argument('--keep', action='store_true', help='add to the results that are there')
    args = parser.parse_args(argv)
    if not args.dry and not torch.cuda.is_available():
        print('benchmarks.gpu: torch sees no CUDA or ROCm GPU here; run it on a machine that has one', file=sys.stderr)
        return 2
    device = torch.device('cpu') if args.dry else torch.device('cuda', 0)
    machine = Machine(device, args.dry, 1 if args.dry else args.rounds, time.monotonic() + 60 * args.minutes)
    trials = {name: TRIALS[name] for name in args.only}
    with tempfile.TemporaryDirectory() as folder:
        path = args.out or (Path(folder) / 'gpu.json' if args.dry else RESULTS)
        try:
            results = run(machine, trials, path.resolve(), args.keep)
        except KeyboardInterrupt:
            print(f'benchmarks.gpu: interrupted; what was found is in {path}', file=sys.stderr)
            return 130
    failed = [name for name in args.only if 'error' in results.get(name, {'error': ''})]
    if failed:
        print(f'failed: {", ".join(failed)}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
