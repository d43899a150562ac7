"""Try the kernels of a GPU before they are relied upon: that one can be imported does not say that it works.

A process of its own runs every backend of the scan on a plane, a sequence of channels and an odd shape, and every way
to convolve likewise: output and all gradients against torch in float64 on the CPU, the same bits twice, and the time
of forward and backward. A backend that crashes or hangs takes that process with it, not ours: another one goes on
behind it. What was found is kept in the cache folder for this GPU, these versions, this dtype and this code, so that it
is done once; one process of a machine does it, the others wait for its result. Where no process can be started, the
backends are tried in ours, as unprotected as any use.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from . import faults
from .reference import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs
from .torch_depthwise import GELU_GATE, SILU

logger = logging.getLogger('vmambair_arch')

START_S, TRY_S, LOCK_S = 300.0, 300.0, 1200.0
"""Seconds for a process to import torch and find the device, for one backend to compile and run, and to wait for
another process that does the same."""
ROUNDS = 5
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    'plane': ((2, 17, 19, 40, 16, 3), PLANE_DIRECTIONS),
    'channels': ((3, 1, 96, 4, 16, 6), SEQUENCE_DIRECTIONS),
    'odd shape': ((1, 13, 7, 5, 3, 2), (3, 0, 1)),
}
"""(b, h, w, d, N, R) and directions of what is compared."""
TIMED = ((2, 64, 64, 48, 16, 3), PLANE_DIRECTIONS)
"""What is timed on a GPU; on a CPU, where tests run, it is the first of `CASES`."""
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], int]] = {
    'silu': ((2, 17, 19, 48), SILU),
    'gate': ((2, 9, 21, 64), GELU_GATE),
    'odd shape': ((1, 5, 3, 14), GELU_GATE),
}
"""(b, h, w, c) and activation, likewise."""
TIMED_CONVOLUTION = ((2, 64, 64, 256), GELU_GATE)
GRADIENT_TOLERANCE, OUTPUT_TOLERANCE = 1e-3, 1e-4
"""Largest deviation from float64 over the largest value, in float32; in half precision it is two roundings. Wide enough
for the fast exponentials of any GPU: what is wrong is wrong by more, and a right kernel must not be refused."""


@dataclass(frozen=True)
class Candidate:
    """A backend as the process that tries it needs to know it.

    Attributes:
        name: of the backend.
        module: dotted name of the module with its `omni_scan` or `depthwise`, relative ones in this package.
        repeatable: whether it promises the same bits in every run; atomic additions cannot.
        subject: what it computes, a name of `SUBJECTS`.
    """

    name: str
    module: str
    repeatable: bool = True
    subject: str = 'scan'


@dataclass(frozen=True)
class Verdict:
    """What came of one backend.

    Attributes:
        outcome: 'right', 'wrong', 'fails' (raises), 'crashes', 'hangs', or 'not checked' (memory ran out, or the device
            did not answer): the last says nothing about the backend.
        reason: of all but 'right', on one line.
        forward_ms, backward_ms: median times of `TIMED`; 0 where it is not right.
        repeatable: two runs gave the same bits.
    """

    name: str
    outcome: str
    reason: str = ''
    forward_ms: float = 0.0
    backward_ms: float = 0.0
    repeatable: bool = True

    @property
    def right(self) -> bool:
        return self.outcome == 'right'

    @property
    def total_ms(self) -> float:
        return self.forward_ms + self.backward_ms


# --- one backend in this process -------------------------------------------------------------------------------------


def _random_inputs(shape: tuple[int, ...], directions: Sequence[int]) -> ScanInputs:
    """float64 on the CPU, steps and decays as in a trained network; no one else's random numbers are drawn."""
    b, h, w, d, N, R = shape
    K, rng = len(directions), torch.Generator().manual_seed(h * w + d)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    step = torch.rand(K, d, generator=rng, dtype=torch.float64).mul(4.6).sub(6.9).exp()  # 0.001 to 0.1
    decay = -torch.arange(1.0, N + 1, dtype=torch.float64) * (
        0.8 + 0.4 * torch.rand(K, d, N, generator=rng, dtype=torch.float64)
    )
    return ScanInputs(
        normal(b, h, w, d), normal(b, h, w, K * (R + 2 * N)), normal(K, d, R) * 0.3 * R**-0.5, step.expm1().log(),
        decay, normal(K, d),
    )  # fmt: skip


