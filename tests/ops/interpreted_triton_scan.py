"""The Triton kernels in Triton's CPU interpreter; `test_triton_scan.py` runs this file in a process of its own.

The interpreter must be chosen before the kernels are defined (TRITON_INTERPRET=1), and other tests want them compiled.
It takes milliseconds for every line of a kernel: shapes are tiny, and so are chunks, segments and blocks, to have
several of each.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from scan_cases import NAMES, ScanNetwork, assert_close, outputs_and_gradients, scan_inputs, training_step
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmambair_arch.ops import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs, omni_scan, triton_scan

SMALL = {
    'CHUNK_PIXELS': 2,
    'SEGMENT_CHUNKS': (2,),
    'ONE_SEGMENT': 0,
    'TILE': 64,
    'CARRY_SEGMENTS': 2,
    'CARRY_LANES': 64,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Segments of 4 pixels, blocks of 64 states, so that few pixels and channels are many of them."""
    for name, value in SMALL.items():
        monkeypatch.setattr(triton_scan, name, value)


def scan(*args) -> Tensor:
    return omni_scan(*args, backend='triton')


def compare(inputs, directions=PLANE_DIRECTIONS, y_tolerance=2e-6, grad_tolerance=1e-5):
    """y and all gradients against the definition in float64 on the same numbers."""
    exact = {name: t.double() for name, t in inputs.items()}
    grad_y = torch.randn(inputs['x'].shape, generator=torch.Generator().manual_seed(1)).to(inputs['x'].dtype)
    wanted = outputs_and_gradients(
        lambda *args: omni_scan(*args, backend='reference'), exact, directions, grad_y.double()
    )
    got = outputs_and_gradients(scan, inputs, directions, grad_y)
    for name, value in got.items():
        assert_close(value, wanted[name], y_tolerance if name == 'y' else grad_tolerance, name)
    for name in NAMES:
        assert got[f'gradient of {name}'].dtype == inputs[name].dtype
    assert got['y'].dtype == inputs['x'].dtype


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('shape', 'directions', 'delta'),
    [
        ((2, 1, 5, 5, 16, 2), (0,), (1e-3, 0.1)),  # two blocks of channels, the last cut short
        ((1, 1, 9, 4, 16, 6), SEQUENCE_DIRECTIONS, (1e-3, 1.0)),  # the channel scan: states in the lanes
        ((1, 4, 3, 3, 1, 1), (0,), (0.5, 5.0)),
        ((1, 2, 5, 3, 2, 3), (3, 0, 1), (1e-6, 100.0)),  # no two directions share a buffer
        ((1, 1, 1, 1, 1, 1), PLANE_DIRECTIONS, (1e-3, 0.1)),
        ((1, 3, 4, 2, 5, 1), (1, 3), (20.0, 100.0)),
        ((1, 2, 3, 9, 4, 2), (2, 1, 0, 3), (1e-6, 1e-5)),
    ],
)
def test_against_the_definition(shape, directions, delta):
    compare(scan_inputs(*shape, directions, delta), directions)


@pytest.mark.slow
@pytest.mark.parametrize(
    'directions', [k for size in (1, 2, 3, 4) for k in itertools.combinations(PLANE_DIRECTIONS, size)]
)
def test_every_set_of_directions(directions):
    compare(scan_inputs(1, 3, 4, 3, 2, 2, directions), directions)


@pytest.mark.slow
@pytest.mark.parametrize('N', [1, 2, 3, 8, 16, 17, 64])
@pytest.mark.parametrize('delta', [(1e-6, 1e-5), (1e-3, 0.1), (20.0, 100.0), (1e-6, 100.0)])
def test_sizes_of_the_state_and_step_sizes(N, delta):
    compare(scan_inputs(1, 2, 7, 3, N, 2, SEQUENCE_DIRECTIONS, delta), SEQUENCE_DIRECTIONS, grad_tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(3, 5, 7, 6, 4, 3), (1, 13, 2, 9, 2, 7), (2, 1, 31, 2, 16, 6), (1, 5, 3, 40, 1, 1)])
def test_larger_shapes(shape):
    compare(scan_inputs(*shape))


@pytest.mark.slow
def test_the_tile_of_the_release(monkeypatch):
    monkeypatch.undo()
    compare(scan_inputs(1, 9, 15, 35, 16, 3, (0, 1, 2, 3)))  # three segments of 64 pixels, two blocks of 32 channels


