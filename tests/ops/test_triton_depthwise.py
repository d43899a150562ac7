"""The depthwise kernels for GPUs: right in Triton's interpreter, small when compiled, and used only where tried."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from compiled import resources_of
from torch import Tensor

from vmambair_arch.ops import (
    choose_depthwise,
    depthwise,
    depthwise_gelu_gate,
    depthwise_silu,
    fallback,
    self_check,
    torch_depthwise,
    using,
)
from vmambair_arch.ops.selective_scan import Backend
from vmambair_arch.ops.torch_depthwise import GELU_GATE, SILU

triton = pytest.importorskip('triton', reason='torch brings Triton on Linux only')
from vmambair_arch.ops import triton_depthwise  # noqa: E402

CPU = torch.device('cpu')


@pytest.mark.parametrize('marker', ['not slow', pytest.param('slow', marks=pytest.mark.slow)])
def test_in_the_interpreter(marker):
    inner = Path(__file__).with_name('interpreted_triton_depthwise.py')
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-m', marker, inner]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


# --- how the work is cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('channels', 'of_a_program'),
    [(1, 1), (5, 8), (14, 16), (16, 16), (48, 16), (96, 32), (127, 64), (128, 64), (192, 64), (255, 64), (384, 64)],
)
def test_few_lanes_are_wasted(channels, of_a_program):
    assert triton_depthwise.channels_of_a_program(channels) == of_a_program


@pytest.mark.parametrize(
    ('shape', 'multiprocessors', 'rows'),
    [
        ((8, 64, 64, 96), 132, 8),
        ((64, 64, 64, 96), 132, 32),
        ((1, 64, 64, 96), 132, 4),
        ((1, 256, 256, 48), 132, 8),
        ((1, 8, 8, 384), 132, 4),
        ((1, 64, 64, 96), 0, 32),
    ],
)
def test_small_maps_are_cut_into_more_bands(shape, multiprocessors, rows):
    assert triton_depthwise.rows_of_a_program(*shape, multiprocessors) == rows


def test_bands_are_the_longest_that_are_enough():
    for b, h, w, c, sms in itertools.product((1, 4), (1, 9, 64, 300), (5, 64), (3, 48, 254), (1, 24, 132)):
        rows = triton_depthwise.rows_of_a_program(b, h, w, c, sms)
        Q = triton_depthwise.channels_of_a_program(c)
        beside = -(-c // Q) * -(-w // (triton_depthwise.TILE // Q)) * b
        assert rows == 4 or beside * -(-h // rows) >= 4 * sms
        assert rows == 32 or beside * -(-h // (2 * rows)) < 4 * sms


# --- compiled ahead of time ------------------------------------------------------------------------------------------

SM_80, SM_90, GFX942 = ('cuda', 80, 32), ('cuda', 90, 32), ('hip', 'gfx942', 64)
KERNELS = {
    'silu': ('activation_kernel', {'GATE': False, 'SLOPES': False}),
    'gate': ('activation_kernel', {'GATE': True, 'SLOPES': False}),
    'slopes of silu': ('activation_kernel', {'GATE': False, 'SLOPES': True}),
    'slopes of the gate': ('activation_kernel', {'GATE': True, 'SLOPES': True}),
    'gradients': ('convolution_gradients_kernel', {}),
}
MOST_REGISTERS = {'silu': 96, 'gate': 168, 'slopes of silu': 104, 'slopes of the gate': 168, 'gradients': 168}
"""Of a thread; four warps of 168 leave room for three programs of a multiprocessor's 65536."""