def _random_scan(shape: tuple[int, ...], directions: tuple[int, ...]) -> _Case:
    return _Case(tuple(_random_inputs(shape, directions)), (directions,), directions != SEQUENCE_DIRECTIONS)


def _random_convolution(shape: tuple[int, ...], activation: int) -> _Case:
    """(b, h, w, c): x, weight and bias in float64 on the CPU."""
    rng = torch.Generator().manual_seed(sum(shape))
    c = shape[-1]
    x, weight, bias = (torch.randn(size, generator=rng, dtype=torch.float64) for size in (shape, (c, 1, 3, 3), (c,)))
    return _Case((x, weight / 2, bias), (activation,))


class _Case(NamedTuple):
    """One call: the tensors that have gradients, and the arguments after them."""

    tensors: tuple[Tensor, ...]
    extra: tuple[Any, ...]
    widened: bool = False
    """Whether the first tensor is float32 where float16 is tried, as the networks have it."""

    def results(self, compute: Callable[..., Tensor]) -> list[Tensor]:
        """The output and the gradients of all tensors for one gradient of it."""
        y = compute(self.tensors, *self.extra)
        grad = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(y.device, y.dtype)
        return [y.detach(), *torch.autograd.grad(y, list(self.tensors), grad)]


@dataclass(frozen=True)
class _Subject:
    """Something that candidates compute.

    Attributes:
        title: in messages.
        names: of the tensors with gradients.
        narrow: how many of them, from the first on (or the second, see `_Case`), are of the dtype that is tried; the
            others are float32, as autocast has them.
        reference: module that is right in float64.
        cases: what is compared, by name.
        timed: what is timed on a GPU; on a CPU, where tests run, it is the first of `cases`.
        compute: (module) -> function of a case's tensors and its further arguments.
    """

    title: str
    names: tuple[str, ...]
    narrow: int
    reference: str
    cases: Callable[[], dict[str, _Case]]
    timed: Callable[[], _Case]
    compute: Callable[[ModuleType], Callable[..., Tensor]]


def _scan_of(module: ModuleType) -> Callable[..., Tensor]:
    return lambda tensors, directions: module.omni_scan(ScanInputs(*tensors), directions)


def _convolution_of(module: ModuleType) -> Callable[..., Tensor]:
    def compute(tensors: Sequence[Tensor], activation: int) -> Tensor:
        x = tensors[0]
        half = x.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(x.device.type, x.dtype if half else torch.bfloat16, enabled=half):
            return module.depthwise(*tensors, activation)

    return compute


SUBJECTS = {
    'scan': _Subject(
        'selective scan', ScanInputs._fields, 2, '.torch_scan',
        lambda: {name: _random_scan(*case) for name, case in CASES.items()},
        lambda: _random_scan(*TIMED), _scan_of,
    ),
    'depthwise': _Subject(
        'depthwise convolutions', ('x', 'weight', 'bias'), 1, '.torch_depthwise',
        lambda: {name: _random_convolution(*case) for name, case in CONVOLUTIONS.items()},
        lambda: _random_convolution(*TIMED_CONVOLUTION), _convolution_of,
    ),
}  # fmt: skip


