"""The check of the scans before they are relied upon: what it makes of backends that raise, abort, hang and lie."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import scan_stand_ins  # noqa: F401 registers the stand-ins
import torch
from scan_cases import scan_inputs

from vmambair_arch import files
from vmambair_arch.ops import (
    ScanInputs,
    choose,
    fallback,
    faults,
    in_use,
    omni_scan,
    selective_scan,
    self_check,
    settle,
    using,
)
from vmambair_arch.ops.depthwise import forget_depthwise
from vmambair_arch.ops.selective_scan import Backend

CPU = torch.device('cpu')
FAULTS = {
    'good': 'right',
    'chatty': 'right',
    'raises': 'fails',
    'aborts': 'crashes',
    'exits': 'crashes',
    'hangs': 'hangs',
    'lies': 'wrong',
    'lies_on_odd_shapes': 'wrong',
    'nan': 'wrong',
    'wrong_gradient': 'wrong',
    'differs': 'wrong',
    'loses_the_device': 'fails',
    'out_of_memory': 'not checked',
}
"""Stand-ins, and what the check has to say of each."""


def candidates(*names: str, repeatable: bool = True) -> list[self_check.Candidate]:
    return [self_check.Candidate(name, f'scan_stand_ins.{name}', repeatable) for name in names]


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, and no choice from before."""
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('VMAMBAIR_SCAN', raising=False)
    selective_scan.forget()
    yield
    selective_scan.forget()


# --- trying ----------------------------------------------------------------------------------------------------------


def test_every_fault_has_its_outcome_and_costs_the_others_nothing():
    found = self_check.examine(CPU, torch.float32, candidates(*FAULTS), try_s=20)
    assert {verdict.name: verdict.outcome for verdict in found} == FAULTS
    why = {verdict.name: verdict.reason for verdict in found}
    assert 'Failed to find C compiler' in why['raises']
    assert 'SIGABRT' in why['aborts']
    assert 'exit code 7: RuntimeError: the runtime ended the process' in why['exits']
    assert why['hangs'] == 'no answer in 20 s'
    assert 'plane: y is off by' in why['lies']
    assert 'odd shape: y is off by' in why['lies_on_odd_shapes']
    assert 'plane: gradient of x is off by' in why['wrong_gradient']
    assert why['differs'] == 'two runs differ'
    for verdict in found:
        assert (verdict.forward_ms > 0) == (verdict.outcome == 'right')


def test_a_backend_that_promises_no_equal_bits_may_differ():
    (verdict,) = self_check.examine(CPU, torch.float32, candidates('differs', repeatable=False))
    assert verdict.right
    assert not verdict.repeatable


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_right_and_a_lie_in_it_is_found(dtype):
    examiner = self_check._Examiner(CPU, dtype)
    right, wrong = (examiner.examine(candidate) for candidate in candidates('good', 'wrong_gradient'))
    assert right.right
    assert dtype == torch.bfloat16 or wrong.outcome == 'wrong'  # one per cent is about a rounding of bfloat16


