"""Super-resolution with a discriminator, on batches of noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from vmambair_arch import UserError


@pytest.fixture
def gan(options: dict[str, Any], build: Any) -> Any:
    """Builds the model, after changes to its section `train`."""
    options |= {'model_type': 'VmambaIRSRGANModel', 'scale': 2}
    options['network_g'] |= {'scale': 2}
    options['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}

    def build_gan(**train: Any) -> Any:
        defaults = {
            'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 1.0},
            'optim_d': {'type': 'Adam', 'lr': 0.002, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
        }
        return build(**defaults | train)

    return build_gan


def iterate(model: Any, iteration: int, data: dict[str, torch.Tensor] | None = None) -> dict[str, float]:
    generator = torch.Generator().manual_seed(iteration)
    random = {'lq': torch.rand(4, 3, 8, 8, generator=generator), 'gt': torch.rand(4, 3, 16, 16, generator=generator)}
    model.update_learning_rate(iteration)
    model.feed_data(data or random)
    model.optimize_parameters(iteration)
    return dict(model.get_current_log())


def weights(model: Any, label: str) -> torch.Tensor:
    return parameters_to_vector(model.net(label).parameters()).detach().clone()


def test_both_networks_learn(gan):
    model = gan()
    before = weights(model, 'g'), weights(model, 'd')
    log = iterate(model, 1)
    assert {'l_g_pix', 'l_g_gan', 'l_d_real', 'l_d_fake', 'out_d_real', 'out_d_fake'} <= set(log)
    assert not torch.equal(weights(model, 'g'), before[0])
    assert not torch.equal(weights(model, 'd'), before[1])


def test_discriminator_tells_real_from_restored_after_some_iterations(gan):
    model = gan(optim_d={'type': 'Adam', 'lr': 0.02}, scheduler={'type': 'MultiStepLR', 'milestones': [100]})
    logs = [iterate(model, i) for i in range(1, 26)]
    assert abs(logs[0]['out_d_real'] - logs[0]['out_d_fake']) < 0.1
    assert logs[-1]['out_d_real'] > logs[-1]['out_d_fake'] + 1
    assert logs[-1]['l_d_real'] + logs[-1]['l_d_fake'] < logs[0]['l_d_real'] + logs[0]['l_d_fake'] - 0.2


def test_losses_are_basicsrs(gan, options):
    """One iteration of BasicSR's own SRGANModel, from the same weights on the same data."""
    from basicsr.models.srgan_model import SRGANModel

    ours = gan(use_grad_clip=False, ema_decay=0, optim_g={'type': 'Adam', 'lr': 0.001})
    theirs = SRGANModel.__new__(SRGANModel)
    theirs.opt = {'dist': False, 'train': {}}
    theirs.net_g, theirs.net_d = gan().net_g, gan().net_d
    theirs.net_g.load_state_dict(ours.net_g.state_dict())
    theirs.net_d.load_state_dict(ours.net_d.state_dict())
    theirs.cri_pix, theirs.cri_gan, theirs.cri_perceptual = ours.criteria['pixel'], ours.cri_gan, None
    theirs.optimizer_g = torch.optim.Adam(theirs.net_g.parameters(), 0.001)
    theirs.optimizer_d = torch.optim.Adam(theirs.net_d.parameters(), 0.002, betas=(0.9, 0.99))
    theirs.net_d_iters, theirs.net_d_init_iters, theirs.ema_decay = 1, 0, 0
    for iteration in (1, 2, 3):
        log = iterate(ours, iteration)
        theirs.lq, theirs.gt = ours.lq, ours.gt
        theirs.optimize_parameters(iteration)
        for name, value in theirs.log_dict.items():
            assert log[name] == pytest.approx(value, rel=2e-3), (iteration, name)


def test_accumulated_parts_make_the_step_of_the_whole_batch(gan):
    sgd = {'type': 'SGD', 'lr': 0.1}
    whole = gan(optim_g=dict(sgd), optim_d=dict(sgd))
    parts = gan(optim_g=dict(sgd), optim_d=dict(sgd), accumulate=2)
    before = weights(whole, 'g')
    assert torch.equal(weights(parts, 'g'), before)
    logs = iterate(whole, 1), iterate(parts, 1)
    assert logs[1]['l_g_pix'] == pytest.approx(logs[0]['l_g_pix'], rel=1e-4)
    moved = weights(whole, 'g') - before
    assert (weights(parts, 'g') - before - moved).norm() < 0.05 * moved.norm()


def test_discriminator_trains_alone_first_and_generator_pauses(gan):
    model = gan(net_d_init_iters=2, net_d_iters=2)
    for iteration, moves in ((1, False), (2, False), (3, False), (4, True), (5, False), (6, True)):
        before = weights(model, 'g'), weights(model, 'd')
        log = iterate(model, iteration)
        assert torch.equal(weights(model, 'g'), before[0]) != moves, iteration
        assert not torch.equal(weights(model, 'd'), before[1])
        assert ('l_g_gan' in log) == moves


def test_each_network_has_its_schedule(gan):
    follows, own = gan(), gan(scheduler_d={'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0.1})
    for model, expected in ((follows, 0.001), (own, 0.002)):
        for iteration in range(1, 5):
            iterate(model, iteration)
        rates = model.get_current_learning_rate()
        assert rates == pytest.approx([0.0005, expected])


def test_a_nan_spoils_neither_network(gan):
    model = gan()
    iterate(model, 1)
    before = [weights(model, label) for label in 'gd']
    data = {'lq': torch.rand(4, 3, 8, 8), 'gt': torch.rand(4, 3, 16, 16)}
    data['lq'][1, 0, 3, 3] = float('nan')
    log = iterate(model, 2, data)
    assert log['bad_steps'] == 1
    assert [torch.equal(weights(model, label), w) for label, w in zip('gd', before, strict=True)] == [True, True]
    assert all(torch.isfinite(value).all() for value in model.net_d.state_dict().values())
    iterate(model, 3)
    assert not torch.equal(weights(model, 'd'), before[1])


@pytest.mark.parametrize('option', ['gan_opt', 'optim_d'])
def test_what_a_gan_needs_is_named(gan, option):
    with pytest.raises(UserError, match=f'train: {option} is missing, which VmambaIRSRGANModel needs'):
        gan(**{option: None})


def test_both_networks_are_saved(gan, options):
    model = gan()
    iterate(model, 1)
    model.save(0, 1)
    saved = torch.load(f'{options["path"]["models"]}/net_d_1.pth', weights_only=True)
    assert set(saved['params']) == set(model.net_d.state_dict())
    assert torch.load(f'{options["path"]["models"]}/net_g_1.pth', weights_only=True).keys() >= {'params', 'params_ema'}