def resources(kind: str, target: tuple, dtype: str, c: int = 96) -> dict[str, int]:
    """Registers of a thread, and bytes that it spills, of a kernel as `triton_depthwise` launches it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vmambair_arch.ops import depthwise_kernels

    name, switches = KERNELS[kind]
    kernel = getattr(depthwise_kernels, name)
    Q = triton_depthwise.channels_of_a_program(c)
    constants = {'c': c, 'W': triton_depthwise.TILE // Q, 'Q': Q, 'BIAS': True, **switches}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {
        arg: 'constexpr' if arg in constants
        else 'i32' if arg in ('h', 'w', 'rows', 'bands')
        else '*fp32' if arg in ('weight', 'bias', 'sums')
        else f'*{dtype}'
        for arg in kernel.arg_names
    }  # fmt: skip
    aligned = {(i,): [['tt.divisibility', 16]] for i, arg in enumerate(kernel.arg_names) if signature[arg][0] == '*'}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget(*target), options=triton_depthwise.LAUNCH).asm
    if target[0] == 'hip':
        assert made['hsaco'][:4] == b'\x7fELF'
    else:
        assert f'.target sm_{target[1]}' in made['ptx']
    return resources_of(made, target)


@pytest.mark.parametrize('dtype', ['fp32', pytest.param('bf16', marks=pytest.mark.slow)])
@pytest.mark.parametrize('target', [pytest.param(SM_80, marks=pytest.mark.slow), SM_90, GFX942], ids=str)
def test_nothing_is_spilled(target, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    used = {kind: resources(kind, target, dtype) for kind in KERNELS}
    assert {kind: each['spilled'] for kind, each in used.items()} == dict.fromkeys(KERNELS, 0)
    registers = {kind: each['registers'] for kind, each in used.items()}
    assert all(registers[kind] <= MOST_REGISTERS[kind] for kind in KERNELS), registers


# --- the choice, told on the CPU -------------------------------------------------------------------------------------


def _stand_in(fault: str) -> ModuleType:
    """A module that convolves with a fault."""

    class Slower(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, y: Tensor) -> Tensor:
            return y.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad * 1.01

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
        if fault == 'raises':
            raise RuntimeError('Failed to find C compiler. Please specify via CC environment variable.')
        y = torch_depthwise.depthwise(x, weight, bias, activation)
        if fault == 'lies':
            return y * 1.01
        if fault == 'lies at odd shapes':
            return y + 0.01 * (x.shape[-1] % 4 != 0)
        if fault == 'ignores the gate':
            return y * 0 if activation == GELU_GATE else y
        if fault == 'wrong gradient':
            return Slower.apply(y)
        if fault == 'differs':
            return y * (1 + 4e-6 * torch.rand(()))
        if fault == 'short of memory':
            raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        return y

    module = ModuleType(f'depthwise_stand_in_{fault.replace(" ", "_")}')
    module.depthwise = compute
    module.unavailable = lambda device, dtype: None
    sys.modules[module.__name__] = module
    return module


FAULTS = {
    'none': 'right',
    'raises': 'fails',
    'lies': 'wrong',
    'lies at odd shapes': 'wrong',
    'ignores the gate': 'wrong',
    'wrong gradient': 'wrong',
    'differs': 'wrong',
    'short of memory': 'not checked',
}


@pytest.mark.parametrize('fault', FAULTS)
def test_every_fault_has_its_outcome(fault):
    name = _stand_in(fault).__name__
    verdict = self_check._Examiner(CPU, torch.float32, 'depthwise').examine(
        self_check.Candidate(fault, name, True, 'depthwise')
    )
    assert verdict.outcome == FAULTS[fault], verdict


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_right(dtype):
    candidate = self_check.Candidate('torch', '.torch_depthwise', True, 'depthwise')
    assert self_check._Examiner(CPU, dtype, 'depthwise').examine(candidate).right


def test_a_process_of_its_own_tries_them():
    found = self_check.examine(
        CPU, torch.float32, [self_check.Candidate('torch', '.torch_depthwise', True, 'depthwise')]
    )
    assert [verdict.outcome for verdict in found] == ['right']


class Gpu:
    """The CPU in the place of a GPU: its kernel is torch's, what a trial finds can be set, and calls are listed."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.trials = 0
        self.fault: Exception | None = None
        self.verdicts = [
            self_check.Verdict('triton', 'right', '', 1.0, 1.0), self_check.Verdict('torch', 'right', '', 2.0, 2.0),
        ]  # fmt: skip

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
        self.calls.append(str(x.dtype).removeprefix('torch.'))
        if self.fault:
            raise self.fault
        parameters = (t if t is None else t.to(x.dtype) for t in (weight, bias))
        return torch_depthwise.depthwise(x, *parameters, activation).contiguous()

    def examine(self, *_: object) -> tuple[self_check.Verdict, ...]:
        self.trials += 1
        return tuple(self.verdicts)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    machine = Gpu()
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path))
    monkeypatch.delenv('VMAMBAIR_DEPTHWISE', raising=False)
    monkeypatch.setattr(depthwise, 'DEVICES', ('cpu',))
    monkeypatch.setattr(depthwise, '_can_fuse', lambda *_: False)
    ways = Backend('triton', 'triton_depthwise', ('cpu',), 'pip install triton'), depthwise.WAYS[-1]
    monkeypatch.setattr(depthwise, 'WAYS', ways)
    monkeypatch.setattr(triton_depthwise, 'unavailable', lambda device, dtype: None)
    monkeypatch.setattr(triton_depthwise, '_forward', machine.forward)
    monkeypatch.setattr(self_check, 'examine', machine.examine)
    depthwise.forget_depthwise()
    fallback.forget()
    yield machine
    depthwise.forget_depthwise()
    fallback.forget()


