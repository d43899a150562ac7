"""Every scan that runs on a CPU against the definition in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import CPU_BACKENDS, NAMES, assert_close, outputs_and_gradients, scan_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from vmambair_arch.ops import (
    PLANE_DIRECTIONS,
    SEQUENCE_DIRECTIONS,
    ScanInputs,
    in_use,
    loop_scan,
    omni_scan,
    scan_order,
    selective_scan,
    torch_scan,
    using,
)

LOOP = pytest.param('loop', marks=pytest.mark.skipif(bool(why := loop_scan.unavailable()), reason=why or ''))
TRAINED_LOOP = pytest.param(
    'loop', marks=pytest.mark.skipif(not loop_scan.has_derivative(), reason='torch differentiates it wrongly')
)
every_backend = pytest.mark.parametrize('backend', CPU_BACKENDS)
every_scan = pytest.mark.parametrize('backend', [*CPU_BACKENDS, TRAINED_LOOP, 'reference'])
"""With those that have to be named."""

STEP_SIZES = ((1e-6, 1e-5), (1e-3, 0.1), (0.5, 5.0), (20.0, 100.0), (1e-6, 100.0))


def compare(backend, inputs, directions=PLANE_DIRECTIONS, y_tolerance=2e-6, grad_tolerance=1e-5):
    """y and all gradients of a backend against the definition in float64 on the same numbers."""
    exact = {name: t.double() for name, t in inputs.items()}
    grad_y = torch.randn(inputs['x'].shape, generator=torch.Generator().manual_seed(1)).to(inputs['x'].dtype)
    wanted = outputs_and_gradients(
        lambda *args: omni_scan(*args, backend='reference'), exact, directions, grad_y.double()
    )
    got = outputs_and_gradients(lambda *args: omni_scan(*args, backend=backend), inputs, directions, grad_y)
    for name, value in got.items():
        assert_close(value, wanted[name], y_tolerance if name == 'y' else grad_tolerance, name)
    for name in NAMES:
        assert got[f'gradient of {name}'].dtype == inputs[name].dtype
    assert got['y'].dtype == inputs['x'].dtype


@every_backend
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    b=st.integers(1, 3),
    h=st.sampled_from((1, 2, 5, 8, 13)),
    w=st.sampled_from((1, 3, 4, 7, 11, 32)),
    d=st.integers(1, 40),
    N=st.sampled_from((1, 2, 3, 4, 5, 16, 17, 64)),
    R=st.integers(1, 7),
    directions=st.lists(st.sampled_from(PLANE_DIRECTIONS), min_size=1, max_size=4, unique=True),
    delta=st.sampled_from(STEP_SIZES),
    seed=st.integers(0, 99),
)
def test_random_shapes(backend, b, h, w, d, N, R, directions, delta, seed):
    # A gradient of a single number can be what is left of a sum that cancels.
    compare(backend, scan_inputs(b, h, w, d, N, R, directions, delta, seed), directions, grad_tolerance=1e-4)


@every_backend
@pytest.mark.parametrize(
    ('shape', 'directions'),
    [
        ((1, 1, 1, 1, 1, 1), PLANE_DIRECTIONS),
        ((3, 7, 13, 48, 16, 3), PLANE_DIRECTIONS),
        ((1, 17, 19, 33, 64, 2), PLANE_DIRECTIONS),
        ((2, 5, 6, 200, 4, 5), PLANE_DIRECTIONS),  # more channels than one group of the C kernel's backward pass
        ((3, 1, 48, 1, 16, 3), SEQUENCE_DIRECTIONS),  # the channel scans of the networks
        ((2, 1, 96, 2, 16, 6), SEQUENCE_DIRECTIONS),
        ((2, 1, 97, 4, 16, 6), SEQUENCE_DIRECTIONS),
        ((1, 6, 11, 20, 16, 2), (0,)),
        ((1, 6, 11, 20, 16, 2), (3, 0, 1)),
        ((1, 4, 5, 8, 2, 1), (1, 1)),
    ],
)
def test_shapes_that_matter(backend, shape, directions):
    compare(backend, scan_inputs(*shape, directions), directions)


@every_backend
def test_a_long_sequence_keeps_its_accuracy(backend):
    inputs = scan_inputs(1, 23, 31, 17, 8, 2, delta=(1e-6, 1.0))
    compare(backend, inputs)


@every_backend
@pytest.mark.parametrize('delta', STEP_SIZES)
def test_step_sizes(backend, delta):
    compare(backend, scan_inputs(2, 6, 9, 19, 16, 2, delta=delta))


@every_backend
def test_a_fast_decay_forgets_without_nan(backend):
    inputs = scan_inputs(1, 5, 9, 18, 64, 2, delta=(50.0, 100.0))
    inputs['A'] = torch.full_like(inputs['A'], -64.0)
    compare(backend, inputs)


@every_backend
@pytest.mark.parametrize('value', [0.0, 1.0, -0.5])
def test_all_equal_inputs(backend, value):
    inputs = {
        name: torch.full_like(t, -1.0 if name == 'A' else value) for name, t in scan_inputs(2, 5, 7, 18, 4, 2).items()
    }
    compare(backend, inputs)


@every_backend
def test_nan_is_not_hidden(backend):
    inputs = scan_inputs(1, 4, 5, 18, 4, 2)
    inputs['x'][0, 2, 3, 1] = float('nan')
    y = omni_scan(ScanInputs(**inputs), backend=backend)
    assert torch.isnan(y[..., 1]).all()  # every pixel is before or after it in some direction
    assert torch.isfinite(y[..., 2:]).all()


@every_scan
def test_non_contiguous_inputs(backend):
    b, h, w, d, N, R = 2, 5, 7, 20, 4, 2
    plain = scan_inputs(b, h, w, d, N, R)
    half_of_a_split = torch.cat([plain['x'], plain['x']], -1)[..., d:]
    channels_first = plain['x'].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    every_second_pixel = plain['x'].repeat_interleave(2, 2)[:, :, ::2]
    compare_views = {
        'x': (half_of_a_split, channels_first, every_second_pixel),
        'x_dbl': (
            plain['x_dbl'].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
            plain['x_dbl'].transpose(1, 2).contiguous().transpose(1, 2),
        ),
        'dt_weight': (plain['dt_weight'].transpose(1, 2).contiguous().transpose(1, 2),),
        'dt_bias': (plain['dt_bias'].t().contiguous().t(),),
        'A': (plain['A'].permute(2, 0, 1).contiguous().permute(1, 2, 0),),
        'D': (plain['D'].t().contiguous().t(),),
    }
    grad_y = torch.randn(b, d, h, w).permute(0, 2, 3, 1)
    wanted = gradients_of(plain, grad_y, backend)
    for name, views in compare_views.items():
        for view in views:
            assert not view.is_contiguous()
            for got, want in zip(gradients_of({**plain, name: view}, grad_y, backend), wanted, strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def gradients_of(inputs, grad_y, backend):
    # detach keeps the strides, unlike clone
    leaves = [t.detach().requires_grad_() for t in inputs.values()]
    y = omni_scan(ScanInputs(*leaves), backend=backend)
    return [y, *torch.autograd.grad(y, leaves, grad_y)]


@every_scan
def test_one_pixel_for_a_whole_batch(backend):
    """Expanded tensors, whose strides are 0, in and as the gradient of y."""
    inputs = scan_inputs(1, 1, 1, 5, 4, 2)
    x = inputs['x'].expand(3, 4, 6, 5).detach().requires_grad_()
    x_dbl = inputs['x_dbl'].expand(3, 4, 6, -1).detach().requires_grad_()
    rest = list(inputs.values())[2:]
    omni_scan(ScanInputs(x, x_dbl, *rest), backend=backend).sum().backward()
    copies = [t.detach().contiguous().requires_grad_() for t in (x, x_dbl)]
    omni_scan(ScanInputs(*copies, *rest), backend='reference').sum().backward()
    torch.testing.assert_close(x.grad, copies[0].grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x_dbl.grad, copies[1].grad, rtol=1e-5, atol=1e-5)


@every_backend
@pytest.mark.parametrize(
    ('x_dtype', 'x_dbl_dtype', 'tolerance'),
    [
        (torch.bfloat16, torch.bfloat16, 2**-8),
        (torch.float16, torch.float16, 2**-10),
        (torch.float32, torch.bfloat16, 2**-8),  # what autocast makes of the projection
        (torch.bfloat16, torch.float32, 2**-8),
        (torch.float32, torch.float16, 2**-10),
    ],
)
def test_half_precision_inputs_keep_a_float32_state(backend, x_dtype, x_dbl_dtype, tolerance):
    inputs = scan_inputs(2, 16, 33, 21, 16, 2)
    inputs = {**inputs, 'x': inputs['x'].to(x_dtype), 'x_dbl': inputs['x_dbl'].to(x_dbl_dtype)}
    compare(backend, inputs, y_tolerance=2e-6 if x_dtype == torch.float32 else tolerance, grad_tolerance=tolerance)


@every_scan
def test_half_precision_parameters(backend):
    inputs = {name: t.bfloat16() for name, t in scan_inputs(1, 6, 7, 18, 4, 2).items()}
    compare(backend, inputs, y_tolerance=2**-8, grad_tolerance=2**-8)


@every_scan
def test_an_empty_batch(backend):
    inputs = {name: t.requires_grad_() for name, t in scan_inputs(1, 4, 5, 6, 4, 2).items()}
    x, x_dbl, *parameters = inputs.values()
    y = omni_scan(ScanInputs(x[:0], x_dbl[:0], *parameters), backend=backend)
    assert y.shape == (0, 4, 5, 6)
    y.sum().backward()
    assert not inputs['A'].grad.any()


@every_scan
@pytest.mark.parametrize('shape', [(0, 3, 4), (1, 0, 4), (2, 3, 0), (1, 0, 0), (0, 0, 0)], ids=str)
def test_a_map_without_pixels(backend, shape):
    inputs = {name: t.requires_grad_() for name, t in scan_inputs(2, 3, 4, 6, 4, 2).items()}
    x, x_dbl, *parameters = inputs.values()
    b, h, w = shape
    y = omni_scan(ScanInputs(x[:b, :h, :w], x_dbl[:b, :h, :w], *parameters), backend=backend)
    assert y.shape == (b, h, w, 6)
    y.sum().backward()
    assert all(t.grad is None or not t.grad.any() for t in inputs.values())


@every_backend
@pytest.mark.parametrize('name', NAMES)
def test_a_gradient_alone_is_the_one_of_all(backend, name):
    inputs = scan_inputs(1, 5, 6, 18, 4, 2)
    together = outputs_and_gradients(
        lambda *args: omni_scan(*args, backend=backend), inputs, PLANE_DIRECTIONS, torch.ones_like(inputs['x'])
    )
    inputs[name].requires_grad_()
    omni_scan(ScanInputs(**inputs), backend=backend).sum().backward()
    torch.testing.assert_close(inputs[name].grad, together[f'gradient of {name}'])
    assert all(t.grad is None for other, t in inputs.items() if other != name)


def test_torch_gradients_by_finite_differences():
    inputs = scan_inputs(2, 2, 3, 2, 2, 1)
    leaves = [t.double().requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(lambda *args: omni_scan(ScanInputs(*args), backend='torch'), leaves)


def test_reference_gradients_by_finite_differences():
    leaves = [t.double().requires_grad_() for t in scan_inputs(1, 2, 3, 2, 2, 1).values()]
    assert torch.autograd.gradcheck(lambda *args: omni_scan(ScanInputs(*args), backend='reference'), leaves)


def test_a_scan_written_out_by_hand():
    """Two pixels, one channel, one state, read forward: nothing shared with the definition but the formula."""
    x, x_dbl = torch.tensor([2.0, 3.0]).view(1, 1, 2, 1), torch.tensor([[0.5, 1.5, -1.0], [-0.25, 0.5, 2.0]])
    weight, A = torch.full((1, 1, 1), 0.8), torch.full((1, 1, 1), -0.7)
    bias, D = torch.full((1, 1), 0.1), torch.full((1, 1), 0.3)
    step = [torch.nn.functional.softplus(torch.tensor(0.8 * dt + 0.1)).item() for dt in (0.5, -0.25)]
    h1 = step[0] * 1.5 * 2
    h2 = torch.tensor(step[1] * -0.7).exp().item() * h1 + step[1] * 0.5 * 3
    wanted = torch.tensor([-1.0 * h1 + 0.3 * 2, 2.0 * h2 + 0.3 * 3]).view(1, 1, 2, 1)
    for backend in ('reference', *CPU_BACKENDS):
        y = omni_scan(ScanInputs(x, x_dbl.view(1, 1, 2, 3), weight, bias, A, D), (0,), backend=backend)
        torch.testing.assert_close(y, wanted)


def test_directions_read_the_map_as_the_paper_draws_them():
    assert scan_order(0, 2, 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert scan_order(1, 2, 3).tolist() == [0, 3, 1, 4, 2, 5]
    assert scan_order(2, 2, 3).tolist() == [5, 4, 3, 2, 1, 0]
    assert scan_order(3, 2, 3).tolist() == [5, 2, 4, 1, 3, 0]


def test_using_a_backend_lasts_for_the_block():
    inputs = ScanInputs(**scan_inputs(1, 3, 4, 5, 4, 2))
    before = in_use('cpu', torch.float32)
    with using('torch'):
        assert in_use('cpu', torch.float32) == 'torch'
        with using('reference'):
            assert torch.equal(omni_scan(inputs), omni_scan(inputs, backend='reference'))
        with pytest.raises(ValueError, match='x_dbl'), using('reference'):
            omni_scan(inputs._replace(x_dbl=inputs.x))
        assert in_use('cpu', torch.float32) == 'torch'
    assert in_use('cpu', torch.float32) == before


def test_using_a_function_calls_it_instead_of_a_scan():
    inputs = ScanInputs(**scan_inputs(1, 3, 4, 5, 4, 2))
    seen = []

    def note(given, directions):
        seen.append((given, directions))
        return given.x

    with using(note):
        assert omni_scan(inputs) is inputs.x
    assert seen == [(inputs, PLANE_DIRECTIONS)]
    assert omni_scan(inputs) is not inputs.x


def test_one_function_in_blocks_inside_each_other_and_in_two_threads():
    inputs = ScanInputs(**scan_inputs(1, 3, 4, 5, 4, 2))

    def hand_back(given, directions):
        return given.x

    def other(given, directions):
        return -given.x

    def leave_a_block():
        with using(hand_back):
            return omni_scan(inputs) is inputs.x

    with using(hand_back), ThreadPoolExecutor(1) as pool:
        assert leave_a_block()
        assert pool.submit(leave_a_block).result()
        with using(other):
            assert torch.equal(omni_scan(inputs), -inputs.x)
            assert torch.equal(omni_scan(inputs, backend='torch'), omni_scan(inputs, backend='torch'))
        assert omni_scan(inputs) is inputs.x


@pytest.mark.parametrize('name', ['c', 'triton', 'mamba'])
def test_a_kernel_that_is_named_for_float64_is_refused(name):
    inputs = ScanInputs(*(t.double() for t in scan_inputs(1, 3, 4, 5, 4, 2).values()))
    with pytest.raises(ValueError, match=f"'{name}' cannot be used: no float64"):
        omni_scan(inputs, backend=name)
    with pytest.raises(ValueError, match=f"'{name}' cannot be used: no float64"), using(name):
        omni_scan(inputs)


@pytest.mark.parametrize('name', [None, 'torch', 'reference', LOOP])
def test_float64_is_computed_in_float64(name):
    inputs = ScanInputs(*(t.double() for t in scan_inputs(1, 3, 4, 5, 4, 2).values()))
    with torch.no_grad():
        y, exact = omni_scan(inputs, backend=name), omni_scan(inputs, backend='reference')
    assert y.dtype == torch.float64
    assert_close(y, exact, 1e-13, 'y')


def test_using_what_does_not_exist():
    with pytest.raises(ValueError, match="backend 'cuda' is not one of"), using('cuda'):
        pass


def test_using_a_backend_is_for_one_thread():
    with using('reference'), ThreadPoolExecutor(1) as pool:
        assert pool.submit(in_use, 'cpu', torch.float32).result() != 'reference'


@pytest.mark.parametrize('name', [LOOP])
def test_the_loop_for_exports_is_the_same_scan(name):
    inputs = ScanInputs(**scan_inputs(2, 3, 4, 5, 4, 2))
    with using(name), torch.no_grad():
        assert_close(omni_scan(inputs), omni_scan(inputs, backend='reference'), 2e-6, 'y')


def test_the_loop_with_an_older_torch_is_refused_in_a_line(monkeypatch):
    """As 2.4, whose torch.export lacks an option, and as 2.12, whose gradients of a loop are wrong."""
    inputs = ScanInputs(**scan_inputs(1, 2, 3, 2, 2, 1))
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, 'export', lambda mod, args, *, dynamic_shapes=None, strict=True: None)
        patch.delitem(selective_scan._LOADED, 'loop', raising=False)
        line = "backend 'loop' cannot be used: .* needs torch 2.9 or newer, .*. Fix: pip install -U 'torch>=2.9'"
        with pytest.raises(ValueError, match=line):
            omni_scan(inputs, backend='loop')
        with pytest.raises(ValueError, match=line), using('loop'):
            pass
    if loop_scan.unavailable() is None:
        monkeypatch.setattr(loop_scan, 'has_derivative', lambda: False)
        inputs.x.requires_grad_()
        with pytest.raises(RuntimeError, match='differentiates loop wrongly; use omni_scan'):
            omni_scan(inputs, backend='loop')
        with torch.no_grad():
            assert omni_scan(inputs, backend='loop').isfinite().all()


class _Launches(TorchDispatchMode):
    """Counts the operators that a GPU would launch a kernel for: all but those that make a view."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += not any(returned.alias_info is not None for returned in func._schema.returns)
        return result


