"""The depthwise kernels in Triton's interpreter; `test_triton_depthwise.py` runs this file in a process of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vmambair_arch.ops import fallback, self_check, torch_depthwise, triton_depthwise
from vmambair_arch.ops.torch_depthwise import GELU_GATE, SILU

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few columns and rows a program, so that a small map is many of them."""
    monkeypatch.setattr(triton_depthwise, 'TILE', 64)
    monkeypatch.setattr(triton_depthwise, 'ROWS', (3,))


def inputs(b: int, h: int, w: int, c: int, bias: bool, size: float = 2.0) -> list[Tensor | None]:
    rng = torch.Generator().manual_seed(b * h + w * c)
    x = size * torch.randn(b, h, w, c, generator=rng)
    weight, added = torch.randn(c, 1, 3, 3, generator=rng), torch.randn(c, generator=rng)
    return [x, weight, added if bias else None]


def compare(tensors: list[Tensor | None], activation: int, tolerance: float = 1e-5) -> None:
    """Output and all gradients against torch in float64 on the same numbers."""
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    exact = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
    y, wanted = triton_depthwise.depthwise(*leaves, activation), torch_depthwise.depthwise(*exact, activation)
    assert y.shape == wanted.shape
    assert y.dtype == tensors[0].dtype
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    y.backward(grad)
    wanted.backward(grad.double())
    pairs = [(y, wanted), *((a.grad, b.grad) for a, b in zip(leaves, exact, strict=True) if a is not None)]
    for got, right in pairs:
        assert got.isfinite().all()
        assert (got.double() - right).abs().max() <= tolerance * max(right.abs().max(), 1e-3)
    assert all(t is None or t.grad.dtype == t.dtype for t in leaves)


@pytest.mark.parametrize('activation', [SILU, GELU_GATE])
@pytest.mark.parametrize(
    ('shape', 'bias'),
    [
        ((1, 1, 1, 2), True),
        ((2, 5, 7, 6), False),
        ((1, 2, 3, 34), True),  # two blocks of channels of a gate, three of silu, the last cut short
        ((1, 2, 5, 32), False),  # several strips of columns
        ((2, 7, 2, 4), True),  # several bands of rows
    ],
    ids=str,
)
def test_against_torch_in_float64(shape, bias, activation):
    compare(inputs(*shape, bias), activation)


@pytest.mark.parametrize('rows', [1, 32])
def test_any_number_of_rows_gives_the_same_bits_forward(monkeypatch, rows):
    tensors = inputs(1, 5, 4, 4, True)
    wanted = triton_depthwise.depthwise(*tensors, SILU)
    monkeypatch.setattr(triton_depthwise, 'ROWS', (rows,))
    assert torch.equal(triton_depthwise.depthwise(*tensors, SILU), wanted)
    compare(tensors, SILU)


@pytest.mark.parametrize('activation', [SILU, GELU_GATE])
@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize('narrow', [True, False])
def test_half_precision_with_weights_of_either_width(dtype, activation, narrow):
    x, weight, bias = inputs(1, 4, 3, 6, True)
    parameters = [t.to(dtype) for t in (weight, bias)] if narrow else [weight, bias]
    compare([x.to(dtype), *parameters], activation, tolerance=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize('size', [0.0, pytest.param(1e-20, marks=pytest.mark.slow), 1e4])
@pytest.mark.parametrize('activation', [SILU, GELU_GATE])
def test_extreme_values_stay_right_and_finite(activation, size):
    compare(inputs(1, 3, 3, 4, True, size), activation, tolerance=1e-5 + 1e-6 * size)


def test_not_contiguous():
    x, weight, bias = inputs(1, 4, 5, 4, True)
    turned, slices = x.transpose(1, 2), torch.cat([weight, weight], 1)[:, :1]
    got = triton_depthwise.depthwise(turned, slices, bias, SILU)
    assert torch.equal(got, triton_depthwise.depthwise(turned.contiguous(), weight, bias, SILU))


def test_nan_stays_among_its_neighbours():
    x, weight, bias = inputs(1, 5, 5, 4, True)
    x[0, 2, 2, 1] = float('nan')
    bad = triton_depthwise.depthwise(x, weight, bias, SILU).isnan()
    assert bad[0, 1:4, 1:4, 1].all()
    assert bad.sum() == 9


def test_an_empty_batch():
    tensors = [t.requires_grad_() for t in inputs(0, 3, 3, 4, True)]
    triton_depthwise.depthwise(*tensors, SILU).sum().backward()
    assert not tensors[1].grad.any()


@pytest.mark.parametrize('activation', [SILU, GELU_GATE])
def test_torch_accepts_the_operator(activation):
    x, weight, bias = (t.requires_grad_() for t in inputs(1, 2, 3, 4, True))
    torch.library.opcheck(torch.ops.vmambair.triton_depthwise.default, (x, weight, bias, activation))


def test_the_self_check_finds_it_right(monkeypatch):
    monkeypatch.setattr(self_check, 'CONVOLUTIONS', {'small': ((1, 3, 4, 6), GELU_GATE)})
    examiner = self_check._Examiner(CPU, torch.float32, 'depthwise')
    assert examiner._compare(examiner.subject.compute(triton_depthwise)) == ('', True)


def test_where_the_kernel_fails_torch_does_the_call(monkeypatch, caplog):
    tensors = [t.requires_grad_() for t in inputs(1, 4, 3, 6, True)]

    def results() -> list[Tensor]:
        y = triton_depthwise.depthwise(*tensors, GELU_GATE)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), tensors)]

    wanted = results()
    monkeypatch.setattr(triton_depthwise, '_activate', lambda *_: 1 / 0)
    fallback.guard(triton_depthwise.NAME, CPU, torch.float32)
    try:
        for got, right in zip(results(), wanted, strict=True):
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)
    finally:
        fallback.forget()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "depthwise convolutions on cpu in float32: 'depthwise' failed (ZeroDivisionError" in said
