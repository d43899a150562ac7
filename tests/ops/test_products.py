"""Products through either library are the same products, gradients included."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from vmambair_arch.ops import linear, linear_add, linear_silu, products, using

FUNCTIONS = {
    'linear': (linear, F.linear),
    'linear_silu': (linear_silu, lambda *args: F.silu(F.linear(*args))),
}
every_function = pytest.mark.parametrize(('ours', 'torchs'), FUNCTIONS.values(), ids=FUNCTIONS)
needs_onednn = pytest.mark.skipif(not products._has_onednn(), reason='this torch has no oneDNN')


@pytest.fixture(params=['torch', pytest.param('onednn', marks=needs_onednn)], autouse=True)
def library(request, monkeypatch):
    """The test runs once with each library."""
    monkeypatch.setenv(products.ENV, request.param)
    products._library.cache_clear()
    products._smallest.cache_clear()
    yield request.param
    products._library.cache_clear()
    products._smallest.cache_clear()


def tensors(pixels: tuple[int, ...], c: int, o: int, bias: bool = True) -> list[torch.Tensor | None]:
    rng = torch.Generator().manual_seed(c + o)
    x, weight = torch.randn(*pixels, c, generator=rng), torch.randn(o, c, generator=rng) * c**-0.5
    return [x, weight, torch.randn(o, generator=rng) if bias else None]


def results(function, given, grad):
    """The product and the gradients of what it is made of."""
    leaves = [t.detach().requires_grad_() for t in given if t is not None]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


@every_function
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), c=st.integers(1, 70), o=st.integers(1, 70), bias=st.booleans()
)
def test_any_shape_against_float64(ours, torchs, height, width, c, o, bias):
    given_tensors = tensors((2, height, width), c, o, bias)
    grad = torch.randn(2, height, width, o, generator=torch.Generator().manual_seed(1))
    got = results(ours, given_tensors, grad)
    wanted = results(torchs, [t if t is None else t.double() for t in given_tensors], grad)
    for one, exact in zip(got, wanted, strict=True):
        assert one.shape == exact.shape
        assert (one - exact).abs().max() <= 3e-6 * exact.abs().max() + 1e-6


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), c=st.integers(1, 70), o=st.integers(1, 70), bias=st.booleans(),
    kind=st.sampled_from(['map', 'turned', 'broadcast', 'vector']),
)  # fmt: skip
def test_a_sum_on_the_way_out_against_float64(height, width, c, o, bias, kind):
    """What is added may lie in any way, and be broadcast."""
    rng = torch.Generator().manual_seed(height * width)
    other = {
        'map': lambda: torch.randn(2, height, width, o, generator=rng),
        'turned': lambda: torch.randn(2, o, width, height, generator=rng).permute(0, 3, 2, 1),
        'broadcast': lambda: torch.randn(2, 1, 1, o, generator=rng),
        'vector': lambda: torch.randn(o, generator=rng),
    }[kind]()
    x, weight, b = tensors((2, height, width), c, o, bias)
    arguments = [t for t in (other, x, weight, b) if t is not None]
    grad = torch.randn(2, height, width, o, generator=rng)

    def ours(other, x, weight, b=None):
        return linear_add(x, weight, b, other)

    def torchs(other, *arguments):
        return other + F.linear(*arguments)

    got, exact = results(ours, arguments, grad), results(torchs, [t.double() for t in arguments], grad)
    for one, other in zip(got, exact, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 3e-6 * other.abs().max() + 1e-6
    with torch.inference_mode():
        torch.testing.assert_close(ours(*arguments), got[0], rtol=1e-5, atol=1e-5)


BIASES = {
    'strided': lambda o: torch.arange(2.0 * o)[::2],
    'expanded': lambda o: torch.tensor([1.5]).expand(o),
    'a column': lambda o: torch.arange(3.0 * o).view(o, 3)[:, 1],
    'one number': lambda o: torch.tensor([2.5]),
    'one row': lambda o: torch.arange(float(o))[None],
    'a scalar': lambda o: torch.tensor(0.5),
    'a parameter': lambda o: torch.nn.Parameter(torch.arange(float(o))),
    'the end of a longer one': lambda o: torch.arange(2.0 * o)[o:],
}


@every_function
@pytest.mark.parametrize('bias', BIASES.values(), ids=BIASES)
@pytest.mark.parametrize('o', [16, 48])
@pytest.mark.parametrize('differentiated', [False, True])
def test_a_bias_may_lie_in_any_way_that_torch_takes(ours, torchs, bias, o, differentiated):
    x, weight, _ = tensors((1, 4, 5), 32, o, bias=False)
    x.requires_grad_(differentiated)
    torch.testing.assert_close(ours(x, weight, bias(o)), torchs(x, weight, bias(o)), rtol=1e-5, atol=1e-5)
    added = linear_add(x, weight, bias(o), torch.ones(1, 4, 5, o))
    torch.testing.assert_close(added, 1 + F.linear(x, weight, bias(o)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('pixels', [(), (5,), (1, 2, 3, 4)], ids=str)
def test_any_number_of_dimensions(pixels):
    x, weight, bias = tensors(pixels, 32, 48)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(x, weight[0]), F.linear(x, weight[0]), rtol=1e-5, atol=1e-5)
    expanded = x[None].expand(3, *x.shape)
    torch.testing.assert_close(linear(expanded, weight, bias), F.linear(expanded, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'bias', [torch.ones(48, dtype=torch.float64), torch.ones(47), torch.ones(2, 48)], ids=['float64', 'short', 'rows']
)
def test_a_bias_that_does_not_fit_is_refused_by_torch(bias):
    x, weight, _ = tensors((1, 4, 5), 32, 48, bias=False)
    for function in (linear, linear_silu):
        with pytest.raises(RuntimeError):
            function(x, weight, bias)


def test_what_does_not_fit_is_refused_by_torch():
    x, weight, bias = tensors((1, 4, 5), 32, 48)
    with pytest.raises(RuntimeError, match='size'):
        linear_add(x, weight, bias, torch.zeros(1, 4, 4, 48))
    assert linear_add(x, weight, bias, torch.zeros(1, 4, 5, 48, dtype=torch.float64)).dtype == torch.float64


@every_function
def test_without_a_gradient_it_is_the_same_product(ours, torchs):
    given_tensors = tensors((1, 5, 7), 48, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*given_tensors), torchs(*given_tensors), rtol=1e-5, atol=1e-5)


@every_function
def test_views_and_expanded_gradients(ours, torchs):
    x, weight, bias = tensors((3, 4, 5), 64, 96)
    x, weight = x.permute(0, 2, 1, 3)[..., ::2], weight[:, ::2][32:]
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias[32:])]
    ours(*leaves).sum().backward()
    exact = [t.detach().double().requires_grad_() for t in leaves]
    torchs(*exact).sum().backward()
    for one, other in zip(leaves, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-4)


def test_only_the_gradients_that_are_wanted(library):
    x, weight, bias = tensors((1, 4, 5), 32, 48)
    y = linear(x, weight.requires_grad_(), bias)
    y.sum().backward()
    assert x.grad is None
    assert bias.grad is None
    torch.testing.assert_close(weight.grad, x.sum((0, 1, 2)).expand(48, 32), rtol=1e-5, atol=1e-5)


def test_a_second_derivative():
    x, weight, _ = tensors((1, 2, 3), 16, 16)
    results = []

    def ours(a, b):
        return linear_add(a, b, None, linear(a, b))

    for function, dtype in ((ours, torch.float32), (lambda a, b: 2 * F.linear(a, b), torch.float64)):
        a, b = x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        (first,) = torch.autograd.grad(function(a, b).square().sum(), a, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), b)[0])
    torch.testing.assert_close(results[0].double(), results[1], rtol=1e-4, atol=1e-4)


def test_other_dtypes_devices_and_autocast_are_torchs():
    x, weight, bias = tensors((1, 4, 5), 32, 48)
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert linear(x.to('meta'), weight.to('meta'), None).device.type == 'meta'
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x[:0], weight, bias).shape == (0, 4, 5, 48)
    with pytest.raises(RuntimeError, match='shapes'):
        linear(x[..., :20], weight, bias)


def test_compilers_and_exports_see_torchs_own_operator():
    x, weight, bias = tensors((1, 4, 5), 32, 48)

    class Layer(torch.nn.Module):
        def forward(self, x, weight, bias):
            return linear_silu(x, weight, bias)

    program = torch.export.export(Layer(), (x, weight, bias))
    assert 'mkldnn' not in str(program.graph)
    assert 'mkldnn' not in str(make_fx(linear, tracing_mode='fake')(x, weight, bias).graph)
    compiled = torch.compile(linear_silu, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, bias), F.silu(F.linear(x, weight, bias)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('differentiated', [False, True])
@pytest.mark.parametrize('function', ['linear', 'linear_silu', 'linear_add'])
def test_a_trace_is_made_of_torchs_own_operators(function, differentiated):
    x, weight, bias = tensors((1, 4, 5), 32, 48)
    x.requires_grad_(differentiated)
    layers = {
        'linear': lambda x: linear(x, weight, bias),
        'linear_silu': lambda x: linear_silu(x, weight, bias),
        'linear_add': lambda x: linear_add(x, weight, bias, torch.ones(x.shape[:-1] + (48,))),
    }
    traced = torch.jit.trace(layers[function], x, check_trace=False)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert all(kind.startswith(('aten::', 'prim::')) and kind != 'prim::PythonOp' for kind in kinds)
    torch.testing.assert_close(traced(2 * x), layers[function](2 * x), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_the_environment_variable_and_the_context_choose(library):
    x, weight, bias = tensors((1, 64, 64), 96, 96)
    used = products._by_onednn(x, weight, bias)
    assert used == (library == 'onednn')
    with using('torch'):
        assert not products._by_onednn(x, weight, bias)


@needs_onednn
@pytest.mark.parametrize('scan', ['torch', 'c', 'auto'])
def test_the_variable_of_the_scan_does_not_choose_products(library, monkeypatch, scan):
    monkeypatch.setenv('VMAMBAIR_SCAN', scan)
    assert products._by_onednn(*tensors((1, 64, 64), 96, 96)) == (library == 'onednn')


@needs_onednn
@pytest.mark.parametrize(
    ('amd', 'shape', 'by_onednn'),
    [(True, (64, 64, 96, 96), True), (True, (8, 8, 96, 96), False), (False, (64, 64, 96, 96), False)],
    ids=['large on AMD', 'small on AMD', 'large elsewhere'],
)
def test_the_vendor_and_the_size_choose(monkeypatch, amd, shape, by_onednn):
    monkeypatch.delenv(products.ENV)
    monkeypatch.setattr(products, '_is_amd', lambda: amd)
    monkeypatch.setattr(torch.backends.mkl, 'is_available', lambda: True)
    height, width, c, o = shape
    assert products._by_onednn(*tensors((1, height, width), c, o)) == by_onednn


def test_a_library_that_does_not_exist(monkeypatch):
    monkeypatch.setenv(products.ENV, 'blas')
    with pytest.raises(ValueError, match='VMAMBAIR_PRODUCTS=blas is not one of auto, torch, onednn'):
        products.library()


def test_a_torch_without_the_operator_does_without(monkeypatch):
    monkeypatch.setenv(products.ENV, 'onednn')
    monkeypatch.setattr(products, '_has_onednn', lambda: False)
    assert products.library() == 'torch'


@needs_onednn
def test_a_network_is_the_same_with_either_library():
    program = """
import torch
from vmambair_arch import VmambaIR
torch.manual_seed(0)
network = VmambaIR(dim=16, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, d_state=4)
x = torch.rand(1, 3, 24, 16)
loss = network(x).square().sum()
loss.backward()
print(loss.item(), sum(p.grad.abs().sum().item() for p in network.parameters()))
"""
    values = []
    for name in ('torch', 'onednn'):
        result = subprocess.run(
            [sys.executable, '-c', program],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {products.ENV: name},
        )
        values.append([float(number) for number in result.stdout.split()])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize(
    ('capability', 'wanted'),
    [('AVX512', products.SMALLEST), ('AVX2', products.SMALLEST_AVX2), ('DEFAULT', products.SMALLEST_AVX2)],
)
def test_what_is_small_depends_on_the_width_of_the_vectors(capability, wanted, monkeypatch):
    monkeypatch.delenv(products.ENV)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    products._smallest.cache_clear()
    assert products._smallest() == wanted
