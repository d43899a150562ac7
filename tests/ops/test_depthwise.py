"""Depthwise convolutions with their activation: the C kernels against torch in float64, for every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vmambair_arch.ops import c_library, depthwise, depthwise_gelu_gate, depthwise_silu, using

needs_kernel = pytest.mark.skipif(not c_library.isa_names(), reason='the C kernels were not built (no compiler)')
FUNCTIONS = {'silu': depthwise_silu, 'gelu_gate': depthwise_gelu_gate}


@pytest.fixture(params=c_library.isa_names() or ['none'])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == 'none':
        pytest.skip('the C kernels were not built (no compiler)')
    c_library.select_isa(request.param)
    yield request.param
    c_library.select_isa(c_library.isa_names()[0])


def _plain(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)
    if name == 'silu':
        return y * torch.sigmoid(y)
    a, b = y.chunk(2, -1)
    return 0.5 * a * (1 + torch.erf(a / 2**0.5)) * b


def _inputs(b: int, h: int, w: int, c: int, bias: bool, size: float = 3.0) -> list[Tensor | None]:
    torch.manual_seed(b * h + w * c)
    x = size * torch.randn(b, h, w, c)
    return [x, torch.randn(c, 1, 3, 3), torch.randn(c) if bias else None]


def _check(name: str, inputs: list[Tensor | None], tolerance: float = 1e-5) -> None:
    leaves = [t if t is None else t.clone().requires_grad_() for t in inputs]
    exact = [t if t is None else t.double().requires_grad_() for t in inputs]
    y, expected = FUNCTIONS[name](*leaves), _plain(name, *exact)
    up = torch.randn(y.shape)
    y.backward(up)
    expected.backward(up.double())
    compared = [(y, expected), *((a.grad, b.grad) for a, b in zip(leaves, exact, strict=True) if a is not None)]
    for got, wanted in compared:
        # Terms are of size 1 to 10; where hundreds of them cancel, the rounding is theirs and not that of their sum.
        assert (got - wanted).abs().max() <= tolerance * max(wanted.abs().max(), 1)


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize(
    'shape', [(1, 1, 1, 32), (2, 5, 7, 34), (1, 17, 2, 254), (3, 3, 9, 42), (1, 33, 4, 96)], ids=str
)
@pytest.mark.parametrize('bias', [False, True])
def test_every_instruction_set(isa: str, name: str, shape: tuple[int, ...], bias: bool) -> None:
    _check(name, _inputs(*shape, bias))


@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    b=st.integers(1, 3), h=st.integers(1, 12), w=st.integers(1, 12), half=st.integers(1, 40), bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_shape(name: str, b: int, h: int, w: int, half: int, bias: bool) -> None:
    _check(name, _inputs(b, h, w, 2 * half, bias))


@needs_kernel
@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('size', [0.0, 1e-20, 50.0, 1e4])
def test_extreme_values_stay_exact_and_finite(isa: str, name: str, size: float) -> None:
    # The convolution itself is rounded to float32: what the activation gets is off by 1e-7 of its terms.
    _check(name, _inputs(1, 4, 5, 32, True, size), tolerance=5e-6 + 1e-6 * size)


@needs_kernel
def test_not_contiguous() -> None:
    x, weight, bias = _inputs(2, 6, 5, 32, True)
    turned = x.transpose(1, 2)
    assert torch.equal(depthwise_silu(turned, weight, bias), depthwise_silu(turned.contiguous(), weight, bias))


@needs_kernel
def test_equal_bits_for_any_number_of_threads() -> None:
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        leaves = [t.requires_grad_() for t in _inputs(2, 37, 41, 64, True)]
        y = depthwise_gelu_gate(*leaves)
        y.backward(torch.ones_like(y))
        results.append([y.detach(), *(t.grad for t in leaves)])
    torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@needs_kernel
@pytest.mark.parametrize('name', FUNCTIONS)
def test_torch_accepts_the_operator(name: str) -> None:
    x, weight, bias = _inputs(1, 4, 4, 32, True)
    inputs = (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), 1 if name == 'silu' else 2)
    torch.library.opcheck(torch.ops.vmambair.depthwise.default, inputs)


@needs_kernel
@pytest.mark.parametrize('function', FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    ('named', 'known'),
    [('torch', True), ('triton', True), (' AUTO ', True), ('', True), ('foo', False), ('c', False), ('tor ch', False)],
)
def test_a_way_that_there_is_not_is_refused_on_a_cpu_too(
    monkeypatch: pytest.MonkeyPatch, function: Callable, named: str, known: bool
) -> None:
    inputs = _inputs(1, 4, 4, 32, True)
    wanted = function(*inputs)
    monkeypatch.setenv(depthwise.ENV, named)
    if known:  # which of them is for GPUs
        assert torch.equal(function(*inputs), wanted)
        return
    with pytest.raises(ValueError, match=f'^{depthwise.ENV}={named} is no way to convolve'):
        function(*inputs)


@needs_kernel
def test_falls_back_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError('the C kernel was called')

    monkeypatch.setattr(depthwise, '_fused', refuse)
    x, weight, bias = _inputs(1, 4, 4, 32, True)
    exact = depthwise_silu(x.double(), weight.double(), bias.double())
    assert torch.allclose(exact.float(), _plain('silu', x, weight, bias), atol=1e-5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        depthwise_silu(x, weight, bias)
    with using('torch'):
        depthwise_gelu_gate(x, weight, bias)
    with pytest.raises(AssertionError):
        depthwise_silu(x, weight, bias)


def _derivatives(name: str, inputs: list[Tensor | None], order: int) -> list[Tensor]:
    """Gradients of a number made of the gradients of a number, and so on."""
    leaves = [t if t is None else t.clone().requires_grad_() for t in inputs]
    given = [t for t in leaves if t is not None]
    total = FUNCTIONS[name](*leaves).square().sum()
    for _ in range(order - 1):
        first = torch.autograd.grad(total, given, create_graph=True)
        total = sum(g.square().mean() for g in first)
    return list(torch.autograd.grad(total, given))


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('order', [2, 3])
def test_derivatives_of_derivatives(name: str, bias: bool, order: int) -> None:
    inputs = _inputs(1, 3, 4, 32, bias, 0.5)
    exact = [t if t is None else t.double() for t in inputs]
    for got, wanted in zip(_derivatives(name, inputs, order), _derivatives(name, exact, order), strict=True):
        assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('one', range(3))
def test_a_second_derivative_of_one_gradient_alone(name: str, one: int) -> None:
    """Some of what is differentiated is constant, and some gradients are not wanted."""
    results = []
    for dtype in (torch.float32, torch.float64):
        tensors = [t.to(dtype) for t in _inputs(1, 3, 4, 32, True, 0.5)]
        leaf = tensors[one].requires_grad_()
        (first,) = torch.autograd.grad(FUNCTIONS[name](*tensors).square().sum(), leaf, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    assert (results[0] - results[1]).abs().max() <= 2e-5 * results[1].abs().max()


def test_warnings_of_missing_derivatives_are_none(recwarn: pytest.WarningsRecorder) -> None:
    _derivatives('silu', _inputs(1, 3, 4, 32, True), 2)
    assert not [warning for warning in recwarn if 'autograd' in str(warning.message)]


@pytest.mark.parametrize('name', FUNCTIONS)
def test_other_kinds_of_derivatives_are_torchs(name: str) -> None:
    x, weight, bias = _inputs(1, 4, 4, 32, True)
    function = FUNCTIONS[name]

    def exactly(x: Tensor) -> Tensor:
        return _plain(name, x, weight, bias)

    def ours(x: Tensor) -> Tensor:
        return function(x, weight, bias)

    for kind in (lambda f: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
                 lambda f: torch.func.grad(lambda x: f(x).square().sum())(x),
                 lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x).square().sum()))(x[None].expand(2, *x.shape)),
                 lambda f: torch.func.vmap(f)(torch.stack([x, 2 * x]))):  # fmt: skip
        torch.testing.assert_close(kind(ours), kind(exactly), rtol=1e-4, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangents = [torch.autograd.forward_ad.unpack_dual(f(dual)).tangent for f in (ours, exactly)]
    torch.testing.assert_close(*tangents, rtol=1e-4, atol=1e-4)


def _outcome(name: str, arguments: list[Tensor | None]) -> Tensor | type[Exception]:
    try:
        return FUNCTIONS[name](*arguments)
    except Exception as error:
        return type(error)


_BIASES = {
    'bfloat16': lambda b: b.bfloat16(), 'float64': lambda b: b.double(), 'short': lambda b: b[:3],
    'long': lambda b: torch.cat([b, b]), 'one': lambda b: b[:1], 'rows': lambda b: b[None],
    'strided': lambda b: b.repeat_interleave(2)[::2], 'expanded': lambda b: b[:1].expand(len(b)),
}  # fmt: skip
_WEIGHTS = {
    'few': lambda w: w[:4], 'none': lambda w: w[:0], '5x5': lambda w: F.pad(w, (1, 1, 1, 1)),
    '3x1': lambda w: w[..., :1], 'full': lambda w: w.expand(-1, len(w), -1, -1), 'more': lambda w: torch.cat([w, w]),
    'flat': lambda w: w.flatten(1),
    'strided': lambda w: w.transpose(2, 3),
}  # fmt: skip


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize(
    ('place', 'change'),
    [(2, change) for change in _BIASES.values()] + [(1, change) for change in _WEIGHTS.values()],
    ids=[f'bias {kind}' for kind in _BIASES] + [f'weight {kind}' for kind in _WEIGHTS],
)
@pytest.mark.parametrize('channels', [32, 33])
def test_what_does_not_fit_is_torchs_to_read_or_refuse(name: str, place: int, change, channels: int) -> None:
    """The kernels read memory by what they are told: nothing may lie otherwise."""
    arguments = _inputs(1, 4, 5, channels, True)
    arguments[place] = change(arguments[place])
    got = _outcome(name, arguments)
    with using('torch'):
        wanted = _outcome(name, arguments)
    if isinstance(wanted, type):
        assert got is wanted
    else:
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('shape', [(5, 6, 32), (1, 1, 5, 6, 32), (6, 32)], ids=str)
def test_maps_of_other_dimensions_are_refused_by_torch(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError):
        FUNCTIONS[name](torch.ones(shape), torch.ones(32, 1, 3, 3))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_weights_of_another_dtype_are_refused_not_misread(dtype: torch.dtype) -> None:
    x, weight, bias = _inputs(1, 4, 4, 32, True)
    for function in FUNCTIONS.values():
        with pytest.raises(RuntimeError, match='type'):
            function(x, weight.to(dtype), bias)


@needs_kernel
def test_a_gradient_only_where_one_is_wanted() -> None:
    x, weight, _ = _inputs(1, 4, 4, 32, False)
    assert not depthwise_silu(x, weight).requires_grad
    assert depthwise_silu(x, weight.requires_grad_()).requires_grad
    with torch.inference_mode():
        assert not depthwise_silu(x, weight).requires_grad


@needs_kernel
def test_the_variable_that_names_a_scan_leaves_them_as_fast_as_they_are(monkeypatch):
    monkeypatch.setenv('VMAMBAIR_SCAN', 'torch')
    x, weight, bias = _inputs(1, 5, 6, 32, True)
    with torch.profiler.profile() as profile:
        depthwise_silu(x, weight, bias)
    assert any('vmambair::depthwise' in event.key for event in profile.key_averages())
