"""Every block against the plainest way to write it down (channels first, float64)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vmambair_arch.archs.layers import Downsample, LayerNorm, Upsample, to_channels_first, to_channels_last
from vmambair_arch.archs.oss_block import DT_MAX, DT_MIN, EFFN, BlockOptions, OSSBlock, OSSModule
from vmambair_arch.ops import reference


def _double(module: torch.nn.Module) -> torch.nn.Module:
    """In float64, with every parameter moved off its start so that none can be forgotten."""
    torch.manual_seed(1)
    module = module.double()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def _norm(x: torch.Tensor, layer: LayerNorm) -> torch.Tensor:
    """LayerNorm over dim 1 of (b, c, ...)."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * layer.body.weight.view(shape) + layer.body.bias.view(shape)


def _one_direction(u: torch.Tensor, proj: torch.Tensor, dt: torch.Tensor, bias: torch.Tensor, A: torch.Tensor,
                   D: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """u: (b, L, d), proj: (R + 2N, d)."""
    N = A.shape[1]
    low, B, C = (u @ proj.t()).split([dt.shape[1], N, N], -1)
    return reference.selective_scan(u, F.softplus(low @ dt.t() + bias), A, B, C, D)


def _plain_oss(m: OSSModule, x: torch.Tensor) -> torch.Tensor:
    """Channels first: x (b, d, h, w)."""
    b, d, h, w = x.shape
    x, z = F.conv2d(x, m.in_conv.weight.view(2 * d, d, 1, 1), m.in_conv.bias).chunk(2, 1)
    x, z = F.silu(m.conv2d(x)), F.silu(z)
    y = 0
    for k in range(m.x_proj_weight.shape[0]):
        order = reference.scan_order(k, h, w)
        u = x.flatten(2).transpose(1, 2)[:, order]
        A = -m.A_logs.view(-1, d, m.A_logs.shape[1])[k].exp()
        y_k = _one_direction(u, m.x_proj_weight[k], m.dt_projs_weight[k], m.dt_projs_bias[k], A, m.Ds.view(-1, d)[k])
        back = torch.empty_like(y_k)
        back[:, order] = y_k
        y = y + back.transpose(1, 2).reshape(b, d, h, w)
    y = _norm(y, m.out_norm) * z
    if m.sequence_directions:
        pooled = y.mean((2, 3))[..., None]
        if hasattr(m, 'conv_cin'):
            pooled = pooled @ m.conv_cin.weight.view(1, -1) + m.conv_cin.bias
        dc, N = pooled.shape[-1], m.Ac_logs.shape[1]
        c = 0
        for k in range(len(m.sequence_directions)):
            u = pooled.flip(1) if k else pooled
            A = -m.Ac_logs.view(-1, dc, N)[k].exp()
            c_k = _one_direction(u, m.xc_proj_weight[k], m.dtc_projs_weight[k], m.dtc_projs_bias[k], A,
                                 m.Dsc.view(-1, dc)[k])  # fmt: skip
            c = c + (c_k.flip(1) if k else c_k)
        if hasattr(m, 'conv_cout'):
            c = c @ m.conv_cout.weight.view(-1, 1) + m.conv_cout.bias
        c = _norm(c[..., 0], m.channel_norm)[..., None, None]
        y = y * c + y if m.channel_fusion == 'mul' else y + c
    return F.conv2d(y, m.out_conv.weight.view(d, d, 1, 1), m.out_conv.bias)


def _plain_effn(m: EFFN, x: torch.Tensor) -> torch.Tensor:
    a, b = m.dwconv(F.conv2d(x, m.project_in.weight.flatten(1)[..., None, None], m.project_in.bias)).chunk(2, 1)
    return F.conv2d(F.gelu(a) * b, m.project_out.weight.flatten(1)[..., None, None], m.project_out.bias)


FORMS = [
    {'channel_width': 1},
    {'channel_width': 2},
    {'channel_width': 4, 'channel_fusion': 'add'},
    {'plane_directions': 1, 'channel_directions': 0},
    {'channel_directions': 1},
    {'pointwise': 'linear'},
]


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_oss_module(form: dict) -> None:
    module = _double(OSSModule(20, BlockOptions(d_state=3, **form)))
    x = torch.randn(2, 20, 4, 6, dtype=torch.float64)
    assert torch.allclose(to_channels_first(module(to_channels_last(x))), _plain_oss(module, x), atol=1e-12)


def test_channel_scan_without_pooling_reads_every_pixel() -> None:
    module = _double(OSSModule(6, BlockOptions(d_state=3, channel_width=1, channel_pool=False)))
    y = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    c = module.scan_channels(y)
    module.channel_pool = True
    alone = module.scan_channels(y[1:, 2:, 1:2])
    assert torch.allclose(c[1:, 2:, 1:2], alone, atol=1e-12)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('linear', [False, True])
def test_effn(bias: bool, linear: bool) -> None:
    module = _double(EFFN(6, BlockOptions(bias=bias, pointwise='linear' if linear else 'conv')))
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    assert torch.allclose(to_channels_first(module(to_channels_last(x))), _plain_effn(module, x), atol=1e-12)


def test_block_is_two_residuals() -> None:
    block = _double(OSSBlock(8, BlockOptions(d_state=2)))
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    half = x + _plain_oss(block.attn, _norm(x, block.norm1))
    whole = half + _plain_effn(block.ffn, _norm(half, block.norm2))
    assert torch.allclose(to_channels_first(block(to_channels_last(x))), whole, atol=1e-12)


def test_layer_norm_bias_free() -> None:
    layer = _double(LayerNorm(8, bias_free=True))
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    expected = x / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() * layer.body.weight
    assert torch.allclose(layer(x), expected)
    assert [name for name, _ in layer.named_parameters()] == ['body.weight']


def test_down_and_up() -> None:
    x = torch.randn(1, 8, 4, 6)
    down, up = Downsample(8), Upsample(8)
    expected = F.pixel_unshuffle(F.conv2d(x, down.body[0].weight, padding=1), 2)
    assert torch.allclose(to_channels_first(down(to_channels_last(x))), expected, atol=1e-6)
    expected = F.pixel_shuffle(F.conv2d(x, up.body[0].weight, padding=1), 2)
    assert torch.allclose(to_channels_first(up(to_channels_last(x))), expected, atol=1e-6)


def test_initial_values() -> None:
    torch.manual_seed(0)
    module = OSSModule(64, BlockOptions(d_state=16, channel_width=1))
    steps = F.softplus(module.dt_projs_bias)
    assert steps.min() >= DT_MIN * 0.99
    assert steps.max() <= DT_MAX * 1.01
    assert torch.allclose(module.A_logs.exp(), torch.arange(1.0, 17).expand(256, 16))
    assert torch.equal(module.Ds, torch.ones(256))
    assert module.x_proj_weight.abs().max() <= 64**-0.5
    assert module.x_proj_weight.abs().max() > 0.9 * 64**-0.5
    lifted = OSSModule(64, BlockOptions(channel_width=4))
    assert 0.5 < lifted.Ac_logs.std() < 1.5
    assert lifted.Ac_logs.abs().max() > 1.5
