"""The tail in one convolution is the chain of its convolutions: inside, at borders, in corners, and in gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vmambair_arch.archs import VmambaIR
from vmambair_arch.archs.tail import UpsamplingTail, composed


def tail(dim=6, out_channels=3, scale=4, dtype=torch.float64):
    torch.manual_seed(dim)
    return UpsamplingTail(dim, out_channels, scale).to(dtype)


@settings(deadline=None)
@given(
    scale=st.sampled_from([2, 3, 4]),
    dim=st.integers(1, 6),
    out_channels=st.integers(1, 4),
    batch=st.integers(1, 3),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
)
def test_it_is_the_chain(scale, dim, out_channels, batch, h, w):
    network = tail(dim, out_channels, scale)
    x = torch.randn(batch, dim, h, w, dtype=torch.float64, requires_grad=True)
    results = network.at_once(x), network.chain(x)
    assert results[0].shape == (batch, out_channels, h * scale, w * scale)
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    ahead = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(result, [x, *network.parameters()], ahead) for result in results]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_gradcheck(scale):
    network = tail(2, 1, scale)
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: network.at_once(x), [x, *network.parameters()])


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_one_convolution_is_enough_inside(scale):
    network = tail(scale=scale)
    x = torch.randn(1, 6, 9, 8, dtype=torch.float64)
    weight, bias, _ = composed(network)
    inner = F.conv2d(x, weight, bias, padding=2)
    for layer in network[0][1::2]:
        inner = layer(inner)
    inside = (..., slice(scale, -scale), slice(scale, -scale))
    torch.testing.assert_close(inner[inside], network.chain(x)[inside], rtol=0, atol=1e-12)
    assert (inner - network.chain(x)).abs().max() > 1e-3  # what the borders are for


@pytest.mark.parametrize(
    ('dtype', 'limit'), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
def test_precision(dtype, limit):
    network = tail(16, dtype=dtype)
    x = torch.randn(1, 16, 17, 16).to(dtype)
    exact = tail(16)
    exact.load_state_dict(network.state_dict())
    expected = exact.chain(x.double())
    result = network(x)
    assert result.dtype == dtype
    assert (result - expected).abs().max() <= limit * expected.abs().max()
    assert all(part.dtype == torch.float32 for part in composed(network)[:2])


def test_autocast_composes_in_single_precision():
    network = tail(8, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        parts = composed(network)[:2]
        assert network.at_once(torch.randn(1, 8, 6, 6)).dtype == torch.bfloat16
    for ours, exact in zip(parts, composed(network)[:2], strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0)


def test_another_type_than_the_parameters_is_refused_as_by_a_convolution():
    for run in (network := tail(dtype=torch.float32)).at_once, network.chain:
        with pytest.raises(RuntimeError, match='type'):
            run(torch.randn(1, 6, 5, 5, dtype=torch.float64))


def ways(network, x):
    """Which of the two ways a call takes."""
    taken = []
    network.at_once = lambda y: taken.append('at once') or UpsamplingTail.at_once(network, y)
    network.chain = lambda y: taken.append('chain') or UpsamplingTail.chain(network, y)
    result = network(x)
    del network.at_once, network.chain
    return taken, result


@pytest.mark.parametrize(('shape', 'way'), [((1, 16, 16), 'at once'), ((4, 8, 8), 'at once'), ((1, 15, 17), 'chain')])
def test_few_pixels_go_through_the_chain(shape, way):
    batch, h, w = shape
    assert ways(tail(), torch.randn(batch, 6, h, w, dtype=torch.float64))[0] == [way]


def pruned(network):
    nn.utils.prune.random_unstructured(network[0][0], 'weight', 0.5)


def with_a_hook(network):
    network[1].register_forward_hook(lambda module, inputs, output: 2 * output)


def with_its_own_convolution(network):
    class Twice(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    network[0][0] = Twice(6, 24, 3, padding=1).double()


def with_a_spectral_norm(network):
    nn.utils.spectral_norm(network[0][2]).eval()


@pytest.mark.parametrize('change', [pruned, with_a_hook, with_its_own_convolution, with_a_spectral_norm])
def test_convolutions_that_others_changed_are_called(change):
    network = tail()
    change(network)
    x = torch.randn(1, 6, 16, 16, dtype=torch.float64)
    taken, result = ways(network, x)
    assert taken == ['chain']
    expected = network[1](network[0](x))
    torch.testing.assert_close(result, expected)


def test_weight_norm_as_a_parametrization_trains():
    network = tail()
    nn.utils.parametrizations.weight_norm(network[0][0])
    x = torch.randn(1, 6, 16, 16, dtype=torch.float64)
    results = network(x), network.chain(x)
    torch.testing.assert_close(*results)
    for result in results:
        result.sum().backward()


def test_shapes_can_be_known_beforehand():
    assert tail(dtype=torch.float32).to('meta').at_once(torch.empty(1, 6, 20, 30, device='meta')).shape == (
        1,
        3,
        80,
        120,
    )


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (3, 4), (9, 5)])
def test_an_exported_program_takes_other_sizes(size):
    network = tail(4, dtype=torch.float32).eval()
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(network, (torch.randn(1, 4, 6, 8),), dynamic_shapes=({2: free, 3: free},))
    x = torch.randn(1, 4, *size)
    torch.testing.assert_close(program.module()(x), network.chain(x), rtol=0, atol=1e-5)


def test_names_of_parameters_are_those_of_the_release():
    network = VmambaIR(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, scale=4)
    names = {name for name in network.state_dict() if name.startswith('tail.')}
    assert names == {f'tail.{layer}.{kind}' for layer in ('0.0', '0.2', '1') for kind in ('weight', 'bias')}


@pytest.mark.parametrize('part', [slice(None), slice(1), slice(0, 0), slice(None, None, -1), slice(-1, None)])
def test_a_slice_is_a_plain_sequence_of_its_layers(part):
    network = tail()
    assert type(network[part]) is nn.Sequential
    assert list(network[part]) == list(network)[part]
    assert network[-1] is network.convolutions()[-1]
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(network[1:](network[:1](x)), network.chain(x))