@pytest.mark.parametrize(('grad', 'most'), [(False, 300), (True, 1800)])
def test_torch_launches_few_kernels_on_a_gpu(monkeypatch, grad, most):
    """A map of 64 x 64 in four directions; one operator a pixel and direction would be 16 384."""
    cut = torch_scan._cut
    monkeypatch.setattr(torch_scan, '_cut', lambda device, *sizes: cut(torch.device('mps'), *sizes))
    inputs = ScanInputs(*(t.requires_grad_(grad) for t in scan_inputs(1, 64, 64, 48, 16, 3).values()))
    with _Launches() as launches:
        y = omni_scan(inputs, backend='torch')
        if grad:
            torch.autograd.grad(y.sum(), list(inputs))
    assert launches.count <= most


@pytest.mark.parametrize(('L', 'elements'), [(1, 1), (4096, 3072), (300_000, 12288), (5, 1 << 30), (10, 0)])
def test_segments_are_whole_chunks_and_fit(L, elements):
    for device in (torch.device('cpu'), torch.device('mps')):
        chunk, pixels = torch_scan._cut(device, L, elements)
        assert 1 <= chunk <= L
        assert pixels % chunk == 0
        assert pixels == chunk or pixels * elements <= torch_scan.GPU_SEGMENT_ELEMENTS


