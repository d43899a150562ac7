"""Train as `python -m vmambair_arch.train` does, with faults put in: what tests do to a run.

Options before those of the launcher:
    --fault KIND@N: at iteration N of the data. KIND is `nan` (a NaN in the input), `die` (an error), `kill` (SIGKILL),
        `full` (no file may grow any more), `sigterm`, `sigint`, `end` (the data ends before it).
    --fault-rank R: only on this rank.
    --fault-for M: for M iterations.
    --choices A,B: every kernel is tried, as on a GPU, and rank r finds the r-th of these right alone: `kernel` or
        `torch`. What each rank used in the end, and why, is written to kernels-RANK.json.
    --record FILE: append what is logged, in full precision, as lines of JSON.
    --slow S: seconds of sleep in every iteration.
    --slow-save S: seconds of sleep whenever a file is forced to the disk, so that a kill may well come then.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import vmambair_arch  # noqa: F401 fixes and registers
from vmambair_arch.plugin import launch

SIGNALS = {'kill': signal.SIGKILL, 'sigterm': signal.SIGTERM, 'sigint': signal.SIGINT}


def put_in(fault: str, rank: int, length: int, slow: float) -> None:
    from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset

    kind, _, start = fault.partition('@')
    start = int(start or -1)
    original = PairedProgressiveDataset.__getitems__

    def getitems(self: Any, indices: list[int]) -> list[dict]:
        samples = original(self, indices)
        iteration = indices[0] // self.items_per_iteration + 1
        time.sleep(slow)
        if start <= iteration < start + length and rank in (-1, int(os.environ.get('RANK', 0))):
            if kind == 'nan':
                samples[-1]['lq'][0, 0, 0] = float('nan')
            elif kind == 'die':
                raise RuntimeError('the test lets this rank die')
            elif kind == 'full':
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
            elif kind in SIGNALS:
                os.kill(os.getpid(), SIGNALS[kind])
        return samples

    PairedProgressiveDataset.__getitems__ = getitems
    if kind == 'end':
        PairedProgressiveDataset.__len__ = lambda self: start - 1


def slow_down_saves(seconds: float) -> None:
    original = os.fsync

    def fsync(descriptor: int) -> None:
        original(descriptor)
        time.sleep(seconds)

    os.fsync = fsync


def record(file: str) -> None:
    import basicsr.train

    original = basicsr.train.MessageLogger.__call__

    def write(self: Any, log_vars: dict[str, Any]) -> None:
        if int(os.environ.get('RANK', 0)) == 0:
            with Path(file).open('a') as lines:
                lines.write(json.dumps(log_vars) + '\n')
        original(self, log_vars)

    basicsr.train.MessageLogger.__call__ = write


KERNELS = {'scan': 'c', 'depthwise': 'triton'}
"""Of what there are several ways to compute on the CPU, or as if there were; the others are by torch."""


def let_ranks_choose(choices: list[str]) -> None:
    from vmambair_arch.models import scan_choice
    from vmambair_arch.ops import depthwise, selective_scan, self_check

    mine = choices[int(os.environ['RANK'])]

    def check(device: Any, dtype: Any, candidates: Any, fresh: bool) -> tuple[self_check.Verdict, ...]:
        right = KERNELS[candidates[0].subject] if mine == 'kernel' else 'torch'
        names = [candidate.name for candidate in candidates]
        assert right in names, names
        return tuple(self_check.Verdict(name, 'right' if name == right else 'not checked') for name in names)

    def unavailable(backend: selective_scan.Backend, device: Any, dtype: Any) -> str | None:
        return None if backend.module == 'triton_depthwise' else original(backend, device, dtype)

    original = selective_scan.Backend.unavailable
    selective_scan.Backend.unavailable = unavailable
    self_check.check = check
    selective_scan.TRIED_ON = depthwise.DEVICES = ('cuda', 'cpu')
    scan_choice.CONVOLUTIONS = dataclasses.replace(scan_choice.CONVOLUTIONS, devices=('cuda', 'cpu'))


def write_kernels() -> None:
    import torch

    from vmambair_arch.ops import choose, choose_depthwise

    used = {}
    for name, choice_of in (('scan', choose), ('depthwise', choose_depthwise)):
        choice = choice_of(torch.device('cpu'), torch.float32)
        used[name] = [choice.backend.name, choice.why]
    Path(f'kernels-{os.environ["RANK"]}.json').write_text(json.dumps(used))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--fault', default='')
    parser.add_argument('--fault-rank', type=int, default=-1)
    parser.add_argument('--fault-for', type=int, default=1)
    parser.add_argument('--slow', type=float, default=0)
    parser.add_argument('--slow-save', type=float, default=0)
    parser.add_argument('--choices', default='')
    parser.add_argument('--record', default='losses.jsonl')
    own, rest = parser.parse_known_args()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    put_in(own.fault, own.fault_rank, own.fault_for, own.slow)
    slow_down_saves(own.slow_save)
    record(own.record)
    if own.choices:
        let_ranks_choose(own.choices.split(','))
    try:
        code = launch.main(launch.train, rest)
    finally:
        if own.choices:
            write_kernels()
    sys.exit(code)