class _Examiner:
    """Tries candidates for one subject on one device in one dtype.

    Raises:
        RuntimeError: the device cannot be used at all.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, subject: str = 'scan') -> None:
        self.device, self.dtype, self.subject = device, dtype, SUBJECTS[subject]
        self.cases: dict[str, tuple[_Case, list[Tensor]]] = {}
        right = self.subject.compute(importlib.import_module(self.subject.reference, __package__))
        for name, case in self.subject.cases().items():
            case = self._moved(case)
            exact = _Case(tuple(t.detach().cpu().double().requires_grad_() for t in case.tensors), case.extra)
            self.cases[name] = case, exact.results(right)

    def _moved(self, case: _Case) -> _Case:
        """On the device, in the dtype."""
        wide = torch.promote_types(self.dtype, torch.float32)
        first = int(case.widened and self.dtype == torch.float16)
        moved = (
            t.to(self.device, self.dtype if first <= i < self.subject.narrow else wide)
            for i, t in enumerate(case.tensors)
        )
        return _Case(tuple(t.requires_grad_() for t in moved), case.extra)

    def examine(self, candidate: Candidate) -> Verdict:
        try:
            compute = self.subject.compute(importlib.import_module(candidate.module, __package__))
            fault, repeatable = self._compare(compute)
            if fault or (candidate.repeatable and not repeatable):
                return Verdict(candidate.name, 'wrong', fault or 'two runs differ', repeatable=repeatable)
            forward, both = self._time(compute)
        except Exception as error:
            if faults.is_out_of_memory(error):
                return Verdict(candidate.name, 'not checked', faults.one_line(error))
            return Verdict(candidate.name, 'fails', _long_reason(error))
        return Verdict(candidate.name, 'right', '', forward, max(both - forward, 0.0), repeatable)

    def _compare(self, compute: Callable[..., Tensor]) -> tuple[str, bool]:
        """What is wrong, empty where nothing is; and whether two runs gave the same bits."""
        rounding = torch.finfo(self.dtype).eps
        names, repeatable = ('y', *(f'gradient of {name}' for name in self.subject.names)), True
        for case_name, (case, wanted) in self.cases.items():
            got, again = (case.results(compute) for _ in range(2))
            for name, one, other, exact in zip(names, got, again, wanted, strict=True):
                if one.shape != exact.shape:
                    return f'{case_name}: {name} is of shape {tuple(one.shape)}, not {tuple(exact.shape)}', repeatable
                repeatable &= torch.equal(one, other)
                off = ((one.cpu().double() - exact).abs().max() / exact.abs().max()).item()
                allowed = max(2 * rounding, OUTPUT_TOLERANCE if name == 'y' else GRADIENT_TOLERANCE)
                if not off <= allowed:  # nan is wrong too
                    return f'{case_name}: {name} is off by {off:.1e} of its range, allowed {allowed:.0e}', repeatable
        return '', repeatable

    def _time(self, compute: Callable[..., Tensor]) -> tuple[float, float]:
        """Median milliseconds of the forward pass and of both passes."""
        on_gpu = self.device.type == 'cuda'
        case = self._moved(self.subject.timed() if on_gpu else next(iter(self.subject.cases().values())))

        def forward() -> None:
            with torch.no_grad():
                compute(case.tensors, *case.extra)

        def both() -> None:
            compute(case.tensors, *case.extra).sum().backward()

        return self._median_ms(forward), self._median_ms(both)

    def _median_ms(self, run: Callable[[], None]) -> float:
        times = []
        for i in range(-1, ROUNDS):
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            if i >= 0:
                times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def _long_reason(error: BaseException) -> str:
    """A compiler's complaint may be in the exception that led to this one."""
    said, cause = faults.one_line(error), error.__cause__ or error.__context__
    if cause is not None and faults.fix(said) is None and faults.fix(cause):
        said += f' ({faults.one_line(cause)})'
    return said


# --- in a process of its own -----------------------------------------------------------------------------------------


def serve() -> None:
    """What the process does: takes its task from stdin, answers in lines of JSON, and ends with its parent."""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # whatever a library prints is not an answer

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + '\n')
        answers.flush()

    task = json.loads(sys.stdin.readline())
    # What the environment may turn on is not the backends' fault.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Where the process is not ended by its parent, for that is gone, and hangs in code that lets no Python run.
    faulthandler.dump_traceback_later(task['limit_s'], exit=True)
    try:
        subject = task['candidates'][0]['subject']
        examiner = _Examiner(torch.device(task['device']), getattr(torch, task['dtype']), subject)
    except Exception as error:
        answer(impossible=faults.one_line(error))
        return
    answer(ready=True)
    for candidate in task['candidates']:
        verdict = examiner.examine(Candidate(**candidate))
        answer(**asdict(verdict))
        if faults.is_lost(verdict.reason):
            return  # the next one gets a new process
    answers.close()
    os._exit(0)  # nothing of the device is to be taken down in order, which can hang as well


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