def test_torch_gives_the_same_numbers_however_a_gpu_cuts(monkeypatch):
    monkeypatch.setattr(torch_scan, '_cut', lambda device, L, elements: (64, 64 * 4))
    compare('torch', scan_inputs(2, 19, 37, 9, 5, 2))


# --- other derivatives than those of `backward` ----------------------------------------------------------------------


def in_forward_mode(function, x):
    with torch.autograd.forward_ad.dual_level():
        return torch.autograd.forward_ad.unpack_dual(
            function(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        ).tangent


DERIVATIVES = {
    'forward mode': in_forward_mode,
    'jvp': lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    'grad': lambda f, x: torch.func.grad(lambda x: f(x).square().sum())(x),
    'vjp': lambda f, x: torch.func.vjp(f, x)[1](torch.ones_like(x))[0],
    'a gradient for each': lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).square().sum()))(
        torch.stack([x, 2 * x])
    ),
    'grad of a map': lambda f, x: torch.func.grad(lambda x: torch.func.vmap(f)(x).square().sum())(
        torch.stack([x, 2 * x])
    ),
}


@pytest.mark.parametrize('derivative', DERIVATIVES.values(), ids=DERIVATIVES)
@pytest.mark.parametrize('segment', [64, torch_scan.SEGMENT_ELEMENTS], ids=['many segments', 'one segment'])
def test_other_kinds_of_derivatives_are_right_or_refused(monkeypatch, derivative, segment):
    monkeypatch.setattr(torch_scan, 'SEGMENT_ELEMENTS', segment)
    monkeypatch.delenv('VMAMBAIR_SCAN', raising=False)
    inputs = ScanInputs(**scan_inputs(1, 3, 4, 5, 4, 2))

    def scan(backend=None):
        return lambda x: omni_scan(inputs._replace(x=x), backend=backend)

    wanted = derivative(scan('reference'), inputs.x)
    for backend in (None, 'torch'):
        try:
            found = derivative(scan(backend), inputs.x)
        except NotImplementedError:  # torch 2.4 recomputes segments in no forward mode, and says so
            if torch.__version__ >= '2.9':
                raise
            continue
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for named in ('c', *(['loop'] if loop_scan.unavailable() is None else [])):
        with pytest.raises(RuntimeError, match=f'^{named} has no derivative in forward mode or by torch.func'):
            derivative(scan(named), inputs.x)
    with pytest.raises(RuntimeError, match='torch.func'), using('c'):
        derivative(scan(), inputs.x)
    monkeypatch.setenv('VMAMBAIR_SCAN', 'c')
    with pytest.raises(RuntimeError, match='torch.func'):
        derivative(scan(), inputs.x)
    assert in_use('cpu', torch.float32) == 'c'


