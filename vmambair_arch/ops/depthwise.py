"""Depthwise 3x3 convolutions with the activation that follows them, on channels-last maps.

On a CPU, in float32 and where the C kernels were built, convolution and activation are one pass over memory;
elsewhere they are torch's. Same numbers either way, to the rounding of float32.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_void_p
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import c_library
from .selective_scan import constant_result, left_to_torch

SILU, GELU_GATE = 1, 2
"""Codes of csrc/depthwise.h."""
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
    if _can_fuse(x, weight, x.shape[-1]):
        return _fused(x, weight, bias, SILU)
    return F.silu(_convolve(x, weight, bias))


def depthwise_gelu_gate(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """gelu(a) * b of the halves a, b = convolution of x; zero padding, the exact GELU.

    Args:
        x: (b, h, w, 2c).
        weight: (2c, 1, 3, 3).
        bias: (2c,) or None.

    Returns:
        (b, h, w, c).
    """
    if _can_fuse(x, weight, x.shape[-1] // 2):
        return _fused(x, weight, bias, GELU_GATE)
    a, b = _convolve(x, weight, bias).chunk(2, -1)
    return F.gelu(a) * b


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)


def _can_fuse(x: Tensor, weight: Tensor, channels: int) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32  # what does not fit together is for torch to refuse
        and channels >= MIN_CHANNELS
        and not torch.is_autocast_enabled('cpu')
        and _has_kernel()
    )


@constant_result
def _has_kernel() -> bool:
    """Whether the C kernels are there and nobody asks for torch's operators alone.

    `VMAMBAIR_SCAN` is about the scan: whatever it names, these stay as fast as they are.
    """
    return c_library.why_not() is None and not left_to_torch()


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return torch.ops.vmambair.depthwise(x, weight, bias, activation)


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
    library.vmambair_depthwise_forward.restype = None
    library.vmambair_depthwise_backward.argtypes = [ctypes.POINTER(_Problem), *[c_void_p] * 4]
    return library


def _problem(
    x: Tensor, taps: Tensor, bias: Tensor | None, zeros: Tensor, out: Tensor | None, activation: int
) -> _Problem:
    """Pointers into contiguous tensors, which the caller keeps alive; taps: (9, c), zeros: (c,)."""
    return _Problem(
        *x.shape, x.data_ptr(), taps.data_ptr(), bias.data_ptr() if bias is not None else None, zeros.data_ptr(),
        out.data_ptr() if out is not None else None, activation,
        max(1, min(torch.get_num_threads(), x.numel() // ELEMENTS_PER_THREAD)),
    )  # fmt: skip


def _taps(weight: Tensor, turned: bool = False) -> Tensor:
    """(c, 1, 3, 3) -> (9, c)."""
    taps = weight.detach().reshape(-1, 9)
    return (taps.flip(1) if turned else taps).t().contiguous()


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    x, out = x.contiguous(), _forward_meta(x, weight, bias, activation)
    if out.numel():
        taps, zeros = _taps(weight), x.new_zeros(x.shape[-1])
        bias = bias.contiguous() if bias is not None else None
        _functions().vmambair_depthwise_forward(_problem(x, taps, bias, zeros, out, activation))
    return out


def _forward_meta(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    b, h, w, c = x.shape
    return x.new_empty(b, h, w, c // 2 if activation == GELU_GATE else c)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    grad_x, grad_weight, grad_bias = _backward_meta(grad, x, weight, bias, activation)
    if not x.numel():
        return grad_x, grad_weight.zero_(), grad_bias.zero_()
    taps, zeros, sums = _taps(weight), x.new_zeros(x.shape[-1]), x.new_empty(10, x.shape[-1])
    bias = bias.contiguous() if bias is not None else None
    # The gradient of a convolution is a convolution with the weights turned by half a circle.
    turned = _taps(weight, turned=True)
    problem = _problem(x, taps, bias, zeros, None, activation)
    pointers = (t.data_ptr() for t in (turned, grad, grad_x, sums))
    if _functions().vmambair_depthwise_backward(problem, *pointers):
        raise MemoryError('the depthwise kernel got no memory for its sums')
    grad_weight.copy_(sums[:9].t().view(weight.shape))
    grad_bias.copy_(sums[9])
    return grad_x, grad_weight, grad_bias


def _backward_meta(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.activation = inputs
    ctx.save_for_backward(x, weight, bias)
    ctx.set_materialize_grads(False)


def _autograd_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    x, weight, bias = ctx.saved_tensors
    grads = torch.ops.vmambair.depthwise_backward(grad, x, weight, bias, ctx.activation)
    return grads[0], grads[1], grads[2] if bias is not None else None, None


_OPERATORS = torch.library.Library('vmambair', 'FRAGMENT')
_OPERATORS.define(
    'depthwise(Tensor x, Tensor weight, Tensor? bias, int activation) -> Tensor',
    tags=torch.Tag.pt2_compliant_tag,
)
_OPERATORS.define(
    'depthwise_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, int activation) '
    '-> (Tensor, Tensor, Tensor)',
    tags=torch.Tag.pt2_compliant_tag,
)
_OPERATORS.impl('depthwise', _forward, 'CPU')
_OPERATORS.impl('depthwise_backward', _backward, 'CPU')
torch.library.register_fake('vmambair::depthwise', _forward_meta, lib=_OPERATORS)
torch.library.register_fake('vmambair::depthwise_backward', _backward_meta, lib=_OPERATORS)
torch.library.register_autograd('vmambair::depthwise', _autograd_backward, setup_context=_setup_context, lib=_OPERATORS)
