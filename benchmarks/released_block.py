"""The OSS block step by step as the authors' release computes it, to be measured against `archs.oss_block`.

Maps are (b, c, h, w); LayerNorm goes through a sequence and back; the plane is unrolled into one copy of x for each
direction, and so are dt, B and C; the scan reads and writes float32 sequences, which are turned back and added. Same
parameters, same numbers, other steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmambair_arch.archs.layers import LayerNorm
from vmambair_arch.archs.oss_block import OSSBlock
from vmambair_arch.ops import ScanInputs, omni_scan

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(u (b, K, d, L), dt (b, K, R, L), dt_weight (K, d, R), dt_bias (K, d), A (K, d, N), B, C (b, K, N, L), D (K, d)) -> y
(b, K, d, L)."""


def mamba_scan(
    u: Tensor, dt: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """mamba-ssm's kernel, called as the release calls it."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    b, K, d, L = u.shape
    delta = torch.einsum('bkrl,kdr->bkdl', dt, dt_weight).contiguous()
    y = selective_scan_fn(
        u.float().view(b, K * d, L), delta.float().view(b, K * d, L), A.float().flatten(0, 1),
        B.float().contiguous(), C.float().contiguous(), D.float().flatten(),
        delta_bias=dt_bias.float().flatten(), delta_softplus=True,
    )  # fmt: skip
    return y.view(b, K, d, L)


def scan_by_scan(
    u: Tensor, dt: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """Where mamba-ssm is not installed: our kernel, one unrolled sequence of one direction at a time."""
    ys = []
    for k in range(u.shape[1]):
        x, x_dbl = (t.transpose(1, 2)[:, None].float() for t in (u[:, k], torch.cat([dt[:, k], B[:, k], C[:, k]], 1)))
        one = slice(k, k + 1)
        inputs = ScanInputs(x, x_dbl, dt_weight[one], dt_bias[one], A[one], D[one])
        ys.append(omni_scan(inputs, (0,))[:, 0].transpose(1, 2))
    return torch.stack(ys, 1)


class ReleasedBlock(nn.Module):
    """`block` on maps (b, c, h, w) in the release's steps, with the parameters of `block`."""

    def __init__(self, block: OSSBlock, scan: Scan) -> None:
        super().__init__()
        self.block = block
        self.scan = scan

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(_norm(x, self.block.norm1))
        return x + self.ffn(_norm(x, self.block.norm2))

    def attn(self, x: Tensor) -> Tensor:
        attn = self.block.attn
        x, z = F.conv2d(x, attn.in_conv.weight, attn.in_conv.bias).chunk(2, 1)
        z = F.silu(z)
        x = F.silu(attn.conv2d(x))
        y = _norm(self.scan_plane(x), attn.out_norm) * z
        c = self.scan_channels(y)
        y = y + c if attn.channel_fusion == 'add' else y * c + y
        return F.conv2d(y, attn.out_conv.weight, attn.out_conv.bias)

    def ffn(self, x: Tensor) -> Tensor:
        ffn = self.block.ffn
        a, b = ffn.dwconv(F.conv2d(x, ffn.project_in.weight, ffn.project_in.bias)).chunk(2, 1)
        return F.conv2d(F.gelu(a) * b, ffn.project_out.weight, ffn.project_out.bias)

    def scan_plane(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        attn = self.block.attn
        b, d, h, w = x.shape
        by_row, by_column = x.flatten(2), x.transpose(2, 3).contiguous().flatten(2)
        both = torch.stack([by_row, by_column], 1)
        xs = torch.cat([both, both.flip(-1)], 1)
        y = self.project_and_scan(
            xs, attn.x_proj_weight, attn.dt_projs_weight, attn.dt_projs_bias, attn.A_logs, attn.Ds
        )
        row, column = (y[:, :2] + y[:, 2:].flip(-1)).unbind(1)
        return row.view(b, d, h, w) + column.view(b, d, w, h).transpose(2, 3).contiguous()

    def scan_channels(self, y: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, 1, 1)."""
        attn = self.block.attn
        sequence = F.adaptive_avg_pool2d(y, 1).squeeze(-1).transpose(1, 2)[:, :, None]  # (b, 1, 1, d)
        lifted = attn.xc_proj_weight.shape[-1] > 1
        sequence = (attn.conv_cin(sequence) if lifted else sequence)[:, :, 0]
        xs = torch.stack([sequence, sequence.flip(-1)], 1)
        out = self.project_and_scan(
            xs, attn.xc_proj_weight, attn.dtc_projs_weight, attn.dtc_projs_bias, attn.Ac_logs, attn.Dsc
        )
        out = (out[:, 0] + out[:, 1].flip(-1))[:, :, None]
        out = attn.conv_cout(out) if lifted else out
        return _norm(out.transpose(1, 3), attn.channel_norm)

    def project_and_scan(
        self, xs: Tensor, x_proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
    ) -> Tensor:
        """K unrolled sequences (b, K, d, L) -> (b, K, d, L)."""
        K, d, R = dt_weight.shape
        A = -torch.exp(A_logs.float()).view(K, d, -1)
        x_dbl = torch.einsum('bkdl,kcd->bkcl', xs, x_proj)
        dt, B, C = x_dbl.split([R, A.shape[-1], A.shape[-1]], 2)
        return self.scan(xs, dt, dt_weight, dt_bias, A, B, C, Ds.view(K, d)).to(xs.dtype)


def _norm(x: Tensor, layer: LayerNorm) -> Tensor:
    """LayerNorm over the channels of (b, c, h, w), through (b, h * w, c) and back, mean and variance by themselves."""
    b, c, h, w = x.shape
    sequence = x.flatten(2).transpose(1, 2).contiguous()
    mean, variance = sequence.mean(-1, keepdim=True), sequence.var(-1, keepdim=True, unbiased=False)
    sequence = (sequence - mean) / torch.sqrt(variance + layer.eps) * layer.body.weight + layer.body.bias
    return sequence.transpose(1, 2).contiguous().view(b, c, h, w)
