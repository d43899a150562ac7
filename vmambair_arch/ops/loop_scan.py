"""The omni selective scan as one loop node over the pixels, for graphs that leave Python: torch.export and ONNX.

torch's scan operator keeps the loop a loop of any length, where unrolled chunks would fix the size of the image and our
kernels mean nothing to other programs. It is not a backend for torch itself: one step at a time is slow there.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .reference import COLUMN_MAJOR, COLUMN_MAJOR_REVERSED, ROW_MAJOR_REVERSED, ScanInputs
from .scan_operator import is_differentiated, refuse_second_derivative

NEEDED = 'prefer_deferred_runtime_asserts_over_guards'
"""An option of torch.export.export that images of any size need; the scan operator is older (torch 2.6)."""
RIGHT_FROM = '2.14'
"""The scan operator of 2.9 to 2.12 has wrong gradients, which nothing says; that of 2.14 has right ones."""


def unavailable(device: torch.device | None = None, dtype: torch.dtype | None = None) -> str | None:
    """Why this torch cannot keep the loop in a graph; None where it can, on any device and in any dtype."""
    from torch.export import export

    options = inspect.signature(export).parameters
    known = importlib.util.find_spec('torch._higher_order_ops.scan') and NEEDED in options
    return None if known else f'the loop of torch.export needs torch 2.9 or newer, and this is {torch.__version__}'


def has_derivative() -> bool:
    """Whether this torch differentiates its loop rightly."""
    return torch.__version__ >= RIGHT_FROM


class _Refused(torch.autograd.Function):
    """The first of some tensors, which is a function of the others to autograd: one that has no derivative."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, *others: Tensor) -> Tensor:
        return first.view_as(first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        refuse_second_derivative('loop')


class _Once(torch.autograd.Function):
    """Its inputs, whose gradients have no derivative: torch's operator gives them one, and it is wrong."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        return tuple(t.view_as(t) for t in inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(_Refused.apply(grad, *ctx.saved_tensors) for grad in grads)


def omni_scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    """Arguments as in `vmambair_arch.ops.omni_scan`.

    Raises:
        RuntimeError: it is differentiated, and this torch would do that wrongly.
    """
    from torch._higher_order_ops.scan import scan

    if not torch.compiler.is_compiling():  # which is to keep the loop, and nothing round it
        if not inputs.x.numel():
            return reference.omni_scan(inputs, directions)
        if is_differentiated(inputs):
            if not has_derivative():
                raise RuntimeError(
                    f"torch {torch.__version__} differentiates loop wrongly; use omni_scan(..., backend='torch') where "
                    'a derivative is needed'
                )
            inputs = ScanInputs(*_Once.apply(*inputs))
    dtype, result = torch.float64 if inputs.x.dtype == torch.float64 else torch.float32, inputs.x.dtype
    # The state of a loop keeps its strides, which would be those of A.
    x, x_dbl, dt_weight, dt_bias, A, D = (t.to(dtype).contiguous() for t in inputs)
    N, R = A.shape[-1], dt_weight.shape[-1]
    dbl = x_dbl.chunk(len(directions), -1)
    # (L, b, K, ·): the loop runs over the first dimension and all directions at once.
    u = torch.stack([_read(x, direction) for direction in directions], 2)
    dt, B, C = torch.stack([_read(part, k) for part, k in zip(dbl, directions, strict=True)], 2).split([R, N, N], -1)
    delta = F.softplus(torch.einsum('lbkr,kdr->lbkd', dt, dt_weight) + dt_bias)

    def step(state: Tensor, pixel: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        delta_t, write_t, B_t, C_t = pixel
        state = torch.exp(delta_t[..., None] * A) * state + write_t[..., None] * B_t[..., None, :]
        return state, (state * C_t[..., None, :]).sum(-1)

    start = torch.zeros(x.shape[0], *A.shape, device=x.device, dtype=dtype)
    _, y = scan(step, start, (delta, delta * u, B, C))
    y = y + D * u
    first, *others = [_write(y[:, :, k], direction, x) for k, direction in enumerate(directions)]
    return sum(others, first).to(result)


def _read(x: Tensor, direction: int) -> Tensor:
    """A map (b, h, w, c) in the order of a direction: (h * w, b, c)."""
    if direction in (COLUMN_MAJOR, COLUMN_MAJOR_REVERSED):
        x = x.transpose(1, 2)
    sequence = x.flatten(1, 2).transpose(0, 1)
    return sequence.flip(0) if direction in (ROW_MAJOR_REVERSED, COLUMN_MAJOR_REVERSED) else sequence


def _write(sequence: Tensor, direction: int, like: Tensor) -> Tensor:
    """The inverse of `_read`: (h * w, b, c) -> (b, h, w, c), the shape of `like`."""
    b, h, w, _ = like.shape
    if direction in (ROW_MAJOR_REVERSED, COLUMN_MAJOR_REVERSED):
        sequence = sequence.flip(0)
    if direction in (COLUMN_MAJOR, COLUMN_MAJOR_REVERSED):
        return sequence.transpose(0, 1).reshape(b, w, h, -1).transpose(1, 2)
    return sequence.transpose(0, 1).reshape(b, h, w, -1)
