"""Optimisers by name, and what does not decay."""

from __future__ import annotations

import pytest
import torch

from vmambair_arch.archs import VmambaIR
from vmambair_arch.errors import UserError
from vmambair_arch.models.optimizers import OPTIMIZERS, STATE_SPACE, build_optimizer


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
