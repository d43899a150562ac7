"""Everything to be known of a GPU, in minutes: python -m benchmarks.gpu --minutes 8

Is it right: versions, the self-check with and without a C compiler, the tests of the kernels, networks against the CPU,
a scan above 2^31 elements, a training that is killed and goes on. How fast is it: the scan by backend and by cut, one
OSS block against the steps of the authors' release around mamba-ssm's kernel (to reach: 2 times as fast at half the
memory), the real-world SR network in bfloat16 beside RRDBNet (1.5 times the images a second), launches and CUDA graphs,
depthwise convolutions, large pictures, and the hours of the paper's deraining schedule on this GPU alone (48).

Every result is written the moment it is there; a trial that fails is written with its error, and the next one begins.
`--dry` runs all of it on the CPU at tiny sizes: the figures mean nothing, but that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_trials import TRIALS, Machine
from vmambair_arch.files import replacing
from vmambair_arch.ops.faults import is_lost

RESULTS = Path(__file__).parent / 'results' / 'gpu.json'


def write(path: Path | None, results: dict[str, Any]) -> None:
    if path:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(results, indent=2, default=str) + '\n', encoding='utf-8')


def run(machine: Machine, names: list[str], path: Path | None, keep: bool = False) -> dict[str, Any]:
    """The trials of these names, in turn; each result goes to `path` at once.

    Args:
        keep: add to the results that are in `path`.
    """
    results: dict[str, Any] = {'dry': machine.dry}
    if keep and path and path.is_file():
        results = json.loads(path.read_text(encoding='utf-8'))
    for i, name in enumerate(names):
        if machine.seconds_left <= 0:
            results[name] = {'skipped': 'no time was left'}
        else:
            start = time.perf_counter()
            try:
                results[name] = TRIALS[name](machine)
            except Exception as error:  # the others are worth having all the same
                results[name] = {'error': f'{type(error).__name__}: {error}'}
                if is_lost(error) and path and names[i + 1 :]:
                    write(path, results)
                    return _go_on(machine, names[i + 1 :], path)
            results[name]['trial_seconds'] = round(time.perf_counter() - start, 1)
        write(path, results)
        print(f'{name}: {json.dumps(results[name], default=str)}', flush=True)
    return results


def _go_on(machine: Machine, names: list[str], path: Path) -> dict[str, Any]:
    """The other trials in a new process: this one has lost the device for good."""
    command = [sys.executable, '-m', 'benchmarks.gpu', '--keep', '--out', str(path.resolve()), '--only', *names]
    command += ['--minutes', str(machine.seconds_left / 60), '--rounds', str(machine.rounds), *['--dry'] * machine.dry]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    return json.loads(path.read_text(encoding='utf-8'))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=8, help='no trial begins later than that')
    parser.add_argument('--rounds', type=int, default=20, help='repetitions of what is timed')
    parser.add_argument('--dry', action='store_true', help='on the CPU, at tiny sizes: does it run at all')
    names = list(TRIALS)
    parser.add_argument('--only', nargs='+', choices=names, default=names, metavar='TRIAL', help=', '.join(names))
    parser.add_argument('--out', type=Path, help=f'default: {RESULTS}; with --dry, nothing')
    parser.add_argument('--keep', action='store_true', help='add to the results that are there')
    args = parser.parse_args(argv)
    if not args.dry and not torch.cuda.is_available():
        print('benchmarks.gpu: torch sees no CUDA or ROCm GPU here; run it on a machine that has one', file=sys.stderr)
        return 2
    # torch would run the release's 1x1 convolutions in TF32, and the matrix products that they are here in float32.
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device('cpu') if args.dry else torch.device('cuda', torch.cuda.current_device())
    machine = Machine(device, args.dry, 1 if args.dry else args.rounds, time.monotonic() + 60 * args.minutes)
    results = run(machine, args.only, args.out or (None if args.dry else RESULTS), args.keep)
    failed = [name for name in args.only if 'error' in results.get(name, {'error': ''})]
    if failed:
        print(f'failed: {", ".join(failed)}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
