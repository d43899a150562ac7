"""VmambaIR and OSSNet: sizes, forms, presets, and networks that find themselves in their own state dict."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch.archs import PRESETS, Mamber32, OSSNet, VmambaIR, build, configuration
from vmambair_arch.archs.layers import LayerNorm, pad_to_multiple
from vmambair_arch.ops import products, using

TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'd_state': 4}
COUNTS = {
    'derain': 25.862,
    'derain_released': 28.710,
    'realsr_x4': 10.498,
    'sr_x4': 11.724,
    'sr_x4_released': 12.028,
}
"""Millions of parameters, measured on the authors' code."""

FORMS = [
    {},
    {'scale': 2},
    {'scale': 3},
    {'scale': 4, 'channel_width': 1},
    {'scale': 4, 'channel_width': 4},
    {'channel_width': 4, 'channel_fusion': 'add'},
    {'channel_width': 4, 'channel_fusion': 'mul'},
    {'channel_width': 1, 'channel_fusion': 'add'},
    {'plane_directions': 1, 'channel_directions': 0},
    {'channel_directions': 1},
    {'channel_directions': 0},
    {'channel_pool': False, 'channel_width': 1},
    {'effn': False},
    {'pointwise': 'linear'},
    {'LayerNorm_type': 'BiasFree'},
    {'bias': True},
    {'inp_channels': 1, 'out_channels': 1},
    {'inp_channels': 6, 'dual_pixel_task': True},
    {'ffn_expansion_factor': 2.0},
]


def _network(cls: type = VmambaIR, **form: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return cls(**{**TINY, **form} if cls is VmambaIR else {'dim': 8, 'num_blocks': 2, 'd_state': 4, **form}).eval()


@pytest.mark.parametrize('preset', COUNTS)
def test_parameter_counts(preset: str) -> None:
    with torch.device('meta'):
        network = VmambaIR.from_preset(preset)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 3) == COUNTS[preset]


def test_released_alternatives() -> None:
    with torch.device('meta'):
        thirty_two = Mamber32(num_blocks=[4, 4, 6, 8], num_refinement_blocks=2, heads=[1, 2, 4, 8])
        thirty_three = VmambaIR(num_blocks=[3, 5, 7, 9])
        drawn = VmambaIR.from_preset('realsr_x4')
        light = VmambaIR.from_preset('light')
    millions = [
        round(sum(p.numel() for p in n.parameters()) / 1e6, 3) for n in (thirty_two, thirty_three, drawn, light)
    ]
    assert millions[:3] == [25.872, 28.699, 10.498]
    assert millions[3] == 1.519


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_every_form_runs_trains_and_finds_itself(form: dict) -> None:
    network = _network(**form)
    channels, scale = network.config['inp_channels'], network.scale
    x = torch.rand(2, channels, 9, 13)
    y = network(x)
    assert y.shape == (2, network.config['out_channels'], 9 * scale, 13 * scale)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    state = network.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    rebuilt = build(state)
    assert torch.equal(rebuilt(x), y)
    _, config = configuration(state)
    ignored = {'checkpoint', *(('bias',) if not network.config['effn'] else ())}
    if not network.config['channel_directions']:
        ignored |= {'channel_width', 'channel_fusion', 'channel_pool'}
    same = {k: v for k, v in network.config.items() if k not in ignored and k != 'ffn_expansion_factor'}
    assert {k: config[k] for k in same} == same


def _detects() -> list[tuple[type, dict]]:
    return [(VmambaIR, {}), (VmambaIR, {'scale': 4, 'pointwise': 'linear'}), (OSSNet, {}), (OSSNet, {'scale': 3})]


READ_BY_SHAPE = (
    'patch_embed.proj.weight',
    'conv_first.weight',
    'output.weight',
    'tail.0.0.weight',
    'tail.1.weight',
    'A_logs',
    'x_proj_weight',
    'xc_proj_weight',
    'in_conv.weight',
    'project_out.weight',
)


@pytest.mark.parametrize('shape', [(), (3,), (0,), (2, 3, 4, 5, 6), (0, 3, 3, 3), (0, 0), (3, 0, 2)], ids=str)
@pytest.mark.parametrize(('cls', 'form'), _detects(), ids=str)
def test_a_parameter_of_an_odd_shape_is_named(cls: type, form: dict, shape: tuple[int, ...]) -> None:
    """By a ValueError, the one thing that programs which try every network on a file take for a no."""
    state = _network(cls, **form).state_dict()
    found = 0
    for end in READ_BY_SHAPE:
        name = next((key for key in state if key.endswith(end)), '')
        if not name or (cls is OSSNet and end == 'in_conv.weight'):  # whose kind is not in question
            continue
        found += 1
        with pytest.raises(
            ValueError, match=f"^{cls.__name__}: the parameter '{name}' has the shape .* dimensions above 0$"
        ):
            build({**state, name: torch.zeros(shape)})
    assert found >= 6


