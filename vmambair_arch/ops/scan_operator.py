"""A fused scan as a torch operator with a gradient: what the backends with kernels of their own share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import at_once
from .at_once import computes_at_once
from .reference import ScanInputs

_LIBRARY = torch.library.Library('vmambair', 'FRAGMENT')
_COUNT = len(ScanInputs._fields)
_TENSORS = ', '.join(f'Tensor {name}' for name in ScanInputs._fields)
_GRADIENTS = ', '.join(['Tensor'] * _COUNT)


def define(
    name: str,
    devices: Sequence[str],
    forward: Callable[[ScanInputs, Sequence[int], bool], tuple[Tensor, Tensor]],
    backward: Callable[[Tensor, ScanInputs, Tensor, Sequence[int]], ScanInputs],
    states_shape: Callable[[ScanInputs, Sequence[int]], tuple[int, ...]],
) -> Callable[[ScanInputs, Sequence[int]], Tensor]:
    """Make `torch.ops.vmambair.<name>`, an operator like any other for autograd, torch.compile, torch.export and fakes.

    Args:
        name: of the operator; its gradient is `<name>_backward`.
        devices: dispatch keys that it is for, 'CPU' or 'CUDA'.
        forward: (inputs, directions, keep_states) -> y and the states that the backward pass goes on from, both as
            `empty_results` makes them.
        backward: (grad_y, inputs, states, directions) -> gradients of the inputs. Takes empty states as a reason to
            compute them again.
        states_shape: (inputs, directions) -> shape of the states.

    Returns:
        (inputs, directions) -> y, of the operator, or of the same functions without it where nobody would see the
        difference (`computes_at_once`): half the time of small scans goes to its dispatch.
    """

    # Operators take tensors, one after the other; the functions of a backend take them by name.
    def forward_flat(*flat: Any) -> tuple[Tensor, Tensor]:
        return forward(ScanInputs(*flat[:_COUNT]), *flat[_COUNT:])

    def backward_flat(grad_y: Tensor, *flat: Any) -> tuple[Tensor, ...]:
        return tuple(backward(grad_y, ScanInputs(*flat[:_COUNT]), *flat[_COUNT:]))

    def forward_fake(*flat: Any) -> tuple[Tensor, Tensor]:
        inputs, (directions, keep_states) = ScanInputs(*flat[:_COUNT]), flat[_COUNT:]
        return empty_results(inputs.x, states_shape(inputs, directions), keep_states)

    def backward_fake(grad_y: Tensor, *flat: Any) -> tuple[Tensor, ...]:
        return tuple(t.new_empty(t.shape) for t in flat[:_COUNT])

    def save(ctx: Any, tensors: Sequence[Tensor], states: Tensor, directions: Sequence[int]) -> None:
        ctx.save_for_backward(*tensors, states)
        ctx.directions = directions
        ctx.set_materialize_grads(False)  # the states get no gradient: no array of zeros for it

    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, directions, _ = inputs
        save(ctx, tensors, output[1], directions)

    def autograd_backward(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * (_COUNT + 2)
        operator = getattr(torch.ops.vmambair, f'{name}_backward')
        saved = ctx.saved_tensors
        at_once = not torch.is_grad_enabled() and computes_at_once(grad_y, *saved)
        run = backward_flat if at_once else operator
        return *run(grad_y, *saved, ctx.directions), None, None

    def no_second_derivative(ctx: Any, *grads: Tensor | None) -> None:
        refuse_second_derivative(name)

    forward_name, backward_name = f'vmambair::{name}', f'vmambair::{name}_backward'
    for schema in (
        f'{name}({_TENSORS}, int[] directions, bool keep_states) -> (Tensor, Tensor)',
        f'{name}_backward(Tensor grad_y, {_TENSORS}, Tensor states, int[] directions) -> ({_GRADIENTS})',
    ):
        _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for device in devices:
        _LIBRARY.impl(name, forward_flat, device)
        _LIBRARY.impl(f'{name}_backward', backward_flat, device)
    torch.library.register_fake(forward_name, forward_fake, lib=_LIBRARY)
    torch.library.register_fake(backward_name, backward_fake, lib=_LIBRARY)
    torch.library.register_autograd(forward_name, autograd_backward, setup_context=setup_context, lib=_LIBRARY)
    torch.library.register_autograd(backward_name, no_second_derivative, lib=_LIBRARY)

    class Scan(torch.autograd.Function):
        """The operator, as autograd alone needs it."""

        @staticmethod
        def forward(ctx: Any, directions: Sequence[int], *flat: Any) -> Tensor:
            y, states = forward(ScanInputs(*flat), directions, True)
            save(ctx, flat, states, directions)
            return y

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
            return None, *autograd_backward(ctx, grad_y, None)[:_COUNT]

    def scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
        differentiated = is_differentiated(inputs)
        if not computes_at_once(*inputs):
            # The backward pass takes states that were not kept as a reason to compute them again.
            y: Tensor = getattr(torch.ops.vmambair, name)(*inputs, directions, differentiated)[0]
        elif differentiated:
            y = Scan.apply(directions, *inputs)
        else:
            y, _ = forward(inputs, directions, False)
        return y

    return scan


def refuse_second_derivative(name: str) -> NoReturn:
    """Raise where the second derivative of a scan is taken that has none."""
    raise RuntimeError(f"{name} has no second derivative; use omni_scan(..., backend='torch') where one is needed")


def is_differentiated(inputs: ScanInputs) -> bool:
    """Whether a gradient of a scan of these may be asked for; of a trace, which has one answer for ever, it is not."""
    return not torch.jit.is_tracing() and at_once.is_differentiated(*inputs)


def empty_results(x: Tensor, states_shape: tuple[int, ...], keep_states: bool) -> tuple[Tensor, Tensor]:
    """Room for y, as large and of the dtype of x, and for the float32 states, of no size where they are not kept."""
    return x.new_empty(x.shape), x.new_empty(states_shape if keep_states else (0,), dtype=torch.float32)