def test_the_check_draws_no_random_numbers_of_others():
    before = torch.get_rng_state()
    self_check._Examiner(CPU, torch.float32).examine(candidates('good')[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_where_no_process_can_be_started_backends_are_tried_in_this_one(monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    with torch.inference_mode():
        found = self_check.examine(CPU, torch.float32, candidates('good', 'lies', 'raises'))
    assert [verdict.outcome for verdict in found] == ['right', 'wrong', 'fails']


def test_a_program_that_is_no_python_is_not_started_again(monkeypatch):
    """A frozen application, whose executable is itself."""
    monkeypatch.setattr(subprocess, 'Popen', lambda *_, **__: pytest.fail('a process was started'))
    monkeypatch.setattr(sys, 'frozen', True, raising=False)
    assert self_check.examine(CPU, torch.float32, candidates('good'))[0].right
    monkeypatch.delattr(sys, 'frozen')
    monkeypatch.setattr(sys, 'executable', '/opt/app/editor')
    assert self_check.examine(CPU, torch.float32, candidates('good'))[0].right


def test_a_device_that_does_not_answer_is_not_tried_again():
    (verdict,) = self_check.examine(CPU, torch.float32, candidates('good'), start_s=0.01)
    assert (verdict.outcome, verdict.reason) == ('not checked', 'cpu did not answer in 0.01 s')


def test_no_process_is_left_behind():
    process = self_check._Process(CPU, torch.float32, candidates('hangs'), 600)
    with process:
        assert process.answer(60) == {'ready': True}
        child = process._process
        assert child.poll() is None
    assert child.poll() is not None


def test_the_process_ends_with_its_parent(tmp_path):
    """Whatever ends the parent: its end of the pipe is closed then."""
    process = self_check._Process(CPU, torch.float32, candidates('hangs'), 600)
    with process:
        assert process.answer(60) == {'ready': True}
        process._stdin.close()
        assert process._process.wait(30) == 1


# --- remembered ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The names of the backends of every trial that took place; none of them runs in a process."""
    calls: list[tuple[str, ...]] = []

    def examine(device: torch.device, dtype: torch.dtype, them: Sequence[self_check.Candidate]) -> tuple:
        calls.append(tuple(candidate.name for candidate in them))
        return tuple(
            self_check.Verdict(c.name, FAULTS.get(c.name, 'right'), 'a reason', forward_ms=TIMES.get(c.name, 1.0))
            for c in them
        )

    monkeypatch.setattr(self_check, 'examine', examine)
    return calls


TIMES = {'slow': 2.0, 'good': 1.0}


def test_a_verdict_is_asked_for_once_for_a_device_a_dtype_and_the_code(tried, monkeypatch):
    them = candidates('good', 'lies')
    first = self_check.check(CPU, torch.float32, them)
    assert self_check.check(CPU, torch.float32, them) == first
    assert len(tried) == 1
    self_check.check(CPU, torch.bfloat16, them)
    assert len(tried) == 2
    self_check.check(CPU, torch.float32, candidates('good'))
    assert len(tried) == 3
    monkeypatch.setattr(self_check, '_code_hash', lambda: 'other code')
    self_check.check(CPU, torch.float32, them)
    assert len(tried) == 4


def test_a_compiler_that_was_installed_since_is_a_reason_to_try_again(tried, monkeypatch):
    monkeypatch.setattr(self_check.shutil, 'which', lambda name: None)
    self_check.check(CPU, torch.float32, candidates('good'))
    monkeypatch.setattr(self_check.shutil, 'which', lambda name: '/usr/bin/gcc')
    self_check.check(CPU, torch.float32, candidates('good'))
    assert len(tried) == 2


def test_doctor_tries_again(tried):
    for _ in range(2):
        self_check.check(CPU, torch.float32, candidates('good'), fresh=True)
    assert len(tried) == 2


def test_what_could_not_be_tried_is_tried_next_time(tried):
    for _ in range(2):
        self_check.check(CPU, torch.float32, candidates('good', 'out_of_memory'))
    assert len(tried) == 2


def test_a_trial_is_announced_before_it_begins_and_only_then(monkeypatch, caplog):
    """It compiles, which would be a minute of silence."""
    seen = []

    def examine(device, dtype, them):
        seen.extend(caplog.messages)
        return tuple(self_check.Verdict(c.name, 'right') for c in them)

    monkeypatch.setattr(self_check, 'examine', examine)
    with caplog.at_level(logging.INFO, 'vmambair_arch'):
        for _ in range(2):
            self_check.check(CPU, torch.float32, candidates('good'))
    assert seen == caplog.messages
    (said,) = seen
    assert said == (
        'selective scan: trying what there is on cpu in float32 once for this machine; compiling takes a minute or so'
    )


@pytest.mark.parametrize('content', ['', '{"verdicts": [{"name"', '[]', '{"verdicts": [{"name": "good", "new": 1}]}'])
def test_a_damaged_memory_is_made_again(tried, content):
    self_check.check(CPU, torch.float32, candidates('good'))
    (kept,) = self_check.cache_folder().glob('*.json')
    kept.write_text(content)
    self_check.check(CPU, torch.float32, candidates('good'))
    assert len(tried) == 2
    assert json.loads(kept.read_text())['verdicts'][0]['outcome'] == 'right'


def test_a_cache_that_cannot_be_written_costs_nothing_but_another_trial(tried, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path / 'file'))
    assert self_check.check(CPU, torch.float32, candidates('good'))[0].right
    assert len(tried) == 1


def test_the_cache_is_where_everything_else_is_cached(monkeypatch, tmp_path):
    for name, value in (('VMAMBAIR_CACHE', str(tmp_path)), ('VMAMBAIR_CACHE', ''), ('XDG_CACHE_HOME', str(tmp_path))):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
        assert self_check.cache_folder() == files.cache_folder() / 'scans'


def test_processes_that_start_together_try_once(tmp_path):
    code = """
import torch
from vmambair_arch.ops import self_check
real = self_check.examine
def examine(*args):
    open('tried', 'a').write('x')
    return real(*args)
self_check.examine = examine
(verdict,) = self_check.check(torch.device('cpu'), torch.float32, [self_check.Candidate('torch', '.torch_scan')])
assert verdict.right, verdict
"""
    together = [subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path) for _ in range(3)]
    assert [process.wait(200) for process in together] == [0, 0, 0]
    assert (tmp_path / 'tried').read_text() == 'x'


# --- the choice ------------------------------------------------------------------------------------------------------


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch):
    """A function that puts stand-ins in the place of the backends, to be tried on the CPU; the last one is torch."""

    def put(*names: str) -> None:
        them = [Backend(name, name, ('cpu',), f'pip install {name}') for name in names]
        them.append(Backend('torch', 'torch', (), ''))
        monkeypatch.setattr(selective_scan, 'BACKENDS', tuple(them))
        monkeypatch.setattr(selective_scan, 'TRIED_ON', ('cpu',))

        def load(backend: Backend):
            name = 'good' if backend.name == 'torch' else backend.name
            return sys.modules[f'scan_stand_ins.{name}']

        monkeypatch.setattr(Backend, 'load', load)
        for name in (*names, 'torch'):
            monkeypatch.delitem(selective_scan._LOADED, name, raising=False)

    yield put
    for name in (*FAULTS, 'slow', 'torch'):
        selective_scan._LOADED.pop(name, None)


