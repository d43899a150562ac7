"""A network as an ONNX graph, node by node.

Traced, the graph would hold what Python did; written, it holds what the network is, in the layout that runtimes like
(channels first), with the affine part of a normalisation inside the convolution that follows it, in a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from ..archs import OSSNet, VmambaIR
from ..archs.base import Network
from ..archs.layers import Downsample, LayerNorm, Upsample
from ..archs.oss_block import EFFN, OSSBlock, OSSModule
from ..archs.tail import SIDES, Side, Stage, UpsamplingTail, composed
from ..archs.vmambair_arch import MULTIPLE
from .onnx_graph import DEFAULT_OPSET, Graph, Value
from .onnx_scan import DOMAIN, Floats, Weights, channel_scan, kernel_scan, plane_scan, sequence_scan

if TYPE_CHECKING:
    import onnx

_END = np.iinfo(np.int64).max

CLOSED_FORM_UP_TO = 4096
"""States of all steps of a channel scan up to which its closed form is faster than a loop."""


def network_graph(
    network: Network,
    size: tuple[int, int] | None = None,
    opset: int = DEFAULT_OPSET,
    half: bool = False,
    kernel: bool = False,
) -> onnx.ModelProto:
    """The graph of a network in evaluation mode.

    Input 'image' (batch, channels, height, width) float32 in 0..1, output 'restored' (batch, channels, height * scale,
    width * scale) in 0..1.

    Args:
        size: height and width to fix.
        opset: OLDEST_OPSET to NEWEST_OPSET.
        half: keep the weights as float16 in the file.
        kernel: scan the plane with the operator OmniScan, which onnxruntime has when it has loaded the C kernels.
    """
    from onnx import TensorProto, helper

    g = Graph(opset, half, kernel=kernel)
    if isinstance(network, VmambaIR):
        restored = _vmambair(g, network)
    elif isinstance(network, OSSNet):
        restored = _ossnet(g, network)
    else:
        raise TypeError(f'no ONNX graph for {type(network).__name__}')
    g.nodes.append(helper.make_node('Clip', [restored, g.constant(0.0), g.constant(1.0)], ['restored']))
    scale = network.scale
    sides: list[int | str] = list(size) if size else ['height', 'width']
    scaled = [side * scale if isinstance(side, int) or scale == 1 else f'{scale}*{side}' for side in sides]
    graph = helper.make_graph(
        g.nodes,
        network.arch,
        [helper.make_tensor_value_info('image', TensorProto.FLOAT, ['batch', network.config['inp_channels'], *sides])],
        [
            helper.make_tensor_value_info(
                'restored', TensorProto.FLOAT, ['batch', network.config['out_channels'], *scaled]
            )
        ],
        g.initializers,
    )
    opsets = [helper.make_opsetid('', opset)] + [helper.make_opsetid(DOMAIN, 1)] * kernel
    return helper.make_model(
        graph,
        producer_name='vmambair-arch',
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True),
    )


def _array(parameter: Tensor | nn.Module | None) -> Floats:
    """A parameter; torch cannot tell the type of what a module holds."""
    assert isinstance(parameter, Tensor)
    array: Floats = parameter.detach().float().cpu().numpy()
    return array


def _conv(
    g: Graph, x: Value, weight: Floats, bias: Floats | None, norm: LayerNorm | None = None, groups: int = 1
) -> Value:
    """A convolution with as much zero padding as keeps the size.

    Args:
        weight: (o, c, k, k), or (o, c) for one of 1x1.
        norm: a normalisation before a 1x1 convolution; x is its input. Its affine part becomes part of the weights.
    """
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    if norm is not None:
        x = _standardised(g, x, norm)
        if not norm.bias_free:
            shift = weight[..., 0, 0].astype(np.float64) @ _array(norm.body.bias)
            bias = (shift if bias is None else shift + bias).astype(np.float32)
        weight = weight * _array(norm.body.weight)[:, None, None]
    edge = weight.shape[-1] // 2
    inputs = [x, g.weight(weight)] + ([] if bias is None else [g.weight(bias)])
    return g.op('Conv', *inputs, kernel_shape=weight.shape[2:], pads=[edge] * 4, group=groups)


def _layer(g: Graph, x: Value, layer: Tensor | nn.Module) -> Value:
    """A convolution; torch cannot tell the type of what a module holds."""
    assert isinstance(layer, nn.Conv2d)
    bias = None if layer.bias is None else _array(layer.bias)
    return _conv(g, x, _array(layer.weight), bias, groups=layer.groups)


def _standardised(g: Graph, x: Value, norm: LayerNorm) -> Value:
    """LayerNorm over the channels of a map (b, c, h, w), without its affine part.

    The means are products with a row of 1/c: a tenth of the time of onnxruntime's ReduceMean over an axis in between.
    """
    c = len(_array(norm.body.weight))
    mean = g.constant(np.full((1, c), 1 / c))
    flat = g.reshape(x, 0, c, -1)
    centred = g.op('Sub', flat, g.op('MatMul', mean, flat))
    variance = g.op('MatMul', mean, g.op('Mul', centred, centred))
    deviation = g.op('Sqrt', g.op('Add', variance, g.constant(norm.eps)))
    return g.op('Reshape', g.op('Div', flat if norm.bias_free else centred, deviation), g.op('Shape', x))


def _norm(g: Graph, x: Value, norm: LayerNorm) -> Value:
    y = g.op('Mul', _standardised(g, x, norm), g.weight(_array(norm.body.weight)[:, None, None]))
    return y if norm.bias_free else g.op('Add', y, g.weight(_array(norm.body.bias)[:, None, None]))


def _oss_module(g: Graph, x: Value, module: OSSModule, norm: LayerNorm) -> Value:
    weight, bias = _array(module.in_conv.weight), _array(module.in_conv.bias)
    d = len(bias) // 2
    u = g.silu(_layer(g, _conv(g, x, weight[:d], bias[:d], norm), module.conv2d))
    z = g.silu(_conv(g, x, weight[d:], bias[d:], norm))
    x_proj, dt_weight, dt_bias = map(_array, (module.x_proj_weight, module.dt_projs_weight, module.dt_projs_bias))
    skip = _array(module.Ds).reshape(-1, d)
    if g.kernel:
        y = kernel_scan(
            g, u, x_proj, dt_weight, dt_bias, -np.exp(_array(module.A_logs)).reshape(len(skip), d, -1), skip
        )
    else:
        y = plane_scan(g, u, Weights.of(x_proj, dt_weight, dt_bias, _array(module.A_logs)), skip)
    y = g.op('Mul', _norm(g, y, module.out_norm), z)
    if module.sequence_directions:
        c = _channels(g, y, module, d)
        if module.channel_fusion == 'mul':
            y = g.op('Mul', y, g.op('Add', c, g.constant(1.0)))
        else:
            y = g.op('Add', y, c)
    return _conv(g, y, _array(module.out_conv.weight), _array(module.out_conv.bias))


def _channels(g: Graph, y: Value, module: OSSModule, d: int) -> Value:
    """What the channel scan reads of a map y (b, d, h, w), normalised: (b, d, 1, 1), or of a pixel's own channels."""
    parameters = (module.xc_proj_weight, module.dtc_projs_weight, module.dtc_projs_bias, module.Ac_logs)
    x_proj, dt_weight, dt_bias, A_logs = map(_array, parameters)
    weights = Weights.of(x_proj, dt_weight, dt_bias, A_logs)
    width = weights.d
    skip = _array(module.Dsc).reshape(-1, width)
    if module.channel_pool:
        y = g.mean(y, 2, 3)
    lift, drop = (module.conv_cin, module.conv_cout) if width > 1 else (None, None)
    if module.channel_pool and weights.N * width * d <= CLOSED_FORM_UP_TO:
        u = g.reshape(y, -1, 1, d)
        if lift is not None and drop is not None:
            u = g.op('Add', g.op('Mul', u, _column(g, lift.weight)), _column(g, lift.bias))
            u = channel_scan(g, u, weights, skip, d)
            u = g.op('Add', g.op('MatMul', g.weight(_array(drop.weight).reshape(1, -1)), u), _column(g, drop.bias))
        else:
            u = channel_scan(g, u, weights, skip, d)
        c = g.reshape(u, -1, d, 1, 1)
    else:
        batch, h, w = (g.side(y, axis) for axis in (0, 2, 3))
        u = g.reshape(g.transpose(y, 1, 0, 2, 3), d, 1, 1, 1, -1)
        if lift is not None and drop is not None:
            u = g.op('Add', g.op('Mul', u, _column(g, lift.weight)), _column(g, lift.bias))
            u = sequence_scan(g, u, weights, skip)
            u = g.op('Add', g.op('MatMul', g.weight(_array(drop.weight).reshape(1, -1)), u), _column(g, drop.bias))
        else:
            u = sequence_scan(g, u, weights, skip)
        c = g.transpose(g.reshape(u, d, batch, h, w), 1, 0, 2, 3)
    return _norm(g, c, module.channel_norm)


