"""mamba-ssm as a backend: what its kernel is handed, told by a stand-in with its contract, and the kernel itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from scan_cases import assert_close, outputs_and_gradients, scan_inputs
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmambair_arch.ops import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs, fallback, faults, mamba_scan, omni_scan
from vmambair_arch.ops.reference import selective_scan

CUDA = torch.device('cuda')
cases = pytest.mark.parametrize(
    ('shape', 'directions'),
    [
        ((2, 5, 7, 6, 4, 2), PLANE_DIRECTIONS),
        ((2, 1, 9, 1, 16, 6), SEQUENCE_DIRECTIONS),
        ((1, 3, 4, 5, 2, 3), (3, 0, 1)),
    ],
)


def stand_in(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`selective_scan_fn` without softplus, gate and bias: u, delta (b, G d, L), A (G d, N), B, C (b, G, N, L)."""
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in (u, delta, A, B, C, D))
    groups = B.shape[1]
    parts = zip(*(t.chunk(groups, 1) for t in (u, delta)), A.chunk(groups), D.chunk(groups), strict=True)
    ys = [
        selective_scan(u_g.mT, delta_g.mT, A_g, B[:, g].mT, C[:, g].mT, D_g).mT
        for g, (u_g, delta_g, A_g, D_g) in enumerate(parts)
    ]
    return torch.cat(ys, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in, where mamba-ssm would be."""
    interface = ModuleType('mamba_ssm.ops.selective_scan_interface')
    interface.selective_scan_fn = stand_in
    interface.selective_scan_cuda = ModuleType('selective_scan_cuda')
    for name in ('mamba_ssm', 'mamba_ssm.ops'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    mamba_scan._kernel.cache_clear()
    yield
    mamba_scan._kernel.cache_clear()


def compare(device: torch.device, shape: tuple, directions: tuple, dtype: torch.dtype, tolerance: float) -> None:
    inputs = {name: t.to(device) for name, t in scan_inputs(*shape, directions).items()}
    inputs |= {name: inputs[name].to(dtype) for name in ('x', 'x_dbl')}
    exact = {name: t.double() for name, t in inputs.items()}
    grad_y = torch.randn_like(inputs['x'])
    wanted = outputs_and_gradients(lambda *a: omni_scan(*a, backend='torch'), exact, directions, grad_y.double())
    got = outputs_and_gradients(lambda *a: omni_scan(*a, backend='mamba'), inputs, directions, grad_y)
    assert got['y'].dtype == dtype
    for name, value in got.items():
        assert_close(value, wanted[name], tolerance, name)


@cases
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8)])
def test_directions_are_groups_of_the_kernel(kernel, shape, directions, dtype, tolerance):
    compare(torch.device('cpu'), shape, directions, dtype, tolerance)


def test_it_serves_where_it_is_installed(kernel):
    assert mamba_scan.unavailable(CUDA, torch.float32) is None
    assert 'float64' in mamba_scan.unavailable(CUDA, torch.float64)
    assert 'CUDA' in mamba_scan.unavailable(torch.device('cpu'), torch.float32)


def test_a_broken_install_is_named(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mamba_ssm.ops.selective_scan_interface', None)
    assert 'mamba-ssm cannot be used' in mamba_scan.unavailable(CUDA, torch.float32)


def test_an_install_without_the_compiled_kernel_is_named_with_the_way_to_build_it(kernel, monkeypatch):
    """What `pip install mamba-ssm` gives without MAMBA_KEEP_CUDA_BUILD: it imports."""
    monkeypatch.setattr(sys.modules['mamba_ssm.ops.selective_scan_interface'], 'selective_scan_cuda', None)
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', None)
    why = mamba_scan.unavailable(CUDA, torch.float32)
    assert 'selective_scan_cuda' in why
    assert 'MAMBA_KEEP_CUDA_BUILD=TRUE' in faults.fix(why)


def test_a_state_that_the_kernel_refuses_is_named(kernel):
    inputs = ScanInputs(**scan_inputs(1, 1, 3, 1, 257, 1))
    with pytest.raises(ValueError, match='256 numbers, not of 257'):
        omni_scan(inputs, backend='mamba')


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        raise RuntimeError(_FailsBackward.message)

    message = 'no kernel image is available for execution on the device'


@pytest.fixture
def fails_backward(kernel, monkeypatch) -> Iterator[type[_FailsBackward]]:
    """A kernel whose gradient raises."""
    interface = sys.modules['mamba_ssm.ops.selective_scan_interface']
    monkeypatch.setattr(interface, 'selective_scan_fn', lambda *args: _FailsBackward.apply(stand_in(*args)))
    mamba_scan._kernel.cache_clear()
    fallback.forget()
    yield _FailsBackward
    fallback.forget()


def test_a_gradient_that_fails_costs_one_warning_and_torch_computes_it(fails_backward, caplog):
    fallback.guard('mamba', torch.device('cpu'), torch.float32)
    compare(torch.device('cpu'), (1, 3, 4, 5, 2, 3), PLANE_DIRECTIONS, torch.float32, 1e-5)
    compare(torch.device('cpu'), (1, 3, 4, 5, 2, 3), PLANE_DIRECTIONS, torch.float32, 1e-5)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "'mamba' failed (RuntimeError: no kernel image" in said


def test_a_gradient_that_fails_where_mamba_was_named_is_left_to_fail(fails_backward):
    with pytest.raises(RuntimeError, match='no kernel image'):
        compare(torch.device('cpu'), (1, 3, 4, 5, 2, 3), PLANE_DIRECTIONS, torch.float32, 1e-5)


@pytest.mark.parametrize(('message', 'said'), [
    ('CUDA out of memory', 'out of memory'), ('an illegal memory access was encountered', 'VMAMBAIR_SCAN=torch'),
])  # fmt: skip
def test_memory_and_a_lost_device_are_raised_from_the_gradient(fails_backward, monkeypatch, message, said):
    fallback.guard('mamba', torch.device('cpu'), torch.float32)
    monkeypatch.setattr(_FailsBackward, 'message', message)
    with pytest.raises(RuntimeError, match=said):
        compare(torch.device('cpu'), (1, 3, 4, 5, 2, 3), PLANE_DIRECTIONS, torch.float32, 1e-5)


def test_recomputed_activations_are_no_fault_of_the_kernel(kernel, caplog):
    """Checkpointing stops a recomputation by an exception, which is none of the kernel."""
    fallback.guard('mamba', torch.device('cpu'), torch.float32)
    try:
        results = []
        for recompute in (False, True):
            leaves = [t.requires_grad_() for t in scan_inputs(1, 3, 4, 5, 2, 3).values()]

            def scan(*flat: Tensor) -> Tensor:
                return omni_scan(ScanInputs(*(2 * t for t in flat)), backend='mamba').sin()

            y = checkpoint(scan, *leaves, use_reentrant=False) if recompute else scan(*leaves)
            results.append(torch.autograd.grad(y.sum(), leaves))
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
        assert caplog.records == []
    finally:
        fallback.forget()


def test_torch_accepts_the_operator(kernel):
    inputs = [t.requires_grad_() for t in scan_inputs(1, 2, 3, 2, 2, 1, (0,)).values()]
    torch.library.opcheck(torch.ops.vmambair.mamba_scan, (*inputs, [0], False))


@pytest.mark.skipif(
    not torch.cuda.is_available() or mamba_scan.unavailable(CUDA, torch.float32) is not None,
    reason='no GPU, or no mamba-ssm',
)
@cases
def test_on_a_gpu(shape, directions):
    compare(CUDA, shape, directions, torch.float32, 1e-4)
