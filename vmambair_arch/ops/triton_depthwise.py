"""Depthwise 3x3 convolutions with their activation on GPUs: `depthwise_kernels.py` as an operator with a gradient.

torch hands a channels-last depthwise convolution to cuDNN, and the activation is another pass over memory; here both
are one. With TRITON_INTERPRET=1 in the environment before this module is imported, the kernels run on CPU tensors,
slowly.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import fallback, torch_depthwise, triton_scan
from .depthwise import define, empty_gradients, empty_output
from .torch_depthwise import GELU_GATE

TILE = 512
"""Columns x channels of a program: four for each of the 128 lanes of its four warps."""
ROWS = (32, 16, 8, 4)
"""Rows that a program walks down, the first that gives programs enough; two more are read."""
PROGRAMS = 4
"""Programs, of four warps each, that a multiprocessor should have at least."""
LAUNCH = {'num_warps': 4, 'num_stages': 1}
NAME = 'depthwise'
"""In `fallback`: 'triton' is the scan there."""


@cache
def _load() -> tuple[ModuleType | None, str]:
    """The kernels, or None and why they cannot be used; imported on first use only."""
    try:
        from . import depthwise_kernels
    except Exception as error:  # a Triton that does not fit its torch raises anything
        return None, f'Triton cannot be imported ({type(error).__name__}: {error})'
    return depthwise_kernels, ''


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why these kernels cannot be used for tensors of `dtype` on `device`; None where they can."""
    return triton_scan.unavailable(device, dtype)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """Arguments as in `torch_depthwise.depthwise`; the weight may be wider than x, as under autocast."""
    return _convolve(x, weight, bias, activation)


def channels_of_a_program(c: int) -> int:
    """Q: 64, 32 or 16, the largest that wastes the fewest lanes; all of them where there are fewer."""
    if c < 16:
        return 1 << (c - 1).bit_length()
    return min((64, 32, 16), key=lambda Q: (-(-c // Q) * Q, -Q))


def rows_of_a_program(b: int, h: int, w: int, c: int, multiprocessors: int) -> int:
    """The most of `ROWS` that leave every multiprocessor its programs."""
    Q = channels_of_a_program(c)
    beside = -(-c // Q) * -(-w // (TILE // Q)) * b
    return next((rows for rows in ROWS if beside * -(-h // rows) >= PROGRAMS * multiprocessors), ROWS[-1])


def _kernels() -> ModuleType:
    kernels, why = _load()
    if kernels is None:
        raise RuntimeError(why)
    return kernels


def _cut(x: Tensor, c: int) -> tuple[int, int, dict[str, int]]:
    """Rows of a program, programs of one block of channels, and the compile-time arguments."""
    b, h, w, _ = x.shape
    rows = rows_of_a_program(b, h, w, c, triton_scan._multiprocessors(x.device))
    Q = channels_of_a_program(c)
    sizes = {'c': c, 'W': TILE // Q, 'Q': Q}
    return rows, b * -(-h // rows) * -(-w // sizes['W']), sizes


def _activate(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, out: Tensor, activation: int
) -> Tensor:
    gate = activation == GELU_GATE
    c = x.shape[-1] // 2 if gate else x.shape[-1]
    h, w = x.shape[1:3]
    rows, programs, sizes = _cut(x, c)
    _kernels().activation_kernel[(programs * -(-c // sizes['Q']),)](
        x, weight, weight if bias is None else bias, x if grad is None else grad, out, h, w, rows, -(-h // rows),
        GATE=gate, BIAS=bias is not None, SLOPES=grad is not None, **sizes, **LAUNCH,
    )  # fmt: skip
    return out


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    out = empty_output(x, weight, bias, activation)
    if not out.numel():
        return out
    x, weight = x.contiguous(), weight.contiguous()
    with triton_scan._on_device_of(x):
        return _activate(x, weight, None if bias is None else bias.contiguous(), None, out, activation)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, grad = x.contiguous(), weight.contiguous(), grad.contiguous()
    dx, dweight, dbias = empty_gradients(grad, x, weight, bias, activation)
    if not x.numel():
        return dx, dweight.zero_(), dbias.zero_()
    h, w, c = x.shape[1:]
    with triton_scan._on_device_of(x):
        slopes = torch.empty_like(x)
        _activate(x, weight, None if bias is None else bias.contiguous(), grad, slopes, activation)
        rows, programs, sizes = _cut(x, c)
        sums = x.new_empty(programs, 10, c, dtype=torch.float32)
        _kernels().convolution_gradients_kernel[(programs * -(-c // sizes['Q']),)](
            x, slopes, weight, dx, sums, h, w, rows, -(-h // rows), **sizes, **LAUNCH
        )
        total = sums.sum(0)
    return dx, dweight.copy_(total[:9].t().reshape(weight.shape)), dbias.copy_(total[9])


# --- what the operators do where the kernels fail --------------------------------------------------------------------


def _safe_forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """`_forward`, or torch's result."""

    def kernels() -> Tensor:
        return _forward(x, weight, bias, activation)

    def by_torch() -> Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            added = None if bias is None else bias.to(x.dtype)
            return torch_depthwise.depthwise(x, weight.to(x.dtype), added, activation).contiguous()

    return fallback.run(NAME, x.device, x.dtype, kernels, by_torch, fallback.DEPTHWISE)


def _safe_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`_backward`, or torch's gradients, for which the forward pass is computed again."""

    def kernels() -> tuple[Tensor, Tensor, Tensor]:
        return _backward(grad, x, weight, bias, activation)

    def by_torch() -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            zeros = weight.new_zeros(weight.shape[0])
            leaves = [t.detach().clone().requires_grad_() for t in (x, weight, zeros if bias is None else bias)]
            inputs, taps, added = (t.to(x.dtype) for t in leaves)
            y = torch_depthwise.depthwise(inputs, taps, added, activation)
            dx, dweight, dbias = torch.autograd.grad(y, leaves, grad.to(y.dtype))
        return dx.contiguous(), dweight.contiguous(), dbias.to(weight.dtype).contiguous()

    return fallback.run(NAME, x.device, x.dtype, kernels, by_torch, fallback.DEPTHWISE)


# On CPUs in Triton's interpreter only.
_convolve = define('triton_depthwise', ['CUDA', 'CPU'], _safe_forward, _safe_backward)