@pytest.mark.parametrize(
    ('names', 'chosen', 'why'),
    [
        (('good', 'chatty'), 'good', 'the first that is right here'),
        (('slow', 'good'), 'good', "2.0 times as fast as 'slow' here"),
        (('lies', 'chatty'), 'chatty', 'the first that is right here'),
        (('hangs', 'raises'), 'torch', 'the first that is right here'),
    ],
)
def test_the_first_right_one_is_used_unless_another_is_clearly_faster(backends, tried, names, chosen, why):
    backends(*names)
    choice = choose(CPU, torch.float32)
    assert (choice.backend.name, choice.why) == (chosen, why)
    assert choose(CPU, torch.float32) is choice
    assert len(tried) == 1


def test_two_gpus_of_a_machine_are_tried_and_chosen_for_each_by_itself(backends, monkeypatch):
    """One may be older than the other, or broken."""

    def examine(device, dtype, them):
        wrong = 'good' if device.index else None
        return tuple(self_check.Verdict(c.name, 'wrong' if c.name == wrong else 'right', 'a reason') for c in them)

    backends('good')
    monkeypatch.setattr(
        selective_scan, 'BACKENDS', tuple(Backend(b.name, b.module, (), '') for b in selective_scan.BACKENDS)
    )
    monkeypatch.setattr(selective_scan, 'TRIED_ON', ('cuda',))
    monkeypatch.setattr(self_check, 'examine', examine)
    gpu = SimpleNamespace(name='Card', major=9, minor=0, total_memory=1, uuid='')
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: gpu)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 1)
    names = {str(d): choose(d, torch.float32).backend.name for d in map(torch.device, ('cuda:0', 'cuda:1', 'cuda'))}
    assert names == {'cuda:0': 'good', 'cuda:1': 'torch', 'cuda': 'torch'}
    assert len(list(self_check.cache_folder().glob('*.json'))) == 2