@pytest.mark.parametrize('value', [None, 3, 'text', {}])
def test_what_is_no_parameter_is_named(value: object) -> None:
    state = _network().state_dict()
    with pytest.raises(ValueError, match="^VmambaIR: the parameter 'patch_embed.proj.weight' is missing$"):
        configuration({**state, 'patch_embed.proj.weight': value})


@pytest.mark.parametrize('number', ['x', '', '-1', '+1', '1_0', ' 1', '1e0'])
@pytest.mark.parametrize(('cls', 'level'), [(VmambaIR, 'encoder_level1'), (VmambaIR, 'refinement'), (OSSNet, 'body')])
def test_a_block_without_a_number_is_named(cls: type, level: str, number: str) -> None:
    name = f'{level}.{number}.norm1.body.weight'
    with pytest.raises(ValueError, match=f"^{cls.__name__}: the parameter '.*' has no number of a block after"):
        configuration({**_network(cls).state_dict(), name: torch.zeros(8)})


@settings(deadline=None, max_examples=150)
@given(data=st.data(), choice=st.integers(0, len(_detects()) - 1))
def test_whatever_is_done_to_parameters_is_refused_by_a_valueerror(data: st.DataObject, choice: int) -> None:
    cls, form = _detects()[choice]
    state = dict(_network(cls, **form).state_dict())
    for name in data.draw(st.lists(st.sampled_from(list(state)), min_size=1, max_size=3, unique=True)):
        shape = data.draw(st.lists(st.integers(0, 5), max_size=5))
        kind = data.draw(st.sampled_from(['shape', 'gone', 'named']))
        value = state.pop(name)
        if kind == 'shape':
            state[name] = torch.zeros(shape)
        elif kind == 'named':
            state[name + '.x'] = value
    if {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in _network(cls, **form).state_dict().items()}:
        return
    with pytest.raises(ValueError, match='.') as error:
        build(state)
    assert 'unpack' not in str(error.value)


@given(h=st.integers(1, 20), w=st.integers(1, 20))
@settings(max_examples=12, deadline=None)
def test_any_size(h: int, w: int) -> None:
    with torch.no_grad():
        assert _network(scale=2)(torch.rand(1, 3, h, w)).shape == (1, 3, 2 * h, 2 * w)


def test_padding_reflects_and_repeats() -> None:
    x = torch.arange(10.0).view(1, 1, 1, 10)
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (1, 1, 8, 16)
    assert padded[0, 0, 0, 10:].tolist() == [8, 7, 6, 5, 4, 3]
    assert torch.equal(padded[0, 0, 5], padded[0, 0, 0])
    assert pad_to_multiple(torch.rand(1, 1, 8, 8), 8).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    'scale', [2, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1, 3, 4))]
)  # each compiles twice
def test_a_compiled_network_takes_pictures_of_other_sizes(scale: int) -> None:
    torch._dynamo.reset()
    network = _network(scale=scale, num_blocks=[0, 0, 0, 0], num_refinement_blocks=0)
    compiled = torch.compile(network, backend='aot_eager')
    with torch.no_grad():
        for size in ((16, 16), (13, 19), (3, 26)):
            x = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(x), network(x), rtol=1e-3, atol=1e-4)


