"""The tail in one convolution is the chain of its convolutions: inside, at borders, in corners, and in gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

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
    results = network(x), network.chain(x)
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
    assert torch.autograd.gradcheck(lambda x, *_: network(x), [x, *network.parameters()])


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


@pytest.mark.parametrize(('dtype', 'limit'), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_precision(dtype, limit):
    network = tail(16, dtype=dtype)
    x = torch.randn(1, 16, 12, 12).to(dtype)
    exact = tail(16)
    exact.load_state_dict(network.state_dict())
    expected = exact.chain(x.double())
    assert network(x).dtype == dtype
    assert (network(x) - expected).abs().max() <= limit * expected.abs().max()
    assert all(part.dtype == torch.float32 for part in composed(network)[:2])


def test_autocast_composes_in_single_precision():
    network = tail(8, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        parts = composed(network)[:2]
        assert network(torch.randn(1, 8, 6, 6)).dtype == torch.bfloat16
    for ours, exact in zip(parts, composed(network)[:2], strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0)


def test_names_of_parameters_are_those_of_the_release():
    network = VmambaIR(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, scale=4)
    names = {name for name in network.state_dict() if name.startswith('tail.')}
    assert names == {f'tail.{layer}.{kind}' for layer in ('0.0', '0.2', '1') for kind in ('weight', 'bias')}
