"""A fused scan as a torch operator with a gradient: what the backends with kernels of their own share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_LIBRARY = torch.library.Library('vmambair', 'FRAGMENT')
_TENSORS = 'Tensor x, Tensor x_dbl, Tensor dt_weight, Tensor dt_bias, Tensor A, Tensor D'
_GRADIENTS = ', '.join(['Tensor'] * 6)


def define(
    name: str,
    devices: Sequence[str],
    forward: Callable[..., tuple[Tensor, Tensor]],
    backward: Callable[..., tuple[Tensor, ...]],
    states_shape: Callable[[Tensor, Tensor, Tensor, Sequence[int]], tuple[int, ...]],
) -> None:
    """Make `torch.ops.vmambair.<name>`, an operator like any other for autograd, torch.compile, torch.export and fakes.

    Args:
        name: of the operator; its gradient is `<name>_backward`.
        devices: dispatch keys that it serves, 'CPU' or 'CUDA'.
        forward: (x, x_dbl, dt_weight, dt_bias, A, D, directions, keep_states) -> y and the states that the backward
            pass goes on from, both as `empty_results` makes them.
        backward: (grad_y, x, x_dbl, dt_weight, dt_bias, A, D, states, directions) -> gradients of the six tensors.
            Takes empty states as a reason to compute them again.
        states_shape: (x, dt_weight, A, directions) -> shape of the states.
    """

    def forward_fake(*inputs: Tensor | Sequence[int] | bool) -> tuple[Tensor, Tensor]:
        x, _, dt_weight, _, A, _, directions, keep_states = inputs
        return empty_results(x, states_shape(x, dt_weight, A, directions), keep_states)

    def backward_fake(grad_y: Tensor, *inputs: Tensor | Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(t.new_empty(t.shape) for t in inputs[:6])

    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, directions, _ = inputs
        ctx.save_for_backward(*tensors, output[1])
        ctx.directions = directions
        ctx.set_materialize_grads(False)  # the states get no gradient: no array of zeros for it

    def autograd_backward(ctx, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * 8
        operator = getattr(torch.ops.vmambair, f'{name}_backward')
        return *operator(grad_y, *ctx.saved_tensors, ctx.directions), None, None

    def no_second_derivative(ctx, *grads: Tensor | None) -> None:
        raise RuntimeError(f"{name} has no second derivative; use omni_scan(..., backend='torch') where one is needed")

    forward_name, backward_name = f'vmambair::{name}', f'vmambair::{name}_backward'
    for schema in (
        f'{name}({_TENSORS}, int[] directions, bool keep_states) -> (Tensor, Tensor)',
        f'{name}_backward(Tensor grad_y, {_TENSORS}, Tensor states, int[] directions) -> ({_GRADIENTS})',
    ):
        _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for device in devices:
        _LIBRARY.impl(name, forward, device)
        _LIBRARY.impl(f'{name}_backward', backward, device)
    torch.library.register_fake(forward_name, forward_fake, lib=_LIBRARY)
    torch.library.register_fake(backward_name, backward_fake, lib=_LIBRARY)
    torch.library.register_autograd(forward_name, autograd_backward, setup_context=setup_context, lib=_LIBRARY)
    torch.library.register_autograd(backward_name, no_second_derivative, lib=_LIBRARY)


def empty_results(x: Tensor, states_shape: tuple[int, ...], keep_states: bool) -> tuple[Tensor, Tensor]:
    """Room for y, as large and of the dtype of x, and for the float32 states, of no size where they are not kept."""
    return x.new_empty(x.shape), x.new_empty(states_shape if keep_states else (0,), dtype=torch.float32)