def _column(g: Graph, parameter: Tensor | nn.Module | None) -> Value:
    return g.weight(_array(parameter).reshape(-1, 1))


def _effn(g: Graph, x: Value, module: EFFN, norm: LayerNorm) -> Value:
    """The two halves are separate from the start: nothing is cut."""
    halves = []
    inner = [_array(module.project_in.weight), _array(module.dwconv.weight)]
    biases = [None if p is None else _array(p) for p in (module.project_in.bias, module.dwconv.bias)]
    hidden = len(inner[0]) // 2
    for half in (slice(0, hidden), slice(hidden, None)):
        weight, spread = (w[half] for w in inner)
        bias, spread_bias = (None if b is None else b[half] for b in biases)
        halves.append(_conv(g, _conv(g, x, weight, bias, norm), spread, spread_bias, groups=hidden))
    out_bias = None if module.project_out.bias is None else _array(module.project_out.bias)
    return _conv(g, g.op('Mul', g.gelu(halves[0]), halves[1]), _array(module.project_out.weight), out_bias)


def _blocks(g: Graph, blocks: Iterable[nn.Module], x: Value) -> Value:
    for block in blocks:
        assert isinstance(block, OSSBlock)
        x = g.op('Add', x, _oss_module(g, x, block.attn, block.norm1))
        if block.effn:
            x = g.op('Add', x, _effn(g, x, block.ffn, block.norm2))
    return x