@pytest.mark.parametrize(
    ('multiprocessors', 'shape', 'directions', 'cut'),
    [
        (0, (1, 3, 3, 2, 2, 1), (1, 3), (4, 1)),  # a CPU: the longest segments, axes paired
        (1, (1, 3, 3, 2, 2, 1), (1, 3), (4, 2)),
        (2, (1, 3, 3, 2, 2, 1), (1, 3), (1, 2)),
        pytest.param(4, (1, 2, 9, 3, 2, 2), PLANE_DIRECTIONS, (2, 4), marks=pytest.mark.slow),
        pytest.param(9, (1, 2, 9, 3, 2, 2), PLANE_DIRECTIONS, (1, 4), marks=pytest.mark.slow),
    ],
)
def test_every_cut_for_a_number_of_multiprocessors(monkeypatch, multiprocessors, shape, directions, cut):
    monkeypatch.setattr(triton_scan, 'SEGMENT_CHUNKS', (4, 2, 1))
    monkeypatch.setattr(triton_scan, 'PROGRAMS', 4)
    monkeypatch.setattr(triton_scan, '_multiprocessors', lambda device: multiprocessors)
    problem = triton_scan._Problem(*shape, directions, multiprocessors)
    assert (problem.chunks, problem.axes) == cut
    compare(scan_inputs(*shape, directions), directions)


@pytest.mark.parametrize(
    ('chunk', 'piece', 'shape', 'directions'),
    [
        (2, 1, (1, 2, 3, 3, 2, 1), (3,)),
        pytest.param(2, 1, (1, 3, 3, 5, 2, 2), (3, 0), marks=pytest.mark.slow),
        pytest.param(4, 1, (1, 1, 7, 2, 2, 1), SEQUENCE_DIRECTIONS, marks=pytest.mark.slow),
        pytest.param(4, 2, (1, 3, 3, 9, 16, 2), PLANE_DIRECTIONS, marks=pytest.mark.slow),
    ],
)
def test_a_chunk_whose_states_are_too_many_is_taken_in_pieces(monkeypatch, chunk, piece, shape, directions):
    monkeypatch.setattr(triton_scan, 'CHUNK_PIXELS', chunk)
    monkeypatch.setattr(triton_scan, 'PIECE_PIXELS', piece)
    monkeypatch.setattr(triton_scan, 'STATES_OF_A_LANE', 0)
    assert triton_scan._Problem(*shape, directions).gradient_tile()['PIECES'] == chunk // piece
    compare(scan_inputs(*shape, directions), directions)


