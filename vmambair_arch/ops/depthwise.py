"""Depthwise 3x3 convolutions with the activation that follows them, on channels-last maps.

On a CPU, in float32 and where the C kernels were built, convolution and activation are one pass over memory, and so
they are on a GPU where the Triton kernels were tried and are right (`self_check`); elsewhere they are torch's. Same
numbers either way, to the rounding of the dtype. `VMAMBAIR_DEPTHWISE=torch` (or triton) names one for GPUs.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Sequence
from ctypes import c_int32, c_int64, c_void_p
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import c_library, fallback, faults, self_check, torch_depthwise
from .at_once import computes_at_once, is_differentiated
from .selective_scan import (
    DEPTHWISE,
    Backend,
    Choice,
    best,
    constant_result,
    is_transformed,
    left_to_torch,
    named_by,
    take,
    using_now,
    with_index,
)
from .torch_depthwise import GELU_GATE, SILU

logger = logging.getLogger('vmambair_arch')

MIN_CHANNELS = 16
"""Fewer than a vector (`DEPTHWISE_MIN_CHANNELS`) are left to torch."""
ELEMENTS_PER_THREAD = 1 << 16


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """silu(convolution of x), zero padding.

    Args:
        x: (b, h, w, c).
        weight: (c, 1, 3, 3).
        bias: (c,) or None.

    Returns:
        (b, h, w, c).
    """
    if _can_fuse(x, weight, bias, SILU):
        return _fused(x, weight, bias, SILU)
    return _elsewhere(x, weight, bias, SILU)


def depthwise_gelu_gate(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """gelu(a) * b of the halves a, b = convolution of x; zero padding, the exact GELU.

    Args:
        x: (b, h, w, 2c).
        weight: (2c, 1, 3, 3).
        bias: (2c,) or None.

    Returns:
        (b, h, w, c).
    """
    if _can_fuse(x, weight, bias, GELU_GATE):
        return _fused(x, weight, bias, GELU_GATE)
    return _elsewhere(x, weight, bias, GELU_GATE)


def _can_fuse(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> bool:
    return (
        x.device.type == weight.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32  # what does not fit together is for torch to refuse
        and (bias is None or (bias.dtype == torch.float32 and bias.device.type == 'cpu'))
        and x.ndim == 4
        and x.shape[-1] >= MIN_CHANNELS * (1 if activation == SILU else 2)
        and _fits(x, weight, bias, activation)
        and not torch.is_autocast_enabled('cpu')
        and _has_kernel()
        and not is_transformed()
    )


@constant_result
def _has_kernel() -> bool:
    """Whether the C kernels are there and nobody asks for torch's operators alone.

    `VMAMBAIR_SCAN` is about the scan: whatever it names, these stay as fast as they are. So they do whatever
    `VMAMBAIR_DEPTHWISE` names, which is for GPUs, but for what is no way at all.
    """
    _named()
    return c_library.why_not() is None and not left_to_torch()


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return _convolve(x, weight, bias, activation)


# --- on a GPU --------------------------------------------------------------------------------------------------------

ENV = 'VMAMBAIR_DEPTHWISE'
WAYS: tuple[Backend, ...] = (
    Backend('triton', 'triton_depthwise', ('cuda',), 'pip install triton (on Windows: triton-windows)'),
    Backend('torch', 'torch_depthwise', (), 'pip install torch'),
)
"""As the backends of the scan: the first that is right, unless another is clearly faster."""
DEVICES = ('cuda',)
"""Kinds of device that have another way than torch, but for the CPU with its C kernels."""
_CHOICES: dict[tuple[str, torch.dtype, str], Choice] = {}
_CHOOSING = threading.RLock()


def choose_depthwise(device: torch.device, dtype: torch.dtype, *, fresh: bool = False) -> Choice:
    """The way to convolve tensors of `dtype` on a GPU; the first choice tries what is there, as `choose` does.

    Args:
        fresh: try again, whatever is remembered.

    Raises:
        ValueError: the variable names an unknown way, or one that cannot be used on this device.
    """
    device, wanted = with_index(device), _named()
    key = str(device), dtype, wanted
    with _CHOOSING:
        if fresh:
            fallback.forgive(lambda name: name == DEPTHWISE, device, dtype)
        if fresh or key not in _CHOICES:
            _CHOICES[key] = _choose(device, dtype, wanted, fresh)
        choice = _CHOICES[key]
    failed = fallback.failure('depthwise', device, dtype) if wanted == 'auto' else None
    return Choice(WAYS[-1], f"'{choice.backend.name}' failed: {failed}") if failed else choice


def settle_depthwise(device: torch.device, dtype: torch.dtype, name: str, why: str) -> str | None:
    """Convolve as somebody else chose: rank 0 for all ranks, an interrupted training for its continuation.

    Args:
        why: what `Choice.why` is to say.

    Returns:
        Why that cannot be; None where it is done.
    """
    with _CHOOSING:
        return take(_CHOICES, WAYS, ENV, 'depthwise', device, dtype, name, why)


def forget_depthwise() -> None:
    """Choose anew at the next use; verdicts on disk stay."""
    with _CHOOSING:
        _CHOICES.clear()
        fallback.forget(lambda name: name == DEPTHWISE)


def _named() -> str:
    """The way that the variable names, or 'auto'."""
    wanted, names = named_by(ENV), [way.name for way in WAYS]
    if wanted not in ('auto', *names):
        raise ValueError(f"{ENV}={wanted} is no way to convolve; use 'auto' or one of {', '.join(names)}")
    return wanted


def _choose(device: torch.device, dtype: torch.dtype, wanted: str, fresh: bool) -> Choice:
    if wanted != 'auto':
        way = next(way for way in WAYS if way.name == wanted)
        if why_not := way.unavailable(device, dtype):
            raise ValueError(f'{ENV}={wanted} cannot be used: {why_not}. Fix: {way.fix(why_not)}')
        return Choice(way, f'{ENV}={wanted}')
    missing = tuple((way, why_not) for way in WAYS if (why_not := way.unavailable(device, dtype)))
    there = [way for way in WAYS if all(way is not other for other, _ in missing)]
    if len(there) == 1:
        return Choice(there[0], 'the only one here', missing)
    candidates = [self_check.Candidate(way.name, f'.{way.module}', way.name != 'torch', 'depthwise') for way in there]
    verdicts = self_check.check(device, dtype, candidates, fresh=fresh)
    way, why = best(there, verdicts)
    for verdict in verdicts:
        if way.name == 'torch' and verdict.name != 'torch' and not verdict.right:
            logger.warning(
                "depthwise convolutions on %s in %s: 'torch' is used. %s %s: %s. Fix: %s",
                device, str(dtype).removeprefix('torch.'), verdict.name, verdict.outcome, verdict.reason,
                faults.fix(verdict.reason) or 'report it with what `vmambair doctor` says',
            )  # fmt: skip
            break
    if way.name != 'torch':
        fallback.guard('depthwise', device, dtype)
    return Choice(way, why, missing, verdicts)


@constant_result
def _way(device: str, dtype: torch.dtype) -> str:
    """The name of the way for a device; inside a `using` block of another scan than a GPU's own it is torch's."""
    if using_now() not in (None, 'triton', 'mamba'):
        return 'torch'
    way = choose_depthwise(torch.device(device), dtype).backend
    way.load()  # torch.compile cannot follow an import
    return way.name


def _elsewhere(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """Where there are no C kernels: on a GPU by its own, else by torch."""
    if x.device.type not in DEVICES or weight.device != x.device or x.ndim != 4:
        return torch_depthwise.depthwise(x, weight, bias, activation)
    autocast = torch.is_autocast_enabled(x.device.type)
    # What does not fit together is for torch to refuse.
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    fits = (autocast or weight.dtype == x.dtype) and dtype in HALF_AND_SINGLE and _fits(x, weight, bias, activation)
    where = x.device.type if x.device.index is None else f'{x.device.type}:{x.device.index}'
    if not fits or torch.jit.is_tracing() or is_transformed() or _way(where, dtype) != 'triton':
        return torch_depthwise.depthwise(x, weight, bias, activation)
    return _DEFINED['triton_depthwise'](x.to(dtype), weight, bias, activation)


HALF_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> bool:
    c = x.shape[-1]
    return (
        x.is_floating_point()
        and weight.dtype in HALF_AND_SINGLE
        and tuple(weight.shape) == (c, 1, 3, 3)
        and (bias is None or tuple(bias.shape) == (c,))
        and (activation == SILU or c % 2 == 0)
    )


# --- what the operators do -------------------------------------------------------------------------------------------


class _Problem(ctypes.Structure):
    """`depthwise_problem` of csrc/depthwise.h."""

    _fields_ = (
        *((name, c_int64) for name in ('b', 'h', 'w', 'c')),
        *((name, c_void_p) for name in ('x', 'weight', 'bias', 'zeros', 'out')),
        ('activation', c_int32),
        ('threads', c_int32),
    )


@lru_cache(maxsize=1)
def _functions() -> ctypes.CDLL:
    library = c_library.library()
    library.vmambair_depthwise_forward.argtypes = [ctypes.POINTER(_Problem)]
    library.vmambair_depthwise_backward.argtypes = [ctypes.POINTER(_Problem), *[c_void_p] * 4]
    return library


def _problem(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None, activation: int) -> _Problem:
    """Pointers into contiguous tensors, which the caller keeps alive."""
    return _Problem(
        *x.shape, x.data_ptr(), weight.data_ptr(), bias.data_ptr() if bias is not None else None, None,
        out.data_ptr() if out is not None else None, activation,
        max(1, min(torch.get_num_threads(), x.numel() // ELEMENTS_PER_THREAD)),
    )  # fmt: skip


def _check(failed: int) -> None:
    if failed:
        raise MemoryError('the depthwise kernel got no memory for its sums')


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    x, weight, out = x.contiguous(), weight.contiguous(), empty_output(x, weight, bias, activation)
    if out.numel():
        bias = bias.contiguous() if bias is not None else None
        _check(_functions().vmambair_depthwise_forward(_problem(x, weight, bias, out, activation)))
    return out


def empty_output(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """Room for the result."""
    b, h, w, c = x.shape
    return x.new_empty(b, h, w, c // 2 if activation == GELU_GATE else c)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, grad = x.contiguous(), weight.contiguous(), grad.contiguous()
    grad_x, grad_weight, grad_bias = grads = empty_gradients(grad, x, weight, bias, activation)
    if not x.numel():
        return grad_x, grad_weight.zero_(), grad_bias.zero_()
    bias = bias.contiguous() if bias is not None else None
    problem = _problem(x, weight, bias, None, activation)
    _check(_functions().vmambair_depthwise_backward(problem, *(t.data_ptr() for t in (grad, *grads))))
    return grad_x, grad_weight, grad_bias


def empty_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of x, weight and bias."""
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


