"""Optimisers by name, and what does not decay."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from vmambair_arch.archs import VmambaIR
from vmambair_arch.errors import UserError
from vmambair_arch.models import optimizers
from vmambair_arch.models.optimizers import OPTIMIZERS, STATE_SPACE, build_optimizer, muon_groups


@pytest.fixture(scope='module')
def network() -> VmambaIR:
    return VmambaIR(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, d_state=2)


def decayed(network: VmambaIR, **options: object) -> set[str]:
    """Last name parts of the parameters that a step without gradients changes."""
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(network.named_parameters(), {'type': 'AdamW', 'lr': 0.1} | options).step()
    return {
        name.rpartition('.')[2]
        for name, parameter in network.named_parameters()
        if not torch.equal(parameter, before[name])
    }


def test_a_and_d_of_the_scans_do_not_decay(network):
    names = {name.rpartition('.')[2] for name, _ in network.named_parameters()}
    assert names >= set(STATE_SPACE), 'the network has other names for A and D'
    changed = decayed(network, weight_decay=0.1)
    assert 'weight' in changed
    assert not changed & set(STATE_SPACE)


def test_default_decay_of_the_optimiser_spares_them_as_well(network):
    assert not decayed(network) & set(STATE_SPACE)  # AdamW decays by 0.01 where nothing is said


def test_they_decay_if_the_options_want_it(network):
    assert decayed(network, weight_decay=0.1, decay_state_space=True) >= set(STATE_SPACE)


@pytest.mark.parametrize('name', ['Adam', 'AdamW', 'SGD', 'RMSprop', 'NAdam', 'RAdam', 'Adamax', 'Adagrad'])
def test_optimisers_of_torch_train(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([('w', parameter)], {'type': name, 'lr': 0.01})
    parameter.square().sum().backward()
    optimizer.step()
    assert (parameter < 1).all()
    assert name in OPTIMIZERS


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'type': 'AdmW', 'lr': 1e-3}, "did you mean 'Adam"),
        ({'type': 'AdamW', 'lr': 1e-3, 'beta': [0.9, 0.99]}, "unexpected keyword argument 'beta'"),
        ({'type': 'AdamW', 'lr': -1.0}, 'Invalid learning rate'),
    ],
)
def test_faults_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build_optimizer([('w', torch.nn.Parameter(torch.ones(3)))], options)


@pytest.mark.parametrize('name', sorted(OPTIMIZERS))
def test_every_optimiser_that_is_offered_trains_this_network(name, network):
    """torch's Muon refuses all but matrices, Adahessian wants second derivatives: neither is offered."""
    copy = VmambaIR(**network.config)
    optimizer = build_optimizer(copy.named_parameters(), {'type': name, 'lr': 1e-4})
    if hasattr(optimizer, 'train'):
        optimizer.train()
    before = {key: parameter.detach().clone() for key, parameter in copy.named_parameters()}
    for _ in range(6):  # RAdam's schedule-free form stands still for four
        optimizer.zero_grad()
        copy(torch.full((1, 3, 8, 8), 0.3)).square().mean().backward()
        optimizer.step()
    moved = [key for key, parameter in copy.named_parameters() if not torch.equal(parameter, before[key])]
    assert len(moved) > len(before) / 2
    assert all(torch.isfinite(parameter).all() for parameter in copy.parameters())


def test_muon_takes_what_mixes_channels_and_adamw_the_rest(network):
    groups = muon_groups(network.named_parameters(), spare_state_space=True)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    muon, adamw, still = ([names[id(p)] for p in group['params']] for group in groups)
    assert sum(map(len, (muon, adamw, still))) == len(names)
    kinds = {
        name.rpartition('.attn.')[2].rpartition('.ffn.')[2] for name in muon if '.attn.' in name or '.ffn.' in name
    }
    assert kinds == {'in_conv.weight', 'out_conv.weight', 'project_in.weight', 'project_out.weight'}
    rest = {name.partition('.')[0] for name in muon if '.attn.' not in name and '.ffn.' not in name}
    assert rest == {
        'down1_2',
        'down2_3',
        'down3_4',
        'up4_3',
        'up3_2',
        'up2_1',
        'reduce_chan_level3',
        'reduce_chan_level2',
    }
    assert 'patch_embed.proj.weight' in adamw
    assert 'output.weight' in adamw
    assert any(name.endswith('x_proj_weight') for name in adamw)
    assert {name.rpartition('.')[2] for name in still} == set(STATE_SPACE)
    assert groups[2]['weight_decay'] == 0


@pytest.mark.parametrize('name', ['Adam', 'AdamW', 'SGD'])
def test_one_call_for_all_parameters_is_the_same_step(name):
    torch.manual_seed(0)
    start = [torch.randn(5, 3), torch.randn(7)]
    results = []
    for fused in ({}, {'fused': False}):
        parameters = [(str(i), torch.nn.Parameter(t.clone())) for i, t in enumerate(start)]
        optimizer = build_optimizer(parameters, {'type': name, 'lr': 0.01, 'weight_decay': 0.1} | fused)
        assert optimizer.defaults['fused'] is (not fused)
        for _ in range(3):
            optimizer.zero_grad()
            sum((p**3).sum() for _, p in parameters).backward()
            optimizer.step()
        results.append([p.detach() for _, p in parameters])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_way_that_the_options_name_is_left_alone():
    optimizer = build_optimizer([('w', torch.nn.Parameter(torch.ones(3)))], {'type': 'AdamW', 'lr': 1, 'foreach': True})
    assert not optimizer.defaults['fused']


@pytest.mark.parametrize('native', [True, False])
def test_muon_computes_in_what_the_processor_has(network, native, monkeypatch):
    """bfloat16 that is only imitated made a step of Muon fifteen times longer, without a word."""
    module = sys.modules[OPTIMIZERS['Muon'].__module__]
    iteration, dtypes = module.zeropower_via_newtonschulz, set()

    def watched(*args, **kwargs):
        dtypes.add(kwargs.get('dtype', torch.bfloat16))
        return iteration(*args, **kwargs)

    monkeypatch.setattr(module, 'zeropower_via_newtonschulz', watched)
    monkeypatch.setattr(optimizers, 'computes_in_bf16', lambda: native)
    optimizer = build_optimizer(network.named_parameters(), {'type': 'Muon', 'lr': 1e-3})
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert dtypes == {torch.bfloat16 if native else torch.float32}
    assert module.zeropower_via_newtonschulz is watched  # others' optimisers are as they were


def test_muon_of_a_timm_without_that_iteration_is_left_alone(network, monkeypatch):
    module = sys.modules[OPTIMIZERS['Muon'].__module__]
    monkeypatch.delattr(module, 'zeropower_via_newtonschulz')
    monkeypatch.setattr(optimizers, 'computes_in_bf16', lambda: False)
    optimizer = build_optimizer(network.named_parameters(), {'type': 'Muon', 'lr': 1e-3})
    assert type(optimizer) is OPTIMIZERS['Muon']


def test_muon_steps_alike_in_both_precisions(network, monkeypatch):
    start = copy.deepcopy(network.state_dict())
    moved = {}
    for native in (True, False):
        monkeypatch.setattr(optimizers, 'computes_in_bf16', lambda native=native: native)
        network.load_state_dict(start)
        optimizer = build_optimizer(network.named_parameters(), {'type': 'Muon', 'lr': 1e-3, 'weight_decay': 0.1})
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        moved[native] = torch.cat([(p.detach() - start[name]).flatten() for name, p in network.named_parameters()])
    assert (moved[True] - moved[False]).norm() < 0.02 * moved[True].norm()