@pytest.mark.parametrize(
    ('error', 'remedy'),
    [
        ('fatal error: Python.h: No such file or directory', 'apt install python3-dev'),
        (RuntimeError('Failed to find C compiler. Please specify via CC environment variable.'), 'apt install gcc'),
        (FileNotFoundError(2, 'No such file or directory', 'gcc'), 'apt install gcc'),
        (PermissionError(13, 'Permission denied', '/home/someone/.triton/cache'), 'TRITON_CACHE_DIR'),
        (OSError(30, 'Read-only file system', '/home/me/.triton'), 'TRITON_CACHE_DIR'),
        (RuntimeError('Could not determine home directory.'), 'TRITON_CACHE_DIR'),
        (OSError(28, 'No space left on device'), 'free disk space'),
        ("name 'selective_scan_cuda' is not defined", 'MAMBA_KEEP_CUDA_BUILD=TRUE'),
        ('CUDA error: no kernel image is available for execution on the device', 'built for this GPU'),
        ('the provided PTX was compiled with an unsupported toolchain', 'driver'),
        ('something else', None),
    ],
)
def test_a_fault_that_is_known_has_its_remedy(error, remedy):
    said = faults.fix(error)
    assert said is None if remedy is None else remedy in said


def test_one_warning_names_what_failed_and_the_fix(backends, tried, caplog, monkeypatch):
    backends('raises')
    reason = 'RuntimeError: Failed to find C compiler'
    monkeypatch.setattr(
        self_check, 'examine',
        lambda *_: (self_check.Verdict('raises', 'fails', reason), self_check.Verdict('torch', 'right')),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        for _ in range(3):
            choose(CPU, torch.float32)
    (said,) = [r.getMessage() for r in caplog.records if 'Fix' in r.getMessage()]
    assert f"'torch' is used, many times slower than a kernel. raises fails: {reason}. Fix: install a C" in said
    assert 'vmambair doctor' in said


def test_a_backend_that_is_named_is_used_as_it_is(backends, tried, monkeypatch):
    backends('raises')
    monkeypatch.setenv('VMAMBAIR_SCAN', 'raises')
    assert choose(CPU, torch.float32).backend.name == 'raises'
    assert tried == []
    with pytest.raises(RuntimeError, match='C compiler'):
        omni_scan(ScanInputs(**scan_inputs(1, 2, 3, 4, 2, 1)))


def test_rank_0_and_an_interrupted_training_choose_for_others(backends, tried):
    backends('good', 'lies')
    assert settle(CPU, torch.float32, 'torch', 'as rank 0 does') is None
    assert choose(CPU, torch.float32).why == 'as rank 0 does'
    assert tried == []
    assert 'no backend' in settle(CPU, torch.float32, 'triton', '')
    selective_scan.forget()
    choose(CPU, torch.float32)
    assert "'lies' wrong here (a reason)" in settle(CPU, torch.float32, 'lies', '')
    assert choose(CPU, torch.float32).backend.name == 'good'


def test_what_the_environment_names_is_not_settled_otherwise(backends, monkeypatch):
    backends('good')
    monkeypatch.setenv('VMAMBAIR_SCAN', 'good')
    assert settle(CPU, torch.float32, 'torch', '') == 'VMAMBAIR_SCAN=good is set'
    assert settle(CPU, torch.float32, 'good', '') is None
    assert choose(CPU, torch.float32).backend.name == 'good'


# --- at run time -----------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch):
    """A function that makes the operator of the Triton backend raise on the CPU, forward or backward, where guarded."""
    triton_scan = pytest.importorskip('vmambair_arch.ops.triton_scan')
    from vmambair_arch.ops import torch_scan

    calls: list[str] = []

    def break_it(message: str, forward: bool = True) -> list[str]:
        def fail(*_: object) -> None:
            calls.append('kernel')
            raise RuntimeError(message)

        def good(inputs: ScanInputs, directions: Sequence[int], keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append('kernel')
            return torch_scan.omni_scan(inputs, directions).contiguous(), inputs.x.new_zeros(1 if keep else 0)

        monkeypatch.setattr(triton_scan, '_forward', fail if forward else good)
        monkeypatch.setattr(triton_scan, '_backward', fail)
        fallback.guard('triton', CPU, torch.float32)
        return calls

    return break_it


def results(backend: str, grad: bool = True) -> list[torch.Tensor]:
    leaves = ScanInputs(*(t.requires_grad_(grad) for t in scan_inputs(1, 4, 5, 6, 3, 2).values()))
    y = omni_scan(leaves, backend=backend)
    return [y.detach(), *(torch.autograd.grad(y.square().sum(), list(leaves)) if grad else ())]


@pytest.mark.parametrize('forward', [True, False])
def test_a_kernel_that_fails_costs_one_warning_and_torch_does_the_call(kernel, caplog, forward):
    calls = kernel('out of resource: shared memory, Required: 262144, Hardware limit: 101376', forward)
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        for got, wanted in zip(results('triton'), results('torch'), strict=True):
            torch.testing.assert_close(got, wanted)
        tries = len(calls)
        results('triton')
    assert len(calls) == tries, 'a backend that failed is not tried again'
    (said,) = [record.getMessage() for record in caplog.records]
    assert "'triton' failed (RuntimeError: out of resource" in said
    assert "'torch' is used, many times slower" in said


@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad])
def test_without_gradients_as_well(kernel, mode):
    kernel('PTX assembly aborted')
    with mode():
        torch.testing.assert_close(results('triton', grad=False)[0], results('torch', grad=False)[0])