@pytest.mark.parametrize('backend', ['c', TRAINED_LOOP])
@pytest.mark.parametrize('function', ['linear', 'squares', 'one input'])
@pytest.mark.parametrize('direct', [True, False])
def test_a_second_derivative_is_right_or_refused(backend, function, direct):
    """'torch' has one, tested by its finite differences; an operator's own would be wrong in silence."""

    def penalty(name):
        inputs = ScanInputs(*(t.requires_grad_() for t in scan_inputs(1, 2, 3, 2, 2, 1).values()))
        y = omni_scan(inputs if direct else ScanInputs(*(2 * t for t in inputs)), backend=name)
        of = list(inputs)[:1] if function == 'one input' else list(inputs)
        grads = torch.autograd.grad(y.sum() if function == 'linear' else y.square().sum(), of, create_graph=True)
        return grads, sum(g.square().sum() for g in grads), inputs

    for grad, wanted in zip(penalty(backend)[0], penalty('reference')[0], strict=True):
        torch.testing.assert_close(grad, wanted)  # the first is right, and may be asked for in this way
    with pytest.raises(RuntimeError, match=f'{backend}.* has no second derivative; use omni_scan'):
        penalty(backend)[1].backward()
    penalty('torch')[1].backward()


@pytest.mark.parametrize('backend', [None, *CPU_BACKENDS])
def test_a_scan_is_mapped_over_a_batch(backend):
    inputs = ScanInputs(**scan_inputs(1, 3, 4, 5, 4, 2))

    def scan(x, x_dbl):
        return omni_scan(inputs._replace(x=x, x_dbl=x_dbl), backend=backend)

    x, x_dbl = torch.stack([inputs.x, 2 * inputs.x]), torch.stack([inputs.x_dbl, -inputs.x_dbl])
    each = torch.stack([scan(*pair) for pair in zip(x, x_dbl, strict=True)])
    torch.testing.assert_close(torch.func.vmap(scan)(x, x_dbl), each)
