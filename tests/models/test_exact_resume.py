"""One row a feature: training, saving and going on is bit for bit what an undisturbed run does."""

from __future__ import annotations

import importlib.util
from copy import deepcopy

import pytest
import torch

FEATURES = {
    'several averages with a warm-up': {'ema_decay': [0.9, 0.5], 'ema_power': 0.75, 'ema_update_after_step': 1},
    'Adan of timm': {'optim_g': {'type': 'Adan', 'lr': 1e-3}},
    'Lion of timm': {'optim_g': {'type': 'Lion', 'lr': 1e-4, 'weight_decay': 0.1}},
    'AdamP of timm': {'optim_g': {'type': 'AdamP', 'lr': 1e-3}},
    'NAdamW of timm': {'optim_g': {'type': 'NAdamW', 'lr': 1e-3, 'weight_decay': 0.1}},
    'Muon beside AdamW': {'optim_g': {'type': 'Muon', 'lr': 1e-3, 'weight_decay': 0.1}},
    'schedule-free AdamW': {'optim_g': {'type': 'AdamWScheduleFree', 'lr': 1e-3}, 'ema_decay': 0},
    'SOAP': {'optim_g': {'type': 'SOAP', 'lr': 1e-3, 'precondition_frequency': 2}},
}
NEEDS = {'schedule-free AdamW': 'schedulefree', 'SOAP': 'pytorch_optimizer'}


def batch(iteration: int) -> dict:
    generator = torch.Generator().manual_seed(iteration)
    gt = torch.rand(2, 3, 16, 16, generator=generator)
    return {'lq': (gt + 0.1 * torch.rand(gt.shape, generator=generator)).clamp(0, 1), 'gt': gt}


def run(model, first: int, last: int, save_at: int = 0) -> None:
    for iteration in range(first, last + 1):
        model.update_learning_rate(iteration)
        model.feed_data(batch(iteration))
        model.optimize_parameters(iteration)
        if iteration == save_at:
            model.save(0, iteration)


@pytest.mark.parametrize('feature', FEATURES)
def test_a_resumed_run_is_the_undisturbed_one(feature, build, options):
    if feature in NEEDS and not importlib.util.find_spec(NEEDS[feature]):
        pytest.skip(f'{NEEDS[feature]} is not installed')
    del options['val']
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [4], 'gamma': 0.5}
    undisturbed = build(**FEATURES[feature])
    run(undisturbed, 1, 6, save_at=3)
    wanted = deepcopy(undisturbed.networks_to_save()['g'])

    state_file = f'{options["path"]["training_states"]}/3.state'
    options['path'] |= {'pretrain_network_g': f'{options["path"]["models"]}/net_g_3.pth', 'resume_state': state_file}
    resumed = build(**FEATURES[feature])
    resumed.resume_training(torch.load(state_file, weights_only=True))
    run(resumed, 4, 6)

    found = resumed.networks_to_save()['g']
    assert found.keys() == wanted.keys()
    for key in (key for key in wanted if key.startswith('params')):
        assert all(torch.equal(found[key][name], value) for name, value in wanted[key].items()), key
    begun = torch.load(options['path']['pretrain_network_g'], weights_only=True)['params']
    assert any(not torch.equal(begun[name], value) for name, value in wanted['params'].items()), 'nothing was trained'


def test_a_further_average_is_validated_where_the_options_ask_for_it(build, options):
    model = build(ema_decay=[0.5, 0.25])
    run(model, 1, 2)
    image = batch(9)['lq'][:1]
    outputs = {}
    for key in ('params', 'params_ema', 'params_ema_0.25'):
        model.opt['val']['param_key'] = key
        model.feed_data({'lq': image})
        model.test()
        outputs[key] = model.output
    assert len({float(output.sum()) for output in outputs.values()}) == 3
    model.opt['val']['param_key'] = 'params_ema_0.3'
    with pytest.raises(ValueError, match="no 'params_ema_0.3'; there are params, params_ema, params_ema_0.25"):
        model.test()


def test_validation_and_saving_leave_a_schedule_free_run_as_it_was(build, options):
    pytest.importorskip('schedulefree')
    optim = {'type': 'AdamWScheduleFree', 'lr': 1e-3}
    del options['val']
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [4], 'gamma': 0.5}
    model = build(optim_g=optim, ema_decay=0)
    run(model, 1, 3)
    trained = {name: p.detach().clone() for name, p in model.net_g.named_parameters()}
    model.save(0, 3)
    saved = torch.load(f'{options["path"]["models"]}/net_g_3.pth', weights_only=True)['params']
    assert all(torch.allclose(p, trained[name], atol=1e-6) for name, p in model.net_g.named_parameters())
    assert any(not torch.allclose(saved[name], p, atol=1e-6) for name, p in trained.items()), 'the average is saved'