def test_a_compiled_network_falls_back_as_well(kernel):
    kernel('PTX assembly aborted')

    def scan(*flat: torch.Tensor) -> torch.Tensor:
        return omni_scan(ScanInputs(*flat), backend='triton')

    leaves = [t.requires_grad_() for t in scan_inputs(1, 4, 5, 6, 3, 2).values()]
    y = torch.compile(scan, backend='aot_eager', fullgraph=True)(*leaves)
    for got, wanted in zip([y, *torch.autograd.grad(y.square().sum(), leaves)], results('torch'), strict=True):
        torch.testing.assert_close(got, wanted)


def test_memory_that_runs_out_is_raised(kernel):
    kernel('CUDA out of memory. Tried to allocate 20 GiB')
    with pytest.raises(RuntimeError, match='out of memory'):
        results('triton')
    assert fallback.failure('triton', CPU, torch.float32) is None


def test_a_lost_device_is_raised_with_the_way_round(kernel):
    kernel('CUDA error: an illegal memory access was encountered')
    with pytest.raises(RuntimeError, match='VMAMBAIR_SCAN=torch'):
        results('triton')


def test_an_input_that_torch_refuses_too_is_not_held_against_the_kernel(kernel, monkeypatch):
    kernel('Pointer argument cannot be accessed from Triton (cpu tensor?)')
    from vmambair_arch.ops import torch_scan

    def refuse(*_: object) -> None:
        raise RuntimeError('Expected all tensors to be on the same device')

    monkeypatch.setattr(torch_scan, 'omni_scan', refuse)
    with pytest.raises(RuntimeError, match='cpu tensor'):
        results('triton')
    assert fallback.failure('triton', CPU, torch.float32) is None


