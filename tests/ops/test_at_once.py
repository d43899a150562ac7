"""Operators without the dispatcher: the same bits, and whoever wants to see an operator still does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import scan_inputs
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from vmambair_arch.archs.oss_block import BlockOptions, OSSBlock
from vmambair_arch.ops import ScanInputs, at_once, c_library, depthwise, omni_scan, scan_operator
from vmambair_arch.ops.torch_depthwise import GELU_GATE, SILU

pytestmark = pytest.mark.skipif(not c_library.isa_names(), reason='the C kernels were not built (no compiler)')

OURS = ('c_scan', 'depthwise')


@pytest.fixture
def block() -> OSSBlock:
    torch.manual_seed(0)
    return OSSBlock(16, BlockOptions(d_state=2))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 5, 6, 16, generator=torch.Generator().manual_seed(0))


class Names(TorchDispatchMode):
    """The operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def seen_by_a_mode(block: OSSBlock, x: Tensor) -> Iterable[str]:
    with Names() as names:
        block(x).sum().backward()
    return names.seen


def seen_by_a_profiler(block: OSSBlock, x: Tensor) -> Iterable[str]:
    with profile() as profiler:
        block(x).sum().backward()
    return [event.key for event in profiler.key_averages()]


class Functions(TorchFunctionMode):
    """As `Names`, before anything is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def seen_by_a_mode_of_functions(block: OSSBlock, x: Tensor) -> Iterable[str]:
    with Functions() as names:
        block(x)
    return names.seen


def seen_in_a_graph(block: OSSBlock, x: Tensor) -> Iterable[str]:
    return [str(node.target) for node in make_fx(block)(x).graph.nodes]


def seen_in_an_export(block: OSSBlock, x: Tensor) -> Iterable[str]:
    return [str(node.target) for node in torch.export.export(block, (x,)).graph.nodes]


LOOKING = [seen_by_a_mode, seen_by_a_mode_of_functions, seen_by_a_profiler, seen_in_a_graph, seen_in_an_export]


@pytest.mark.parametrize('see', LOOKING)
def test_who_looks_sees_operators(see: Callable[[OSSBlock, Tensor], Iterable[str]], block, x):
    names = list(see(block, x))
    for name in OURS:
        assert any(f'vmambair.{name}' in seen or f'vmambair::{name}' in seen for seen in names), names


@pytest.mark.parametrize('see', [seen_by_a_mode, seen_by_a_profiler])
def test_who_looks_sees_their_gradients(see: Callable[[OSSBlock, Tensor], Iterable[str]], block, x):
    names = list(see(block, x))
    for name in OURS:
        assert any(f'{name}_backward' in seen for seen in names), names


def test_tensors_without_numbers(block, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert isinstance(block(mode.from_tensor(x)), FakeTensor)


class Subclass(Tensor):
    """As those of other people's libraries."""


@pytest.mark.parametrize('wrap', [lambda t: t, lambda t: t.detach().requires_grad_(), torch.nn.Parameter])
def test_nobody_looks(wrap):
    y = omni_scan(ScanInputs(*(wrap(t) for t in scan_inputs(1, 2, 3, 4, 2, 1).values())), backend='c')
    assert not y.requires_grad or y.grad_fn.name() == 'ScanBackward'


def test_a_subclass_is_somebody():
    x = torch.zeros(2)
    assert at_once.computes_at_once(x, None, torch.nn.Parameter(x))
    assert not at_once.computes_at_once(x, x.as_subclass(Subclass))


