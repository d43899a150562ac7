"""The OSS block: omni selective scan, then an efficient feed-forward network (VmambaIR, section 3.2 and 3.3).

Letters as in `vmambair_arch.ops.reference`: b batch, h and w size of the map, d channels, N state size, R rank of dt,
K plane directions. Maps are channels last, (b, h, w, d).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import (
    PLANE_DIRECTIONS,
    SEQUENCE_DIRECTIONS,
    ScanInputs,
    depthwise_gelu_gate,
    depthwise_silu,
    linear,
    omni_scan,
)
from .layers import LayerNorm, pointwise, pointwise_add, pointwise_silu

LIFTED_RANK = 6
"""Rank of dt in a channel scan that is lifted to several channels, as released."""

DT_MIN, DT_MAX = 1e-3, 1e-1
"""Range of the step size at the start of training (Mamba, appendix; the release)."""


@dataclass(frozen=True)
class BlockOptions:
    """What every OSS block of a network has in common, all but its width.

    Attributes:
        ffn_expansion_factor: hidden channels of the EFFN over the channels of the block.
        bias: biases in the EFFN.
        LayerNorm_type: 'WithBias' or 'BiasFree', for norm1 and norm2.
        d_state: state size N of both scans.
        plane_directions: K, 1 to 4; fewer than 4 read in the first K directions of `ops.PLANE_DIRECTIONS`.
        channel_directions: 2 scans the channels forward and backward, 1 forward only, 0 leaves the channel scan out.
        channel_width: 1 scans the average itself; more lifts it to that many channels by 1x1 convolutions.
        channel_fusion: 'mul' for y * c + y (the paper), 'add' for y + c (the released deraining network).
        channel_pool: False scans the channels of every pixel instead of their average (section 4.3).
        effn: False leaves the EFFN out (Table 4, V3).
        pointwise: 'linear' stores the 1x1 convolutions as linear layers (Table 4, V4).
    """

    ffn_expansion_factor: float = 2.66
    bias: bool = False
    LayerNorm_type: Literal['WithBias', 'BiasFree'] = 'WithBias'
    d_state: int = 16
    plane_directions: int = 4
    channel_directions: int = 2
    channel_width: int = 2
    channel_fusion: Literal['mul', 'add'] = 'mul'
    channel_pool: bool = True
    effn: bool = True
    pointwise: Literal['conv', 'linear'] = 'conv'


def _pointwise_layer(dim_in: int, dim_out: int, bias: bool, options: BlockOptions) -> nn.Linear | nn.Conv2d:
    return (
        nn.Linear(dim_in, dim_out, bias) if options.pointwise == 'linear' else nn.Conv2d(dim_in, dim_out, 1, bias=bias)
    )


def _last_product(x: Tensor, layer: nn.Linear | nn.Conv2d, skip: Tensor | None) -> Tensor:
    if skip is None:
        return pointwise(x, layer.weight, layer.bias)
    return pointwise_add(x, layer.weight, layer.bias, skip)


def _uniform(*shape: int, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def _s4d_real(rows: int, N: int) -> nn.Parameter:
    """A_logs = log(1..N) in every row (S4D-Real): the state decays at N rates."""
    logs = torch.empty(rows, N, dtype=torch.float32)
    # Arithmetic on tensors without storage loads torch's compiler, a second of the start of a program.
    return nn.Parameter(logs if logs.is_meta else logs.copy_(torch.arange(1, N + 1, dtype=torch.float32).log()))


def _dt_bias(*shape: int) -> nn.Parameter:
    """The bias that makes softplus(bias) log-uniform in [DT_MIN, DT_MAX]."""
    log_dt = torch.empty(shape).uniform_(math.log(DT_MIN), math.log(DT_MAX))
    if log_dt.is_meta:
        return nn.Parameter(log_dt)
    dt = log_dt.exp()  # Mamba's floor of 1e-4 is below all of them
    return nn.Parameter(dt + torch.log(-torch.expm1(-dt)))


class OSSModule(nn.Module):
    """Omni selective scan: the plane in four directions, then the channels in two.

    1. x, z = split(in_conv(x)); z = silu(z); x = silu(depthwise 3x3 (x))
    2. y = LayerNorm(plane scan of x) * z
    3. c = LayerNorm(channel scan of the global average of y), one number for each channel
    4. out_conv(y * c + y), or out_conv(y + c) with `channel_fusion='add'`

    Args:
        dim: channels d.
        options: see `BlockOptions`.
    """

    def __init__(self, dim: int, options: BlockOptions = BlockOptions()) -> None:
        super().__init__()
        self.channel_fusion = options.channel_fusion
        self.channel_pool = options.channel_pool
        self.directions = PLANE_DIRECTIONS[: options.plane_directions]
        self.sequence_directions = SEQUENCE_DIRECTIONS[: options.channel_directions]
        K, R, N = options.plane_directions, math.ceil(dim / 16), options.d_state

        self.in_conv = _pointwise_layer(dim, 2 * dim, True, options)
        self.conv2d = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.x_proj_weight = _uniform(K, R + 2 * N, dim, bound=dim**-0.5)
        self.dt_projs_weight = _uniform(K, dim, R, bound=R**-0.5)
        self.dt_projs_bias = _dt_bias(K, dim)
        self.A_logs = _s4d_real(K * dim, N)
        self.Ds = nn.Parameter(torch.ones(K * dim))
        self.out_norm = LayerNorm(dim)
        if options.channel_directions:
            K, dc = options.channel_directions, options.channel_width
            Rc = R if dc == 1 else LIFTED_RANK
            self.xc_proj_weight = _uniform(K, Rc + 2 * N, dc, bound=dc**-0.5)
            if dc == 1:
                self.dtc_projs_weight = _uniform(K, dc, Rc, bound=Rc**-0.5)
                self.dtc_projs_bias = _dt_bias(K, dc)
                self.Ac_logs = _s4d_real(K * dc, N)
            else:
                self.dtc_projs_weight = nn.Parameter(torch.randn(K, dc, Rc))
                self.dtc_projs_bias = nn.Parameter(torch.randn(K, dc))
                self.Ac_logs = nn.Parameter(torch.randn(K * dc, N))
                self.conv_cin = nn.Conv2d(1, dc, 1)
                self.conv_cout = nn.Conv2d(dc, 1, 1)
            self.Dsc = nn.Parameter(torch.ones(K * dc))
            self.channel_norm = LayerNorm(dim)
        self.out_conv = _pointwise_layer(dim, dim, True, options)

    def scan_plane(self, x: Tensor) -> Tensor:
        """(b, h, w, d) -> (b, h, w, d): the sum of the plane directions; of float16 it is float32.

        It leaves the range of float16 (65504): up to 6e5 in the networks of this package. `out_norm` follows.
        """
        parameters = _ScanParameters(self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds)
        return _project_and_scan(x, parameters, self.directions, widen=True)

    def scan_channels(self, y: Tensor) -> Tensor:
        """(b, h, w, d) -> (b, 1, 1, d), or (b, h, w, d) without pooling: what the channel scan reads, normalised."""
        if self.channel_pool:
            y = y.mean((1, 2), keepdim=True)
        b, h, w, d = y.shape
        sequence = y.reshape(b * h * w, 1, d, 1)
        lifted = self.xc_proj_weight.shape[-1] > 1
        if lifted:
            sequence = pointwise(sequence, self.conv_cin.weight, self.conv_cin.bias)
        parameters = _ScanParameters(
            self.xc_proj_weight, self.dtc_projs_weight, self.dtc_projs_bias, self.Ac_logs, self.Dsc
        )
        sequence = _project_and_scan(sequence, parameters, self.sequence_directions)
        if lifted:
            sequence = pointwise(sequence, self.conv_cout.weight, self.conv_cout.bias)
        return self.channel_norm(sequence.reshape(b, h, w, d))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(b, h, w, d) -> (b, h, w, d), plus `skip` of the same shape."""
        # One product for each half instead of a split: the halves come out contiguous.
        weight_x, weight_z = self.in_conv.weight.chunk(2)
        bias = self.in_conv.bias
        assert bias is not None
        bias_x, bias_z = bias.chunk(2)
        z = pointwise_silu(x, weight_z, bias_z)
        x = depthwise_silu(pointwise(x, weight_x, bias_x), self.conv2d.weight, self.conv2d.bias)
        y = self.out_norm(self.scan_plane(x)) * z
        if self.sequence_directions:
            c = self.scan_channels(y)
            y = y + c if self.channel_fusion == 'add' else torch.addcmul(y, y, c)
        return _last_product(y, self.out_conv, skip)