def test_a_kernel_that_nobody_chose_for_the_user_is_left_to_fail(kernel):
    kernel('PTX assembly aborted')
    fallback.forget()
    with pytest.raises(RuntimeError, match='PTX'):
        results('triton')


def test_what_fails_while_a_cuda_graph_is_captured_is_not_held_against_the_kernel(monkeypatch):
    cuda = torch.device('cuda', 0)
    fallback.guard('triton', cuda, torch.float32)
    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda now=capturing: now)
        if capturing:
            with pytest.raises(ZeroDivisionError):
                fallback.run('triton', cuda, torch.float32, lambda: 1 / 0, lambda: 7)
            assert fallback.failure('triton', cuda, torch.float32) is None
        else:
            assert fallback.run('triton', cuda, torch.float32, lambda: 1 / 0, lambda: 7) == 7
            assert fallback.failure('triton', cuda, torch.float32) is not None


@pytest.mark.parametrize(
    ('outcomes', 'name', 'why'),
    [
        (('not checked', 'not checked'), 'good', 'nothing could be tried'),
        (('wrong', 'wrong'), 'torch', 'none of those that were tried is right here'),
        (('fails', 'not checked'), 'torch', 'none of those that were tried is right here'),
    ],
)
def test_why_torch_is_used_where_nothing_is_right(outcomes, name, why):
    there = [Backend('good', '', (), ''), Backend('torch', '', (), '')]
    verdicts = [self_check.Verdict(b.name, outcome) for b, outcome in zip(there, outcomes, strict=True)]
    backend, reason = selective_scan.best(there, verdicts)
    assert (backend.name, reason) == (name, why)


@pytest.mark.parametrize(
    ('said', 'fix'),
    [
        ('the provided PTX was compiled with an unsupported toolchain', 'driver'),
        ("ptxas fatal : Value 'sm_999' is not defined for option 'gpu-name'", None),
        ('error at /home/somebody/.triton/cache/0/kernel.py:3: out of resource', None),
        ("PermissionError: [Errno 13] Permission denied: '/home/user/.triton'", 'TRITON_CACHE_DIR'),
    ],
)
def test_a_fix_is_of_what_was_said_and_not_of_a_path(said, fix):
    found = faults.fix(said)
    assert found is None if fix is None else fix in found


def test_each_forgets_its_own(backends, tried):
    backends('good')
    choose(CPU, torch.float32)
    for name in ('good', 'depthwise'):
        fallback.guard(name, CPU, torch.float32)
        fallback.run(name, CPU, torch.float32, lambda: 1 / 0, lambda: 0)
    selective_scan.forget()
    assert fallback.failure('good', CPU, torch.float32) is None
    assert fallback.failure('depthwise', CPU, torch.float32)
    fallback.guard('good', CPU, torch.float32)
    fallback.run('good', CPU, torch.float32, lambda: 1 / 0, lambda: 0)
    forget_depthwise()
    assert fallback.failure('good', CPU, torch.float32)
    assert fallback.failure('depthwise', CPU, torch.float32) is None


def test_a_fresh_choice_gives_what_failed_another_chance(backends, tried):
    backends('good')
    choose(CPU, torch.float32)
    fallback.run('good', CPU, torch.float32, lambda: 1 / 0, lambda: 0)
    assert choose(CPU, torch.float32).backend.name == 'torch'
    assert choose(CPU, torch.float32, fresh=True).backend.name == 'good'


def test_after_a_failure_the_choice_says_so(backends, tried):
    backends('good')
    choose(CPU, torch.float32)
    fallback.run('good', CPU, torch.float32, lambda: 1 / 0, lambda: 0)
    choice = choose(CPU, torch.float32)
    assert (choice.backend.name, choice.why) == ('torch', "'good' failed: ZeroDivisionError: division by zero")
    assert in_use('cpu', torch.float32) == 'torch'
    with using('good'):
        assert in_use('cpu', torch.float32) == 'good'
