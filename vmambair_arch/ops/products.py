"""Matrix products of maps and weights, through the library that is faster on this processor.

torch hands float32 products to MKL, which keeps its best code for Intel's processors; torch's other library, oneDNN,
has one code for all and can apply an activation on the way out. On an AMD processor the products of these networks are
faster there, up to twice as fast where the vectors are 512 bits wide (Zen 5), but for the small ones, in which its
longer preparations cost more than they bring. The choice is made by vendor, width of the vectors and size and not by
measuring: the libraries round differently, and a training that resumes must go on with the same bits.

The environment variable `VMAMBAIR_PRODUCTS` (torch, onednn) overrules it, for products of any size. The gradient of a
weight is left to MKL anywhere: a thin product over many pixels, in which oneDNN is mostly slower. `benchmarks.products`
measures all of it, weights packed beforehand too: what they save is lost in the time of a network.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import c_library
from .at_once import is_differentiated, is_plain, is_watched
from .selective_scan import left_to_torch

ENV = 'VMAMBAIR_PRODUCTS'
NARROWEST = 16
"""Channels below which there is nothing to be gained."""
SMALLEST, SMALLEST_AVX2 = 1 << 23, 1 << 25
"""Multiplications below which MKL is as fast or faster: 0.2 ms on one core of a Zen 4, 1.1 ms on a Zen 3, which has no
vectors of 512 bits and where MKL loses less."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., c) times weight (o, c), plus bias (o,): `F.linear`."""
    if _by_onednn(x, weight, bias):
        return _product(x, weight, bias)
    return F.linear(x, weight, bias)


def linear_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """silu of `linear`, on the way out where nothing is to be differentiated."""
    if _by_onednn(x, weight, bias) and not is_differentiated(x, weight, bias):
        return _onednn()(x, weight, bias, 'swish', [], '')
    return F.silu(linear(x, weight, bias))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
    """other (..., o) plus `linear`, added on the way out."""
    if _by_onednn(x, weight, bias) and _can_be_added(other, x, weight):
        return _product(x, weight, bias, other)
    return other + F.linear(x, weight, bias)


def library() -> str:
    """'onednn' or 'torch': what products of float32 on CPUs go through here.

    Raises:
        ValueError: `VMAMBAIR_PRODUCTS` names something else.
    """
    wanted = os.environ.get(ENV, '').strip().lower() or 'auto'
    if wanted not in ('auto', 'torch', 'onednn'):
        raise ValueError(f'{ENV}={wanted} is not one of auto, torch, onednn')
    if wanted == 'torch' or not _has_onednn():
        return 'torch'
    # Without MKL torch's products are oneDNN's or another library's that was chosen for the machine.
    return 'onednn' if wanted == 'onednn' or (torch.backends.mkl.is_available() and _is_amd()) else 'torch'


_library = cache(library)


@cache
def _smallest() -> int:
    """Multiplications from which on oneDNN is used where it is."""
    if os.environ.get(ENV, '').strip().lower() == 'onednn':
        return 0
    return SMALLEST if 'AVX512' in torch.backends.cpu.get_cpu_capability() else SMALLEST_AVX2


@cache
def _is_amd() -> bool:
    """Whether the processor is one of AMD's."""
    cpus = Path('/proc/cpuinfo')
    try:
        said = cpus.read_text() if cpus.is_file() else platform.processor()
    except OSError:
        return False
    return 'AuthenticAMD' in said


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')


@cache
def _onednn() -> Callable[..., Tensor]:
    """(x, weight, bias, activation, its numbers, its algorithm) -> product: what torch.compile turns layers into."""
    return torch.ops.mkldnn._linear_pointwise.default


@cache
def _onednn_add() -> Callable[..., Tensor]:
    """(x, summand, weight, bias, 'add') -> product plus summand."""
    return torch.ops.mkldnn._linear_pointwise.binary


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        not torch.compiler.is_compiling()  # compilers and exports know `F.linear`, and choose for themselves
        and not torch.jit.is_tracing()  # so does TorchScript, which has no word for the operator's arguments
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and _library() == 'onednn'
        and weight.ndim == 2
        and x.numel() * weight.shape[0] >= _smallest()  # most products end here, and the rest costs as much as a few
        and weight.device.type == 'cpu'
        and (bias is None or _can_be_bias(bias, weight))
        and min(weight.shape) >= NARROWEST
        and x.shape[-1] == weight.shape[1]  # what does not fit together is for torch to refuse
        and x.numel() > 0
        and not torch.is_autocast_enabled('cpu')
        and _has_kernels()
        and is_plain(x, weight)
        and not is_watched()  # torch has rules of its own products for other derivatives
    )


def _has_kernels() -> bool:
    """As for the convolutions of `depthwise`: `VMAMBAIR_SCAN` is about the scan, `using` about all that is ours."""
    return c_library.why_not() is None and not left_to_torch()


def _can_be_bias(bias: Tensor, weight: Tensor) -> bool:
    """oneDNN reads one float32 a row from where the bias begins; what lies otherwise is for torch to read or refuse."""
    return (
        bias.dtype == torch.float32
        and bias.shape == weight.shape[:1]
        and bias.is_contiguous()
        and bias.device.type == 'cpu'
        and is_plain(bias)
    )


def _can_be_added(other: Tensor, x: Tensor, weight: Tensor) -> bool:
    """oneDNN adds what lies like the product; the rest is for torch to broadcast, promote or refuse."""
    return (
        other.shape == (*x.shape[:-1], weight.shape[0])
        and other.dtype == torch.float32
        and other.device.type == 'cpu'
        and other.is_contiguous()
        and is_plain(other)
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None = None) -> Tensor:
    if is_differentiated(x, weight, bias, other):
        product: Tensor = _Product.apply(x, weight, bias, other)
        return product
    return _compute(x, weight, bias, other)


def _compute(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None) -> Tensor:
    if other is None:
        return _onednn()(x, weight, bias, 'none', [], '')
    return _onednn_add()(x, other, weight, bias, 'add')


class _Product(torch.autograd.Function):
    """oneDNN's product with a gradient, which can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _compute(x, weight, bias, other)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_other = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad.contiguous(), weight.t()) if of_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if of_weight else None,
            rows.sum(0) if of_bias else None,
            grad if of_other else None,
        )