def test_a_short_sequence_is_one_launch_and_the_same(monkeypatch):
    """As in a channel scan: one segment, whatever a segment of a plane is."""
    inputs = scan_inputs(2, 1, 9, 3, 4, 2, SEQUENCE_DIRECTIONS)
    launched: list[str] = []
    kernels = triton_scan._kernels()

    class Launches:
        def __getattr__(self, name: str):
            class Kernel:
                def __getitem__(self, grid):
                    launched.append(name)
                    return getattr(kernels, name)[grid]

            return Kernel()

    monkeypatch.setattr(triton_scan, '_kernels', Launches)
    several = scan(ScanInputs(**inputs), SEQUENCE_DIRECTIONS)
    assert launched == ['local_states_kernel', 'carry_kernel', 'outputs_kernel']
    launched.clear()
    monkeypatch.setattr(triton_scan, 'ONE_SEGMENT', 9)
    one = scan(ScanInputs(**inputs), SEQUENCE_DIRECTIONS)
    assert launched == ['outputs_kernel']
    torch.testing.assert_close(one, several, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(triton_scan, '_kernels', lambda: kernels)
    compare(inputs, SEQUENCE_DIRECTIONS)


@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision_is_read_as_it_is(dtype):
    inputs = scan_inputs(1, 2, 3, 3, 2, 2, (3,))
    inputs |= {name: inputs[name].to(dtype) for name in ('x', 'x_dbl')}
    # The state is float32: what is left is the rounding of the results.
    epsilon = torch.finfo(dtype).eps
    compare(inputs, (3,), y_tolerance=epsilon, grad_tolerance=epsilon)


def test_a_wide_map_with_half_projections():
    """As networks of float16 scan: the result has the range of float32."""
    inputs = scan_inputs(1, 2, 3, 3, 2, 2, (3,))
    inputs |= {'x_dbl': inputs['x_dbl'].half(), 'D': inputs['D'] * 1e6}
    compare(inputs, (3,), grad_tolerance=torch.finfo(torch.float16).eps)


def test_the_smallest_steps_keep_their_digits():
    """A scan over one pixel with B = C = x = 1 and D = 0 gives the step size itself."""
    z = torch.cat([torch.linspace(-80, 100, 37), torch.linspace(-2, 2, 27)])
    d = z.numel()
    bias = z[None].clone().requires_grad_()
    ones = torch.ones(1, 1, 1, d)
    zeros = torch.zeros(1, d, 1)
    y = scan(ScanInputs(ones, torch.ones(1, 1, 1, 3), zeros, bias, zeros - 1, zeros[..., 0]), (0,))
    y.sum().backward()
    exact, slope = torch.nn.functional.softplus(z.double(), threshold=1000), torch.sigmoid(z.double())
    assert ((y.detach().flatten().double() - exact) / exact).abs().max() < 1e-6
    assert ((bias.grad.flatten().double() - slope) / slope).abs().max() < 1e-6


def test_a_fast_decay_forgets_without_nan():
    inputs = scan_inputs(1, 2, 3, 3, 2, 2, (1,), (50.0, 100.0))
    inputs['A'] = torch.full_like(inputs['A'], -64.0)
    compare(inputs, (1,))


def test_nan_is_not_hidden_and_stays_in_its_channel():
    inputs = scan_inputs(1, 2, 3, 3, 2, 2, (0, 2))
    inputs['x'][0, 1, 1, 1] = float('nan')
    y = scan(ScanInputs(**inputs), (0, 2))
    assert torch.isnan(y[..., 1]).all()  # every pixel is before or after it in one of two directions
    assert torch.isfinite(y[..., [0, 2]]).all()


def test_non_contiguous_inputs():
    inputs = scan_inputs(1, 2, 3, 4, 2, 2, (2,))
    inputs['x'] = torch.cat([inputs['x'], inputs['x']], -1)[..., 4:]
    inputs['x_dbl'] = inputs['x_dbl'].transpose(1, 2).contiguous().transpose(1, 2)
    inputs['A'] = inputs['A'].transpose(1, 2).contiguous().transpose(1, 2)
    compare(inputs, (2,))


# --- torch -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> ScanNetwork:
    torch.manual_seed(0)
    return ScanNetwork(3, 2, 1, (1,), 'triton')


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize('keep_states', [pytest.param(False, marks=pytest.mark.slow), True])
def test_operator_contract(keep_states):
    inputs = [t.requires_grad_() for t in scan_inputs(1, 1, 3, 1, 1, 1, (0,)).values()]
    torch.library.opcheck(torch.ops.vmambair.triton_scan, (*inputs, [0], keep_states))


def test_states_that_were_not_kept_are_computed_again():
    inputs = [t.requires_grad_() for t in scan_inputs(1, 2, 3, 2, 2, 1, (0,)).values()]
    grads = []
    for keep in (False, True):
        y, states = torch.ops.vmambair.triton_scan(*inputs, (0,), keep)
        assert bool(states.numel()) == keep
        grads.append(torch.autograd.grad(y.square().sum(), inputs))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_inference_mode_keeps_nothing(network, x, monkeypatch):
    wanted = network(x)
    kept = []
    forward = triton_scan._forward
    monkeypatch.setattr(triton_scan, '_forward', lambda *a: kept.append(a[-1]) or forward(*a))
    with torch.inference_mode():
        assert torch.equal(network(x), wanted)
    assert kept == [False]


@pytest.mark.slow
def test_compile_without_a_graph_break(network, x):
    compiled = torch.compile(network, fullgraph=True, backend='aot_eager', dynamic=True)
    for got, wanted in zip(training_step(compiled, x), training_step(network, x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_export_with_any_size(network, x):
    auto = torch.export.Dim.AUTO
    with torch.no_grad():
        program = torch.export.export(network, (x,), dynamic_shapes={'x': {0: auto, 1: auto, 2: auto}})
    assert any('vmambair.triton_scan' in str(node.target) for node in program.graph.nodes)
    other = torch.randn(1, 3, 2, 3)
    torch.testing.assert_close(program.module()(other), network(other))


@pytest.mark.slow
def test_activation_checkpointing(network, x):
    wanted = training_step(network, x)
    network.zero_grad()
    checkpoint(network, x, use_reentrant=False).square().sum().backward()
    assert all(torch.equal(p.grad, want) for p, want in zip(network.parameters(), wanted[1:], strict=True))


def test_a_second_derivative_is_refused_not_wrong():
    inputs = [t.requires_grad_() for t in scan_inputs(1, 1, 2, 1, 1, 1, (0,)).values()]
    (grad,) = torch.autograd.grad(scan(ScanInputs(*inputs), (0,)).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='second derivative'):
        grad.sum().backward()


def test_an_empty_batch():
    inputs = scan_inputs(0, 2, 3, 2, 2, 1, (0,))
    got = outputs_and_gradients(scan, inputs, (0,), torch.zeros_like(inputs['x']))
    assert got['y'].shape == inputs['x'].shape
    assert not got['gradient of A'].any()