def _shuffle(g: Graph, x: Value, factor: int) -> Value:
    return g.op('DepthToSpace', x, blocksize=factor, mode='CRD')


def _unshuffle(g: Graph, x: Value, channels: int) -> Value:
    """PixelUnshuffle(2) of (b, channels, h, w); SpaceToDepth orders the channels the other way."""
    batch, h, w = (g.side(x, axis) for axis in (0, 2, 3))
    two = g.ints(2)
    h, w = (g.op('Div', side, two) for side in (h, w))
    x = g.transpose(g.reshape(x, batch, channels, h, 2, w, 2), 0, 1, 3, 5, 2, 4)
    return g.reshape(x, batch, channels * 4, h, w)


def _tail(g: Graph, x: Value, network: Network) -> Value:
    """Features to image, as `archs.tail` does it."""
    if network.scale == 1:
        return _layer(g, x, network.output)
    assert isinstance(network.tail, UpsamplingTail)
    weight, bias, stages = composed(network.tail)
    image = _shuffled(g, _conv(g, x, _array(weight), _array(bias)), stages[0].factors)
    for side in SIDES:
        for length, surplus in _surplus(g, x, stages, side):
            image = _taken_off(g, image, side, length, surplus)
    return image


def _shuffled(g: Graph, x: Value, factors: Iterable[int]) -> Value:
    for factor in factors:
        x = _shuffle(g, x, factor)
    return x


def _surplus(g: Graph, x: Value, stages: list[Stage], side: Side) -> Iterator[tuple[int, Value]]:
    """As in `archs.tail`, with the length along the axis of the side."""

    def by(y: Value, weight: Tensor, padding: Iterable[int], bias: Tensor | None = None) -> Value:
        inputs = [y, g.weight(_array(weight))] + ([] if bias is None else [g.weight(_array(bias))])
        return g.op('Conv', *inputs, kernel_shape=tuple(weight.shape[2:]), pads=[*padding])

    for stage in stages:
        outside = by(_part(g, x, side, 1), side.taps(stage.weight, 2, 1), side.outwards * 2, stage.bias)
        surplus = by(outside, side.taps(stage.after, 0, 1), side.inwards * 2)
        yield int(np.prod(stage.factors)), _shuffled(g, surplus, stage.factors)
        if stage is not stages[-1]:
            # With a zero on the inner side, two pixels give the nearer one of the next map, and so does a single one.
            pads = [*side.along * 2]
            pads[2 + side.axis if side.last else 4 + side.axis] = 1
            near = by(_part(g, x, side, 2), side.taps(stage.weight, 1, 2), pads, stage.bias)
            x = _shuffle(g, _part(g, near, side, 1), stage.factors[0])