class _Process:
    """A process that tries candidates, and its answers; ended with the `with` block, whatever it does."""

    def __init__(self, device: torch.device, dtype: torch.dtype, candidates: Sequence[Candidate], limit_s: float):
        code = f'import sys; sys.path[:] = {sys.path!r}; from {__package__}.self_check import serve; serve()'
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 closed with the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                env={key: value for key, value in os.environ.items() if key != 'VMAMBAIR_SCAN'},
                start_new_session=True, text=True, encoding='utf-8',
            )  # fmt: skip
        except BaseException:
            self._said.close()
            raise
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        task = {
            'device': str(device), 'dtype': str(dtype).removeprefix('torch.'), 'limit_s': limit_s,
            'candidates': [asdict(candidate) for candidate in candidates],
        }  # fmt: skip
        with contextlib.suppress(OSError):  # it is gone already: that it says nothing is the answer
            self._stdin.write(json.dumps(task) + '\n')
            self._stdin.flush()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put('')  # it ended

    def answer(self, limit_s: float) -> dict[str, Any] | str:
        """The next answer, or 'hangs' or 'crashes'."""
        try:
            line = self._answers.get(timeout=limit_s)
        except queue.Empty:
            return 'hangs'
        return json.loads(line) if line else 'crashes'

    def last_words(self) -> str:
        """How it ended, and what it said last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        how = f'signal {signal.Signals(-code).name}' if code is not None and code < 0 else f'exit code {code}'
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 4000))
        lines = [line.strip() for line in self._said.read().decode(errors='replace').splitlines() if line.strip()]
        telling = next((line for line in reversed(lines) if 'rror' in line), lines[0] if lines else '')
        return faults.one_line(f'{how}: {telling}' if telling else how)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, 'killpg'):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers it started
            else:
                self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # one that a driver holds cannot be waited for
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._said.close()


def examine(
    device: torch.device,
    dtype: torch.dtype,
    candidates: Sequence[Candidate],
    *,
    start_s: float = START_S,
    try_s: float = TRY_S,
) -> tuple[Verdict, ...]:
    """Try candidates in processes of their own; one that ends or blocks its process costs the others nothing.

    Args:
        start_s: seconds for a process to begin.
        try_s: seconds for each candidate.

    Returns:
        A verdict for each candidate, in their order.
    """
    found: dict[str, Verdict] = {}
    left = list(candidates)
    while left:
        reason = _run_process(device, dtype, left, found, start_s, try_s)
        left = [candidate for candidate in left if candidate.name not in found]
        if not left or not reason:
            continue
        if any(verdict.outcome in ('crashes', 'hangs') for verdict in found.values()):
            reason = f'no process could use {device} after the one that ended ({reason})'
            found |= {candidate.name: Verdict(candidate.name, 'not checked', reason) for candidate in left}
        else:
            found |= {verdict.name: verdict for verdict in _examine_here(device, dtype, left)}
        break
    return tuple(found[candidate.name] for candidate in candidates)


def _run_process(
    device: torch.device,
    dtype: torch.dtype,
    candidates: Sequence[Candidate],
    found: dict[str, Verdict],
    start_s: float,
    try_s: float,
) -> str:
    """Fill `found` as far as one process goes; why it could not even begin, empty where it could."""
    if getattr(sys, 'frozen', False) or 'py' not in Path(sys.executable or '').name.lower():
        return 'this program has no Python to start'  # but itself
    limit_s = 2 * (start_s + try_s * len(candidates))
    try:
        process = _Process(device, dtype, candidates, limit_s)
    except (OSError, ValueError) as error:  # no Python to start, as in a frozen application
        return faults.one_line(error)
    with process:
        first = process.answer(start_s)
        if isinstance(first, str):
            if first == 'hangs':  # it would hang us as well
                reason = f'{device} did not answer in {start_s:g} s'
                found.update({c.name: Verdict(c.name, 'not checked', reason) for c in candidates})
                return reason
            return process.last_words()
        if 'impossible' in first:
            return str(first['impossible'])
        for candidate in candidates:
            answer = process.answer(try_s)
            if answer == 'crashes' and found and faults.is_lost(list(found.values())[-1].reason):
                break  # it ended itself
            if isinstance(answer, str):
                reason = f'no answer in {try_s:g} s' if answer == 'hangs' else process.last_words()
                found[candidate.name] = Verdict(candidate.name, answer, reason)
                break
            found[candidate.name] = Verdict(**answer)
    return ''


def _examine_here(device: torch.device, dtype: torch.dtype, candidates: Sequence[Candidate]) -> Iterator[Verdict]:
    """Try candidates in this process: where no other can be had, as on a GPU that takes one process only."""
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            examiner = _Examiner(device, dtype, candidates[0].subject)
            yield from (examiner.examine(candidate) for candidate in candidates)
    except Exception as error:
        yield from (Verdict(c.name, 'not checked', faults.one_line(error)) for c in candidates)


# --- remembered ------------------------------------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """Where verdicts are kept, `scans` in the folder of `files.cache_folder`; None where there is no home."""
    if folder := os.environ.get('VMAMBAIR_CACHE'):
        return Path(folder) / 'scans'
    try:
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'vmambair' / 'scans'
    except RuntimeError:
        return None


def surroundings(device: torch.device, dtype: torch.dtype, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Everything that a verdict may depend on: the GPU, versions, compiler, dtype and the code."""
    versions = {}
    for package in ('torch', 'triton', 'triton-windows', 'pytorch-triton', 'pytorch-triton-rocm', 'mamba-ssm'):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    about: dict[str, Any] = {
        'device': str(device), 'dtype': str(dtype), 'candidates': [asdict(candidate) for candidate in candidates],
        'versions': versions, 'python': platform.python_version(), 'machine': platform.machine(),
        'cuda': torch.version.cuda, 'hip': torch.version.hip, 'code': _code_hash(),
        # What Triton needs to make its launcher: once it is there, the verdict of before is forgotten.
        'compiler': shutil.which(os.environ.get('CC') or 'gcc') or shutil.which('clang'),
        'headers': Path(sysconfig.get_path('include'), 'Python.h').is_file(),
        'environment': {name: os.environ.get(name) for name in ('CC', 'TRITON_CACHE_DIR', 'TRITON_INTERPRET', 'HOME')},
    }  # fmt: skip
    if device.type == 'cuda':
        gpu = torch.cuda.get_device_properties(device)
        about['gpu'] = [gpu.name, gpu.major, gpu.minor, gpu.total_memory, str(getattr(gpu, 'uuid', ''))]
    else:
        about['gpu'] = platform.node()
    return about