def tensors(c: int = 6) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=rng) for size in ((1, 4, 5, c), (c, 1, 3, 3), (c,))]


def test_what_is_right_is_tried_once_and_used(gpu):
    for _ in range(2):
        torch.testing.assert_close(depthwise_silu(*tensors()), torch_depthwise.depthwise(*tensors(), SILU))
        torch.testing.assert_close(depthwise_gelu_gate(*tensors()), torch_depthwise.depthwise(*tensors(), GELU_GATE))
    assert gpu.calls == ['float32'] * 4
    assert gpu.trials == 1
    choice = choose_depthwise(CPU, torch.float32)
    assert (choice.backend.name, choice.why) == ('triton', 'the first that is right here')


@pytest.mark.parametrize('verdict', [
    self_check.Verdict('triton', 'wrong', 'silu: y is off by 1.0e-02'),
    self_check.Verdict('triton', 'crashes', 'signal SIGSEGV'),
    self_check.Verdict('triton', 'hangs', 'no answer in 300 s'),
    self_check.Verdict('triton', 'fails', 'RuntimeError: Failed to find C compiler'),
], ids=lambda verdict: verdict.outcome)  # fmt: skip
def test_what_is_not_costs_one_warning_and_is_left_to_torch(gpu, caplog, verdict):
    gpu.verdicts[0] = verdict
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        for _ in range(3):
            torch.testing.assert_close(depthwise_silu(*tensors()), torch_depthwise.depthwise(*tensors(), SILU))
    assert gpu.calls == []
    (said,) = [record.getMessage() for record in caplog.records if 'Fix' in record.getMessage()]
    assert f"'torch' is used. triton {verdict.outcome}: {verdict.reason}" in said


def test_torch_is_used_where_it_is_clearly_faster(gpu):
    gpu.verdicts[0] = self_check.Verdict('triton', 'right', '', 5.0, 1.0)
    depthwise_silu(*tensors())
    assert gpu.calls == []
    assert choose_depthwise(CPU, torch.float32).why == "1.5 times as fast as 'triton' here"


@pytest.mark.parametrize(('variable', 'calls'), [('torch', 0), ('triton', 1), ('', 1), ('auto', 1)])
def test_the_environment_names_one(gpu, monkeypatch, variable, calls):
    monkeypatch.setenv('VMAMBAIR_DEPTHWISE', variable)
    depthwise_silu(*tensors())
    assert len(gpu.calls) == calls
    assert gpu.trials == (variable in ('', 'auto'))


