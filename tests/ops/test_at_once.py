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
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

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


def seen_in_a_graph(block: OSSBlock, x: Tensor) -> Iterable[str]:
    return [str(node.target) for node in make_fx(block)(x).graph.nodes]


def seen_in_an_export(block: OSSBlock, x: Tensor) -> Iterable[str]:
    return [str(node.target) for node in torch.export.export(block, (x,)).graph.nodes]


@pytest.mark.parametrize('see', [seen_by_a_mode, seen_by_a_profiler, seen_in_a_graph, seen_in_an_export])
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