def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob('*.py')):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check(
    device: torch.device, dtype: torch.dtype, candidates: Sequence[Candidate], *, fresh: bool = False
) -> tuple[Verdict, ...]:
    """The verdicts on candidates for `dtype` on `device`, tried now or remembered from an earlier time.

    Args:
        fresh: try again, whatever is remembered.
    """
    about = surroundings(device, dtype, candidates)
    folder = cache_folder()
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f'{key}.json' if folder else None
    if not fresh and (known := _remembered(path, candidates)):
        return known
    with _lock(path) as waited:
        if (waited or not fresh) and (known := _remembered(path, candidates)):
            return known
        logger.warning(
            '%s: trying what there is on %s in %s once for this machine; compiling takes a minute or so',
            SUBJECTS[candidates[0].subject].title, device, str(dtype).removeprefix('torch.'),
        )  # fmt: skip
        verdicts = examine(device, dtype, candidates)
        if path and all(verdict.outcome != 'not checked' for verdict in verdicts):
            _remember(path, {'verdicts': [asdict(verdict) for verdict in verdicts], 'of': about})
    return verdicts


def _remembered(path: Path | None, candidates: Sequence[Candidate]) -> tuple[Verdict, ...] | None:
    if path is None:
        return None
    try:
        verdicts = tuple(Verdict(**fields) for fields in json.loads(path.read_text(encoding='utf-8'))['verdicts'])
    except (OSError, ValueError, KeyError, TypeError):  # none, or not whole: it is made again
        return None
    return verdicts if [v.name for v in verdicts] == [c.name for c in candidates] else None


def _remember(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}.part')
    try:
        temporary.write_text(json.dumps(content, indent=1), encoding='utf-8')
        temporary.replace(path)
    except OSError:  # then it is known in this process only
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _lock(path: Path | None) -> Iterator[bool]:
    """Let one process of this machine check at a time; True where we had to wait for another one.

    A lock goes with its process, whatever ends it. Where there can be none, nobody waits.
    """
    try:
        import fcntl

        if path is None:
            raise OSError
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_suffix('.lock').open('w')
    except (ImportError, OSError):
        yield False
        return
    waited, deadline = False, time.monotonic() + LOCK_S
    with file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = True
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield waited
