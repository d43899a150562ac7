"""mamba-ssm as a backend: what its kernel is handed, told by a stand-in with its contract, and the kernel itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from scan_cases import assert_close, outputs_and_gradients, scan_inputs
from torch import Tensor

from vmambair_arch.ops import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs, faults, mamba_scan, omni_scan
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


@pytest.mark.skipif(
    not torch.cuda.is_available() or mamba_scan.unavailable(CUDA, torch.float32) is not None,
    reason='no GPU, or no mamba-ssm',
)
@cases
def test_on_a_gpu(shape, directions):
    compare(CUDA, shape, directions, torch.float32, 1e-4)