STATES = {
    'as it is': dict,
    'of parameters': lambda state: {name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in state.items()},
    'in half': lambda state: {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
    'in double': lambda state: {name: t.double() if t.is_floating_point() else t for name, t in state.items()},
    'one storage': lambda state: {name: t.clone()[None].expand(2, *t.shape)[1] for name, t in state.items()},
}


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('kind', STATES.values(), ids=STATES)
@pytest.mark.parametrize(('cls', 'form'), [(VmambaIR, {}), (OSSNet, {'scale': 2, 'channel_fusion': 'add'})], ids=str)
def test_a_built_network_has_parameters_of_its_own_that_train(cls: type, form: dict, kind, inference: bool) -> None:
    with torch.inference_mode(inference):
        state = kind(_network(cls, **form).state_dict())
        before = {name: (t.clone(), t.requires_grad) for name, t in state.items()}
        network = build(state)
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.is_leaf
            assert parameter.dtype == torch.float32
            parameter -= 0.1 * parameter.grad + 1
        for buffer in network.buffers():
            buffer += 1
    assert {t.data_ptr() for t in state.values()}.isdisjoint(t.data_ptr() for t in network.state_dict().values())
    for name, (value, grad) in before.items():
        assert torch.equal(state[name], value), name
        assert state[name].requires_grad == grad, name


def test_a_flat_residual_at_birth() -> None:
    """An image of zeros and an untrained network: what comes out is finite and small, as the residual wants."""
    with torch.no_grad():
        assert _network()(torch.zeros(1, 3, 16, 16)).abs().max() < 1


@pytest.mark.parametrize('cls', [VmambaIR, OSSNet])
@pytest.mark.parametrize('scale', [1, 2, 3, 4])
def test_scales(cls: type, scale: int) -> None:
    network = _network(cls, scale=scale)
    x = torch.rand(1, 3, 5, 7)
    with torch.no_grad():
        y = network(x)
        assert y.shape == (1, 3, 5 * scale, 7 * scale)
        assert torch.equal(build(network.state_dict())(x), y)


def test_checkpointing_changes_memory_only() -> None:
    plain, recomputing = _network(), _network(checkpoint=True)
    x = torch.rand(1, 3, 16, 16)
    gradients = []
    for network in (plain, recomputing):
        network.train()(x).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_a_form_that_shapes_cannot_tell_is_refused_by_another() -> None:
    add = _network(channel_width=2, channel_fusion='add')
    with pytest.raises(RuntimeError, match='form'):
        _network(channel_width=2).load_state_dict(add.state_dict())
    no_pool = _network(channel_width=4, channel_fusion='add', channel_pool=False)
    with pytest.raises(RuntimeError, match='channel_pool'):
        _network(channel_width=4, channel_fusion='mul', channel_pool=True).load_state_dict(no_pool.state_dict())


def test_deepcopy_and_float64() -> None:
    network = copy.deepcopy(_network()).double()
    x = torch.rand(1, 3, 10, 9)
    with torch.no_grad():
        exact, single = network(x.double()), _network()(x)
    assert (single - exact).norm() / exact.norm() < 1e-5


def test_autocast_keeps_the_shape_and_stays_close() -> None:
    network, x = _network(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            low = network(x)
    assert (low.float() - exact).square().mean().sqrt() < 0.05


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        ({'scale': 5}, 'scale'),
        ({'num_blocks': [1, 1]}, 'num_blocks'),
        ({'num_blocks': [1, 1, 1, -1]}, 'num_blocks'),
        ({'num_refinement_blocks': -1}, 'num_refinement_blocks'),
        ({'channel_fusion': 'sum'}, 'channel_fusion'),
        ({'dim': 7}, 'dim'),
        ({'dim': 0}, 'dim'),
        ({'inp_channels': 6}, 'dual_pixel_task'),
        ({'plane_directions': 0}, 'plane_directions'),
        ({'LayerNorm_type': 'Bias'}, 'LayerNorm_type'),
        *(
            ({'ffn_expansion_factor': f}, 'ffn_expansion_factor must be')
            for f in (0.01, 0, -1, float('nan'), float('inf'), True, 'a')
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        VmambaIR(**{**TINY, **arguments})


WRONG: dict[type, tuple[object, ...]] = {
    bool: (None, 0, 1, 1.0, 'yes', 'true', 'false', [True]),
    int: (None, True, False, 4.0, '4', [4], 1j, float('nan')),
    str: (None, True, 0, ['mul'], b'conv', 'Conv', ''),
    float: (None, True, '2.66', [2.66], 1j),
    tuple: (None, 1.0, 'four', [1, 1, 1, True], [1, 1, 1, 1.0], [1, 1, 1, '1'], [1, 1, 1, None], [[1], 1, 1, 1]),
}
"""By the type of an argument's default, values of other types."""


def _wrong_arguments() -> list[tuple[type, str, object]]:
    found = []
    for cls in (VmambaIR, OSSNet):
        for name, parameter in inspect.signature(cls).parameters.items():
            found += [(cls, name, value) for value in WRONG[type(parameter.default)]]
    return found


@pytest.mark.parametrize(('cls', 'name', 'value'), _wrong_arguments(), ids=repr)
def test_an_argument_of_another_type_is_named(cls: type, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f'^{cls.__name__}: {name} must '):
        _network(cls, **{name: value})


def test_unknown_preset_has_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'derain'"):
        VmambaIR.from_preset('derian')


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r'\(b, 3, h, w\)'):
        _network()(torch.rand(1, 4, 8, 8))


@pytest.mark.parametrize('name', PRESETS)
def test_presets_build(name: str) -> None:
    with torch.device('meta'):
        assert VmambaIR.from_preset(name).config['dim'] > 0


# --- derivatives of other kinds than a training's --------------------------------------------------------------------


@pytest.fixture(params=['torch', 'onednn'])
def library_of_products(request, monkeypatch):
    """The test runs once with each library."""
    monkeypatch.setenv(products.ENV, request.param)
    for cached in (products._library, products._smallest):
        cached.cache_clear()
    yield
    for cached in (products._library, products._smallest):
        cached.cache_clear()


def _small(cls: type) -> torch.nn.Module:
    return _network(cls, dim=16)


def _penalty(network: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the size of a gradient, by name of parameter."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(gradient.square().sum(), list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}


@pytest.mark.parametrize('cls', [OSSNet, VmambaIR])
def test_a_penalty_on_the_gradient_has_the_gradients_of_torch(cls, library_of_products, monkeypatch, recwarn):
    network, x = _small(cls), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with using('torch'):
        wanted = _penalty(network, x)
    monkeypatch.setenv('VMAMBAIR_SCAN', 'torch')
    got = _penalty(network, x)
    assert got.keys() == wanted.keys()
    largest = max(g.norm() for g in wanted.values())
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() <= 1e-3 * gradient.norm() + 2e-5 * largest, name
    assert not [warning for warning in recwarn if 'autograd' in str(warning.message)]


DERIVATIVES = {
    'forward mode': lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    'torch.func.grad': lambda f, x: torch.func.grad(lambda x: f(x).square().sum())(x),
    'vmap': lambda f, x: torch.func.vmap(f)(torch.stack([x, 1 - x])),
}


@pytest.mark.parametrize('derivative', DERIVATIVES.values(), ids=DERIVATIVES)
def test_functions_of_a_network_have_the_derivatives_of_torch(library_of_products, derivative):
    network, x = _small(OSSNet), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    got = derivative(network, x)
    with using('torch'):
        wanted = derivative(network, x)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize('differentiated', [False, True])
@pytest.mark.parametrize('check', [False, True])
@pytest.mark.parametrize('cls', [OSSNet, VmambaIR])
def test_a_network_is_traced(library_of_products, cls, check, differentiated):
    network = _small(cls)
    with torch.set_grad_enabled(differentiated):
        traced = torch.jit.trace(network, torch.rand(1, 3, 16, 16), check_trace=check)
    x = torch.rand(1, 3, 16, 16)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(traced(x), network(x), rtol=1e-3, atol=1e-4)
    wanted, got = (torch.autograd.grad(f(x).square().sum(), list(network.parameters())) for f in (network, traced))
    largest = max(gradient.norm() for gradient in wanted)
    for g, w in zip(got, wanted, strict=True):
        assert (g - w).norm() <= 1e-3 * w.norm() + 2e-5 * largest


# --- shapes without numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_a_network_on_meta_says_what_shape_comes_out(form):
    x = torch.rand(1, form.get('inp_channels', 3), 16, 24)
    network = _network(**form)
    assert network.to('meta')(x.to('meta')).shape == _network(**form)(x).shape


def test_a_network_on_meta_is_trained_and_cast_as_elsewhere():
    network = _small(OSSNet).to('meta')
    x = torch.empty(1, 3, 16, 16, device='meta')
    network(x).square().sum().backward()
    assert all(p.grad.shape == p.shape for p in network.parameters())
    assert network.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def _far(network: torch.nn.Module) -> torch.nn.Module:
    """With scans that leave the range of float16, as those of trained networks do."""
    for name, parameter in network.named_parameters():
        if name.endswith('.Ds'):
            parameter.data.fill_(6e4)
        elif name.endswith('.conv2d.bias'):
            parameter.data.fill_(2)
    return network


@pytest.mark.parametrize('form', FORMS, ids=str)
@pytest.mark.parametrize('cls', [VmambaIR, OSSNet])
def test_scans_beyond_the_range_of_float16(cls, form):
    form = form if cls is VmambaIR or set(form) <= {'scale'} else {}
    x = torch.rand(1, form.get('inp_channels', 3), 16, 24)
    network = _far(_network(cls, **form))
    wanted = network(x)
    with torch.autocast('cpu', dtype=torch.float16):
        got = network(x)
        loss = got.float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    half = copy.deepcopy(network).half()(x.half())
    assert half.dtype == torch.float16
    for value in (got, half):
        torch.testing.assert_close(value.float(), wanted, rtol=0, atol=0.1)  # the range, not the digits


@pytest.mark.parametrize('bias_free', [True, False])
def test_maps_whose_squares_leave_the_range_of_float16(bias_free):
    norm, x = LayerNorm(8, bias_free), torch.randn(1, 2, 3, 8) * 5000
    torch.testing.assert_close(norm.half()(x.half()).float(), norm.float()(x), rtol=1e-2, atol=1e-2)