class _ScanParameters(NamedTuple):
    """Parameters of a scan in K directions: (K, R + 2N, d), (K, d, R), (K, d), (K * d, N) and (K * d,)."""

    x_proj: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_logs: Tensor
    Ds: Tensor


def _wide(A_logs: Tensor) -> Tensor:
    """At least float32: A is raised to the power of a whole image."""
    return A_logs.to(torch.promote_types(A_logs.dtype, torch.float32))


def _decay(A_logs: Tensor) -> Tensor:
    """A = -exp(A_logs), which `decays_at_once` may have computed already."""
    if not torch.compiler.is_compiling() and (ready := _READY.get()) is not None and id(A_logs) in ready:
        return ready[id(A_logs)]
    return -torch.exp(_wide(A_logs))


AT_ONCE_ON = ('cuda',)
"""Kinds of device where a launch costs as much as what it does here."""

_READY: ContextVar[dict[int, Tensor] | None] = ContextVar('ready_decays', default=None)
"""A of the blocks that run now, by the identity of the parameter."""


@contextmanager
def decays_at_once(blocks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside the `with` block, A = -exp(A_logs) of all these blocks comes of two launches, not of four for each block.

    Where nothing is trained or traced, on a GPU. Nothing is kept for later: weights change in ways that no counter
    sees, as where an average is written to `parameter.data`. The numbers are the same.
    """
    here = device.type in AT_ONCE_ON and not torch.is_grad_enabled() and not torch.jit.is_tracing()
    modules = [block.attn for block in blocks if isinstance(block, OSSBlock)] if here else []
    logs = [m.A_logs for m in modules] + [m.Ac_logs for m in modules if m.sequence_directions]
    if not logs:
        yield
        return
    decays = torch._foreach_exp([_wide(A_logs) for A_logs in logs])
    torch._foreach_neg_(decays)
    token = _READY.set({id(A_logs): A for A_logs, A in zip(logs, decays, strict=True)})
    try:
        yield
    finally:
        _READY.reset(token)


def _project_and_scan(
    x: Tensor, parameters: _ScanParameters, directions: tuple[int, ...], widen: bool = False
) -> Tensor:
    """Project a map (b, h, w, d) to dt, B and C of all directions in one product, and scan it.

    widen: whether the result of float16 is float32.
    """
    x_proj, dt_weight, dt_bias, A_logs, Ds = parameters
    K, d, _ = dt_weight.shape
    A = _decay(A_logs).view(K, d, -1)
    x_dbl = linear(x, x_proj.flatten(0, 1))
    if widen and x.dtype == torch.float16:
        x = x.float()
    return omni_scan(ScanInputs(x, x_dbl, dt_weight, dt_bias, A, Ds.view(K, d)), directions)


class EFFN(nn.Module):
    """Efficient feed-forward network: 1x1 to 2h, depthwise 3x3, gelu(a) * b, 1x1 back (section 3.2)."""

    def __init__(self, dim: int, options: BlockOptions = BlockOptions()) -> None:
        super().__init__()
        hidden, bias = int(dim * options.ffn_expansion_factor), options.bias
        self.project_in = _pointwise_layer(dim, 2 * hidden, bias, options)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = _pointwise_layer(hidden, dim, bias, options)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(b, h, w, d) -> (b, h, w, d), plus `skip` of the same shape."""
        x = pointwise(x, self.project_in.weight, self.project_in.bias)
        x = depthwise_gelu_gate(x, self.dwconv.weight, self.dwconv.bias)
        return _last_product(x, self.project_out, skip)


class OSSBlock(nn.Module):
    """x = x + OSSModule(norm1(x)); x = x + EFFN(norm2(x)) (section 3.2), on maps (b, h, w, d).

    Args:
        dim: channels d.
        options: see `BlockOptions`.
    """

    def __init__(self, dim: int, options: BlockOptions = BlockOptions()) -> None:
        super().__init__()
        bias_free = options.LayerNorm_type == 'BiasFree'
        self.norm1 = LayerNorm(dim, bias_free)
        self.attn = OSSModule(dim, options)
        self.effn = options.effn
        if self.effn:
            self.norm2 = LayerNorm(dim, bias_free)
            self.ffn = EFFN(dim, options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x), x)
        return self.ffn(self.norm2(x), x) if self.effn else x