def test_a_name_that_is_none_is_refused(gpu, monkeypatch):
    monkeypatch.setenv('VMAMBAIR_DEPTHWISE', 'cudnn')
    with pytest.raises(ValueError, match='VMAMBAIR_DEPTHWISE=cudnn is no way'):
        depthwise_silu(*tensors())


@pytest.mark.parametrize(('scan', 'calls'), [('torch', 0), ('triton', 1), ('reference', 0)])
def test_in_a_block_that_names_a_scan(gpu, scan, calls):
    with using(scan):
        depthwise_silu(*tensors())
    assert len(gpu.calls) == calls


def test_under_autocast_it_reads_and_gives_the_narrow_dtype(gpu):
    with torch.autocast('cpu', torch.bfloat16):
        y = depthwise_silu(*tensors())
    assert (y.dtype, gpu.calls) == (torch.bfloat16, ['bfloat16'])


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_what_does_not_fit_together_is_for_torch_to_refuse(gpu, dtype):
    x, weight, bias = tensors()
    with pytest.raises(RuntimeError):
        depthwise_silu(x, weight.to(dtype), bias)
    with pytest.raises(RuntimeError):
        depthwise_silu(x, weight[:4], bias)
    assert gpu.calls == []
    assert depthwise_silu(x.double(), weight.double(), bias.double()).dtype == torch.float64


def test_a_kernel_that_fails_later_costs_one_warning(gpu, caplog):
    depthwise_silu(*tensors())
    gpu.fault = RuntimeError('PTX assembly aborted')
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        for _ in range(3):
            torch.testing.assert_close(depthwise_silu(*tensors()), torch_depthwise.depthwise(*tensors(), SILU))
    (said,) = [record.getMessage() for record in caplog.records if 'Fix' in record.getMessage()]
    assert "depthwise convolutions on cpu in float32: 'depthwise' failed (RuntimeError: PTX" in said
    assert choose_depthwise(CPU, torch.float32).backend.name == 'torch'


@pytest.mark.parametrize(('message', 'said'), [
    ('CUDA out of memory', 'out of memory'), ('an illegal memory access was encountered', 'VMAMBAIR_DEPTHWISE=torch'),
])  # fmt: skip
def test_memory_and_a_lost_device_are_raised(gpu, message, said):
    depthwise_silu(*tensors())
    gpu.fault = RuntimeError(message)
    with pytest.raises(RuntimeError, match=said):
        depthwise_silu(*tensors())


def test_a_compiled_network_uses_it_without_a_graph_break(gpu):
    x, weight, bias = tensors()
    compiled = torch.compile(depthwise_silu, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x, weight, bias), torch_depthwise.depthwise(x, weight, bias, SILU))
    assert gpu.calls


def test_a_cpu_never_asks(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(depthwise, '_way', refuse)
    monkeypatch.setattr(depthwise, '_can_fuse', lambda *_: False)
    depthwise_silu(*tensors())


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('activation', [SILU, GELU_GATE])
@pytest.mark.parametrize('shape', [(2, 64, 64, 96), (1, 37, 53, 254), (3, 8, 8, 384), (1, 5, 1, 14)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_on_a_gpu(shape, activation, dtype):
    c = shape[-1]
    leaves = [torch.randn(size, device='cuda') for size in (shape, (c, 1, 3, 3), (c,))]
    leaves = [t.to(dtype if i == 0 else torch.float32).requires_grad_() for i, t in enumerate(leaves)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    results = []
    for compute, given in ((triton_depthwise, leaves), (triton_depthwise, leaves), (torch_depthwise, exact)):
        y = compute.depthwise(*given, activation)
        results.append([y, *torch.autograd.grad(y, given, torch.ones_like(y))])
    for one, again, wanted in zip(*results, strict=True):
        assert torch.equal(one, again)
        off = (one.double() - wanted).abs().max() / wanted.abs().max()
        assert off <= max(2 * torch.finfo(dtype).eps, 1e-5)