def gradients(call: Callable[..., Tensor], tensors: list[Tensor | None], wanted: list[bool]) -> list[Tensor | None]:
    """The result, and the gradient of each tensor that is wanted."""
    leaves = [t if t is None else t.detach().requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
    y = call(*leaves)
    if y.requires_grad:
        weights = torch.arange(y.numel(), dtype=y.dtype).view_as(y).sin()  # scatters: not a gradient of ones
        (y * weights).sum().backward()
    return [y.detach(), *(None if t is None else t.grad for t in leaves)]


def both_ways(call: Callable[..., Tensor], tensors: list[Tensor | None], wanted: list[bool]) -> None:
    """The same bits with operators and without."""
    without = gradients(call, tensors, wanted)
    with pytest.MonkeyPatch.context() as patch:
        for module in (scan_operator, depthwise):
            patch.setattr(module, 'computes_at_once', lambda *tensors: False)
        through = gradients(call, tensors, wanted)
    for got, want in zip(without, through, strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.equal(got, want)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    channels=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    wanted=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_scans_have_the_same_bits(sizes, channels, dtype, wanted):
    tensors = list(scan_inputs(*sizes, channels, 3, 2).values())
    tensors[:2] = [t.to(dtype) for t in tensors[:2]]
    both_ways(lambda *t: omni_scan(ScanInputs(*t), backend='c'), tensors, wanted)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    activation=st.sampled_from([SILU, GELU_GATE]),
    biased=st.booleans(),
    wanted=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_convolutions_have_the_same_bits(sizes, activation, biased, wanted):
    generator = torch.Generator().manual_seed(0)
    shapes = (*sizes, 32), (32, 1, 3, 3), (32,)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    convolve = depthwise.depthwise_silu if activation == SILU else depthwise.depthwise_gelu_gate
    both_ways(convolve, tensors if biased else [*tensors[:2], None], wanted)


def test_gradients_that_are_not_there():
    inputs = [t.requires_grad_() for t in scan_inputs(1, 2, 3, 4, 2, 1).values()]
    x = torch.randn(1, 2, 3, 16, requires_grad=True)
    weight = torch.randn(16, 1, 3, 3, requires_grad=True)

    class Dropped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            return y.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> None:
            return None

    for y, of in ((omni_scan(ScanInputs(*inputs), backend='c'), inputs), (depthwise.depthwise_silu(x, weight), [x])):
        assert torch.autograd.grad(Dropped.apply(y).sum(), of, allow_unused=True) == (None,) * len(of)


# --- tensors that are not what they seem -----------------------------------------------------------------------------


class Int8(Tensor):
    """A weight that is held as whole numbers, and becomes an ordinary tensor in whatever is computed."""

    whole: Tensor
    step: Tensor

    @staticmethod
    def __new__(cls, t: Tensor) -> Int8:
        return Tensor._make_wrapper_subclass(cls, t.shape, dtype=t.dtype)

    def __init__(self, t: Tensor) -> None:
        self.step = t.detach().abs().max() / 127
        self.whole = (t.detach() / self.step).round().to(torch.int8)

    def full(self) -> Tensor:
        return self.whole.float() * self.step

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        args, kwargs = tree_map(lambda t: t.full() if isinstance(t, Int8) else t, (args, kwargs or {}))
        return func(*args, **kwargs)

    __torch_function__ = torch._C._disabled_torch_function_impl


STANDING_FOR = {
    'itself': lambda t: t,
    'the opposite': lambda t: torch._neg_view(-t),
    'an imaginary part': lambda t: torch.complex(t, -t).conj().imag,
    'zeros': lambda t: torch._efficientzerotensor(t.shape),
    'whole numbers': Int8,
}


def _plain(t: Tensor) -> Tensor:
    return t.full() if isinstance(t, Int8) else t.clone() + 0


@pytest.mark.parametrize('stand', STANDING_FOR.values(), ids=STANDING_FOR)
@pytest.mark.parametrize('place', range(-1, 6))
def test_scans_of_what_stands_for_something(place, stand):
    """place: of the tensor that is not plain; -1: the gradient."""
    inputs = list(scan_inputs(1, 3, 4, 16, 2, 1).values())
    odd = stand(inputs[place] if place >= 0 else torch.randn(1, 3, 4, 16))
    results = []
    for value in (odd, _plain(odd)):
        tensors = [value if i == place else t.clone().requires_grad_() for i, t in enumerate(inputs)]
        y = omni_scan(ScanInputs(*tensors), backend='c')
        leaves = [t for t in tensors if t.requires_grad]
        results.append([y, *torch.autograd.grad(y, leaves, value if place < 0 else torch.ones_like(y))])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(_plain(got), wanted)


@pytest.mark.parametrize('stand', STANDING_FOR.values(), ids=STANDING_FOR)
@pytest.mark.parametrize('place', range(-1, 3))
def test_convolutions_of_what_stands_for_something(place, stand):
    inputs = [torch.randn(1, 3, 4, 16), torch.randn(16, 1, 3, 3), torch.randn(16)]
    odd = stand(inputs[place] if place >= 0 else torch.randn(1, 3, 4, 16))
    results = []
    for value in (odd, _plain(odd)):
        tensors = [value if i == place else t.clone().requires_grad_() for i, t in enumerate(inputs)]
        y = depthwise.depthwise_silu(*tensors)
        leaves = [t for t in tensors if t.requires_grad]
        results.append([y, *torch.autograd.grad(y, leaves, value if place < 0 else torch.ones_like(y))])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(_plain(got), wanted)


def test_what_was_saved_comes_back_as_something_else():
    inputs = [torch.randn(1, 3, 4, 16), torch.randn(16, 1, 3, 3), torch.randn(16)]
    with torch.autograd.graph.saved_tensors_hooks(Int8, lambda t: t):
        leaves = [t.clone().requires_grad_() for t in inputs]
        got = torch.autograd.grad(depthwise.depthwise_silu(*leaves).sum(), leaves)
    leaves = [Int8(t).full().requires_grad_() for t in inputs]
    wanted = torch.autograd.grad(depthwise.depthwise_silu(*leaves).sum(), leaves)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize('of', ['scan', 'convolution', 'block'])
def test_gradients_of_a_batch(of, block, x):
    inputs = ScanInputs(*scan_inputs(1, 2, 3, 16, 2, 1).values())
    functions = {
        'scan': lambda t: omni_scan(inputs._replace(x=t), backend='c')[0, 0, 0, :4],
        'convolution': lambda t: depthwise.depthwise_silu(t, torch.ones(16, 1, 3, 3))[0, 0, 0, :4],
        'block': lambda t: block(t)[0, 0, 0, :4],
    }
    at = inputs.x if of == 'scan' else x
    one, several = (torch.autograd.functional.jacobian(functions[of], at, vectorize=v) for v in (False, True))
    torch.testing.assert_close(several, one)