Forward = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor | None, int], tuple[Tensor, Tensor, Tensor]]
_OPERATORS = torch.library.Library('vmambair', 'FRAGMENT')
_DEFINED: dict[str, Forward] = {}
"""What `define` returned, by the name of the operator."""


def define(name: str, devices: Sequence[str], forward: Forward, backward: Backward) -> Forward:
    """Make `torch.ops.vmambair.<name>`, (x, weight, bias, activation) -> out, with its gradient.

    Args:
        name: of the operator; its gradient is `<name>_backward`.
        devices: dispatch keys that it is for, 'CPU' or 'CUDA'.
        forward: makes what `empty_output` makes room for.
        backward: (grad, x, weight, bias, activation) -> what `empty_gradients` makes room for.

    Returns:
        What calls the operator, or the same functions without it where nobody would see the difference.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.activation = inputs
        ctx.save_for_backward(x, weight, bias)
        ctx.set_materialize_grads(False)

    def autograd_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 4
        x, weight, bias = ctx.saved_tensors
        operator = getattr(torch.ops.vmambair, f'{name}_backward')
        at_once = not torch.is_grad_enabled() and computes_at_once(grad, x, weight, bias)
        run = backward if at_once else operator
        grads = run(grad, x, weight, bias, ctx.activation)
        return grads[0], grads[1], grads[2] if bias is not None else None, None

    def setup_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad, x, weight, bias, ctx.activation = inputs
        ctx.save_for_backward(grad, x, weight, bias)
        ctx.set_materialize_grads(False)

    def second(ctx: Any, *ups: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_second_derivative(ctx.saved_tensors, ctx.activation, ups), None

    tensors = 'Tensor x, Tensor weight, Tensor? bias, int activation'
    for schema in (
        f'{name}({tensors}) -> Tensor',
        f'{name}_backward(Tensor grad, {tensors}) -> (Tensor, Tensor, Tensor)',
    ):
        _OPERATORS.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for device in devices:
        _OPERATORS.impl(name, forward, device)
        _OPERATORS.impl(f'{name}_backward', backward, device)
    torch.library.register_fake(f'vmambair::{name}', empty_output, lib=_OPERATORS)
    torch.library.register_fake(f'vmambair::{name}_backward', empty_gradients, lib=_OPERATORS)
    torch.library.register_autograd(f'vmambair::{name}', autograd_backward, setup_context=setup_context, lib=_OPERATORS)
    torch.library.register_autograd(f'vmambair::{name}_backward', second, setup_context=setup_second, lib=_OPERATORS)

    class Convolution(torch.autograd.Function):
        """The operator, as autograd alone needs it."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            output = forward(*inputs)
            setup_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
            return autograd_backward(ctx, grad)

    def call(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
        inputs = x, weight, bias, activation
        if not computes_at_once(x, weight, bias):
            out: Tensor = getattr(torch.ops.vmambair, name)(*inputs)
        elif is_differentiated(x, weight, bias):
            out = Convolution.apply(*inputs)
        else:
            out = forward(*inputs)
        return out

    _DEFINED[name] = call
    return call


def _second_derivative(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], activation: int, ups: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of grad, x, weight and bias, given those of the three results of `backward`; by torch's operators.

    They can be differentiated again, as often as anybody likes, for they are made of torch's operators.
    """
    again = torch.is_grad_enabled()

    def leaf(t: Tensor) -> Tensor:
        # A view ends the differentiation in here, and goes on to what the tensor was made of out there.
        return t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()

    with torch.enable_grad():
        grad, x, weight = (leaf(t) for t in inputs[:3])
        bias = inputs[3]
        added = leaf(weight.new_zeros(weight.shape[0]) if bias is None else bias)
        with torch.autocast(x.device.type, enabled=False):
            y = torch_depthwise.depthwise(x, weight.to(x.dtype), added.to(x.dtype), activation)
        wanted = [(of, up) for of, up in zip((x, weight, added), ups, strict=True) if up is not None]
        firsts = torch.autograd.grad(y, [of for of, _ in wanted], grad, create_graph=True)
        of_grad, of_x, of_weight, of_bias = torch.autograd.grad(
            firsts, [grad, x, weight, added], [up for _, up in wanted], create_graph=again, allow_unused=True
        )
    return of_grad, of_x, of_weight, None if bias is None else of_bias


_convolve = define('depthwise', ['CPU'], _forward, _backward)