def _part(g: Graph, x: Value, side: Side, length: int) -> Value:
    """The rows or columns of (b, c, h, w) nearest to a side."""
    start, end = (-length, _END) if side.last else (0, length)
    return g.slice(x, g.ints(start), g.ints(end), axis=4 + side.axis)


def _taken_off(g: Graph, image: Value, side: Side, length: int, surplus: Value) -> Value:
    """An image less `surplus` at one side of it."""
    axis = 4 + side.axis
    start, end = (0, -length) if side.last else (length, _END)
    parts = [g.op('Sub', _part(g, image, side, length), surplus), g.slice(image, g.ints(start), g.ints(end), axis=axis)]
    return g.op('Concat', *(reversed(parts) if side.last else parts), axis=axis)


def _enlarged(g: Graph, image: Value, scale: int) -> Value:
    if scale == 1:
        return image
    return g.op(
        'Resize', image, '', g.constant([1, 1, scale, scale]), mode='nearest',
        coordinate_transformation_mode='asymmetric', nearest_mode='floor',
    )  # fmt: skip


def _padded(g: Graph, image: Value) -> Value:
    """Pad to multiples of MULTIPLE as `archs.layers.pad_to_multiple` does, by indices, for sizes that are not known."""
    for axis in (2, 3):
        side = g.op('Squeeze', g.side(image, axis), g.ints(0))
        one, multiple, zero = (g.constant(n, np.int64) for n in (1, MULTIPLE, 0))
        pad = g.op('Mod', g.op('Sub', multiple, g.op('Mod', side, multiple)), multiple)
        index = g.op('Range', zero, g.op('Add', side, pad), one)
        last = g.op('Sub', side, one)
        reflected = g.op('Sub', last, g.op('Abs', g.op('Sub', index, last)))
        index = g.op('Where', g.op('Less', pad, side), reflected, g.op('Min', index, last))
        image = g.op('Gather', image, index, axis=axis)
    return image


def _vmambair(g: Graph, network: VmambaIR) -> Value:
    h, w = (g.side('image', axis) for axis in (2, 3))
    image = _padded(g, 'image')
    dim, scale = network.config['dim'], network.scale

    def down(x: Value, layer: Downsample, width: int) -> Value:
        return _unshuffle(g, _layer(g, x, layer.body[0]), width // 2)

    def up(x: Value, layer: Upsample) -> Value:
        return _shuffle(g, _layer(g, x, layer.body[0]), 2)

    shallow = _layer(g, image, network.patch_embed.proj)
    level1 = _blocks(g, network.encoder_level1, shallow)
    level2 = _blocks(g, network.encoder_level2, down(level1, network.down1_2, dim))
    level3 = _blocks(g, network.encoder_level3, down(level2, network.down2_3, dim * 2))
    latent = _blocks(g, network.latent, down(level3, network.down3_4, dim * 4))

    y = g.op('Concat', up(latent, network.up4_3), level3, axis=1)
    y = _blocks(g, network.decoder_level3, _layer(g, y, network.reduce_chan_level3))
    y = g.op('Concat', up(y, network.up3_2), level2, axis=1)
    y = _blocks(g, network.decoder_level2, _layer(g, y, network.reduce_chan_level2))
    y = g.op('Concat', up(y, network.up2_1), level1, axis=1)
    y = _blocks(g, network.refinement, _blocks(g, network.decoder_level1, y))

    dual = hasattr(network, 'skip_conv')
    if dual:
        y = g.op('Add', y, _layer(g, shallow, network.skip_conv))
    out = _tail(g, y, network)
    if not dual:
        out = g.op('Add', out, _enlarged(g, image, scale))
    for axis, side in ((2, h), (3, w)):
        out = g.slice(out, g.ints(0), g.op('Mul', side, g.ints(scale)), axis=axis)
    return out


def _ossnet(g: Graph, network: OSSNet) -> Value:
    shallow = _layer(g, 'image', network.conv_first)
    y = _norm(g, _blocks(g, network.body, shallow), network.norm)
    y = g.op('Add', shallow, _layer(g, y, network.conv_after_body))
    return g.op('Add', _tail(g, y, network), _enlarged(g, 'image', network.scale))
