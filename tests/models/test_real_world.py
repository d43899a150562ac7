"""Real-world super-resolution: batches that are degraded while training, in this process and in whole runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from experiment import write_image, write_options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmambair_arch import UserError, cli
from vmambair_arch.models.pair_pool import PairPool

DISCRIMINATOR = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
GAN = {
    'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 1.0},
    'optim_d': {'type': 'Adam', 'lr': 0.001, 'betas': [0.9, 0.99]},
}


NO_DEGRADATION = {
    'resize_prob': [0, 0, 1], 'resize_range': [1, 1], 'gaussian_noise_prob': 0, 'noise_range': [0, 0],
    'poisson_scale_range': [0, 0], 'blur_sigma': [0.2, 0.2], 'jpeg_range': [100, 100], 'second_blur_prob': 0,
    'resize_prob2': [0, 0, 1], 'resize_range2': [1, 1], 'gaussian_noise_prob2': 0, 'noise_range2': [0, 0],
    'poisson_scale_range2': [0, 0], 'jpeg_range2': [100, 100], 'sinc_prob': 0, 'final_sinc_prob': 0,
}  # fmt: skip


def real_world(options: dict[str, Any], model_type: str, **changes: Any) -> None:
    """Turn the options of a tiny run into one of real-world super-resolution."""
    options |= {'model_type': model_type, 'scale': 4, 'gt_size': 32, 'queue_size': 4} | changes
    options['network_g'] |= {'scale': 4}
    options['datasets']['train'] = {
        'name': 'photographs',
        'type': 'RealESRGANPipelineDataset',
        'dataroot_gt': 'photographs',
        'io_backend': {'type': 'disk'},
        'crop_pad_size': 40,
        'num_worker_per_gpu': 0,
        'batch_size_per_gpu': 2,
    }
    options['datasets']['val']['dataroot_lq'] = 'val/lq'
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [100], 'gamma': 0.5}
    if 'GAN' in model_type:
        options['network_d'] = dict(DISCRIMINATOR)
        options['train'] |= GAN


def batch(seed: int, count: int = 2, size: int = 40) -> dict[str, torch.Tensor]:
    gt = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    gt = torch.nn.functional.interpolate(gt, size=(size, size), mode='bilinear')
    return {'gt': (gt * 255).round() / 255}


def feed(model: Any, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
    model.update_learning_rate(iteration)
    model.feed_data(batch(iteration))
    return model.lq, model.gt


# the pool


def test_pool_hands_out_every_pair_it_was_given_at_most_once():
    pool = PairPool(6, 2)
    given, received = [], []
    for i in range(200):
        pair = torch.full((2, 3, 1, 1), float(2 * i)) + torch.arange(2).view(2, 1, 1, 1)
        lq, gt = pool.exchange(pair % 256 / 255, pair // 256 / 255, torch.Generator().manual_seed(i))
        given += pair[:, 0, 0, 0].tolist()
        numbers = ((lq + 256 * gt) * 255).round()[:, 0, 0, 0].tolist()
        if i >= 3:
            received += numbers
        else:
            assert numbers == pair[:, 0, 0, 0].tolist()
    assert len(received) == len(set(received))
    assert set(received) <= set(given)
    # Pairs stay for some while, and come out with their partner.
    ages = [i // 2 + 3 - number // 2 for i, number in enumerate(received)]
    assert min(ages) >= 1
    assert 2 < sum(ages) / len(ages) < 4
    assert max(ages) > 6


def test_pool_keeps_8_bit_images_as_they_are():
    pool, images = PairPool(1, 1), torch.arange(256).view(1, 1, 16, 16).expand(1, 3, -1, -1) / 255
    pool.exchange(images, images, torch.Generator())
    lq, gt = pool.exchange(images * 0, images * 0, torch.Generator())
    assert torch.equal(lq, images)
    assert torch.equal(gt, images)


@pytest.mark.parametrize('before', range(5))
def test_pool_takes_an_exchange_back(before):
    """Empty, filling and full: a second attempt hands out what the first did."""

    def images(i: int) -> torch.Tensor:
        return torch.full((2, 3, 2, 2), i / 255)

    pool = PairPool(4, 2)
    for i in range(before):
        pool.exchange(images(i), images(i), torch.Generator().manual_seed(i))
    kept = {k: v.clone() for k, v in pool.state_dict().items()}
    first = pool.exchange(images(9), images(9), torch.Generator().manual_seed(9))
    pool.take_back()
    assert pool.state_dict().keys() == kept.keys()
    assert all(torch.equal(pool.state_dict()[k], v) for k, v in kept.items())
    again = pool.exchange(images(9), images(9), torch.Generator().manual_seed(9))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_pool_of_no_pairs_hands_out_what_comes_in():
    images = torch.rand(2, 3, 4, 4)
    assert PairPool(0, 2).exchange(images, images, torch.Generator())[0] is images


@pytest.mark.parametrize(('size', 'advice'), [(180, '176 or 184'), (5, '8')])
def test_pool_must_be_a_multiple_of_the_batch(size, advice):
    with pytest.raises(UserError, match=f'queue_size {size} is not a multiple of the batch of 8 images; take {advice}'):
        PairPool(size, 8)


# batches


def test_batches_are_degraded_patches(build, options):
    real_world(options, 'VmambaIRRealSRModel', queue_size=0)
    model = build()
    lq, gt = feed(model, 1)
    assert lq.shape == (2, 3, 8, 8)
    assert gt.shape == (2, 3, 32, 32)
    whole = batch(1)['gt']
    for image, source in zip(gt, whole, strict=True):
        places = [(y, x) for y in range(0, 9, 4) for x in range(0, 9, 4)]
        assert sum(torch.equal(image, source[:, y : y + 32, x : x + 32]) for y, x in places) == 1
    # The patch of the input shows the same place: it is nearer to the patch of the target than to that of the other.
    small = torch.nn.functional.interpolate(gt, size=(8, 8), mode='area')
    assert (small[0] - lq[0]).abs().mean() < (small[1] - lq[0]).abs().mean()
    torch.testing.assert_close(lq * 255, (lq * 255).round(), atol=1e-4, rtol=0)


def test_batches_depend_on_seed_and_iteration_alone(build, options):
    real_world(options, 'VmambaIRRealSRModel', queue_size=0)
    model = build()
    first, second = feed(model, 1)[0], feed(model, 2)[0]
    again = build()
    torch.manual_seed(123)
    assert torch.equal(feed(again, 2)[0], second)
    assert torch.equal(feed(again, 1)[0], first)
    options['manual_seed'] = 4
    assert not torch.equal(feed(build(), 1)[0], first)


def test_two_ranks_degrade_what_one_process_does(build, options):
    real_world(options, 'VmambaIRRealSRModel', queue_size=0)
    options['datasets']['train']['batch_size_per_gpu'] = 4
    model = build()
    model.update_learning_rate(1)
    model.feed_data(batch(1, count=4))
    together = model.lq
    for rank in range(2):
        model.opt |= {'rank': rank, 'world_size': 2}
        model.feed_data({'gt': batch(1, count=4)['gt'][rank::2]})
        assert torch.equal(model.lq, together[rank::2])


def test_pairs_for_validation_are_taken_as_they_are(build, options):
    real_world(options, 'VmambaIRRealSRModel', queue_size=0, gt_usm=True)
    pair = {'lq': torch.rand(1, 3, 9, 7), 'gt': torch.rand(1, 3, 36, 28)}
    model = build()
    model.feed_data(pair)
    assert torch.equal(model.lq, pair['lq'])
    assert torch.equal(model.gt, pair['gt'])


@pytest.mark.parametrize('sharpened', [(), ('l1_gt_usm',), ('percep_gt_usm',), ('gan_gt_usm',)])
def test_switches_sharpen_what_they_name(build, options, sharpened):
    from realesrgan_pipeline.sharpen import usm_sharpen

    real_world(options, 'VmambaIRRealSRGANModel', queue_size=0, **dict.fromkeys(sharpened, True))
    model = build()
    lq, gt = feed(model, 1)
    assert not torch.equal(gt, usm_sharpen(gt))
    for criterion, option in (('pixel', 'l1_gt_usm'), ('perceptual', 'percep_gt_usm'), ('gan', 'gan_gt_usm')):
        expected = usm_sharpen(gt) if option in sharpened else gt
        assert torch.equal(model.target(criterion, {'gt': gt}), expected)
    # What is degraded is sharpened where the pixel loss is.
    options |= dict.fromkeys(('l1_gt_usm', 'percep_gt_usm', 'gan_gt_usm'), False)
    assert torch.equal(feed(build(), 1)[0], lq) == ('l1_gt_usm' not in sharpened)


def test_degradation_options_are_read_from_both_places_of_real_esrgan(build, options):
    real_world(options, 'VmambaIRRealSRModel', jpeg_range=[50, 60], resize_prob2=[1, 0, 0])
    options['datasets']['train']['sinc_prob'] = 0.25
    config = build().degrade.config
    assert config.first.jpeg_range == (50, 60)
    assert config.second.resize_prob == (1, 0, 0)
    assert config.first.sinc_prob == 0.25
    assert config.scale == 4


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'queue_size': 5}, 'queue_size 5 is not a multiple of the batch of 2 images; take 4 or 6'),
        ({'gt_size': 30}, 'gt_size must be a multiple of the scale 4, not 30'),
        ({'jpeg_range': [30, 200]}, 'degradation option jpeg_range must be two numbers from 1 to 100'),
    ],
)
def test_bad_options_are_one_line(build, options, changes, message):
    real_world(options, 'VmambaIRRealSRModel', **changes)
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize('kind', ['RealESRGANPipelineDataset', 'RealESRGANDataset'])
@pytest.mark.parametrize('crop', [{}, {'crop_pad_size': None}])
def test_a_patch_larger_than_what_a_data_set_gives_is_known_beforehand(build, options, kind, crop):
    real_world(options, 'VmambaIRRealSRModel', gt_size=512)
    del options['datasets']['train']['crop_pad_size']
    options['datasets']['train'] |= {'type': kind} | crop
    with pytest.raises(UserError, match='gt_size 512 is larger than crop_pad_size 400'):
        build()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rest=st.tuples(st.integers(0, 3), st.integers(0, 3)), seed=st.integers(0, 99))
def test_both_images_show_the_same_place_whatever_the_size_of_the_data(build, options, rest, seed):
    """A ramp says where it was cut; the farther from the top left, the more a rest would show."""
    real_world(options, 'VmambaIRRealSRModel', queue_size=0, gt_size=32, **NO_DEGRADATION)
    model = build()
    h, w = 160 + rest[0], 160 + rest[1]
    ramp = torch.stack([torch.arange(h)[:, None].expand(h, w), torch.arange(w).expand(h, w), torch.zeros(h, w)]) / 255
    model.update_learning_rate(seed + 1)
    model.feed_data({'gt': ramp[None].repeat(2, 1, 1, 1)})
    shown = torch.nn.functional.interpolate(model.gt, size=(8, 8), mode='area')
    shift = (model.lq - shown)[:, :2, 2:-2, 2:-2].mean((-1, -2)) * 255
    assert shift.abs().max() < 0.8


def test_data_smaller_than_the_patch_are_named(build, options):
    real_world(options, 'VmambaIRRealSRModel', gt_size=48)
    with pytest.raises(UserError, match='gt_size 48 is larger than crop_pad_size 40 of datasets: train; raise that'):
        build()
    del options['datasets']['train']['crop_pad_size']  # a data set of somebody else
    model = build()
    with pytest.raises(UserError, match="gt_size 48 is larger than the data set's 40x40; raise its crop_pad_size"):
        feed(model, 1)


# whole runs


@pytest.fixture
def photographs(experiment):
    """A folder of a tiny run with photographs, and validation pairs of scale 4."""
    for i in range(5):
        write_image(experiment.folder / 'photographs' / f'{i}.png', 44, 52, seed=i)
    for i in range(3):
        write_image(experiment.folder / 'val' / 'lq' / f'{i:03d}.png', 10, 10, seed=i)
    experiment.options['train']['total_iter'] = 8
    return experiment


def logged(experiment) -> dict[int, dict[str, float]]:
    """What each iteration logged, in full precision, times left out."""
    lines = [json.loads(line) for line in (experiment.folder / 'losses.jsonl').read_text().splitlines()]
    return {line['iter']: {k: v for k, v in line.items() if k[:2] in ('l_', 'ou')} for line in lines}


def test_a_resumed_gan_run_is_the_uninterrupted_one(photographs):
    """The pool holds 4 pairs and is full after 2 iterations, so at iteration 4 it matters what is in it."""
    real_world(photographs.options, 'VmambaIRRealSRGANModel')
    photographs.run()
    straight = logged(photographs)
    assert set(straight[1]) == {'l_g_pix', 'l_g_gan', 'l_d_real', 'l_d_fake', 'out_d_real', 'out_d_fake'}
    models = photographs.root / 'models'
    weights = {label: torch.load(models / f'net_{label}_8.pth', weights_only=True) for label in 'gd'}
    (photographs.root / 'training_states' / '8.state').unlink()
    (photographs.folder / 'losses.jsonl').unlink()
    assert 'Resuming training' in photographs.run('--auto_resume')
    assert logged(photographs) == {i: losses for i, losses in straight.items() if i > 4}
    for label, content in weights.items():
        resumed = torch.load(models / f'net_{label}_8.pth', weights_only=True)
        for key in content.keys() & {'params', 'params_ema'}:
            assert all(torch.equal(resumed[key][name], value) for name, value in content[key].items())


def test_stage_1_trains_validates_and_keeps_its_pool(build, options):
    real_world(options, 'VmambaIRRealSRModel', gt_usm=True)
    model = build()
    for iteration in range(1, 6):
        feed(model, iteration)
        model.optimize_parameters(iteration)
    assert model.get_current_log()['l_pix'] > 0
    model.save(0, 5)
    state = torch.load(f'{options["path"]["training_states"]}/5.state', weights_only=True)
    assert state['ranks'][0]['pool']['gt'].dtype == torch.uint8

    options['path']['pretrain_network_g'] = f'{options["path"]["models"]}/net_g_5.pth'
    resumed = build()
    resumed.resume_training(state)
    for left, right in zip(feed(model, 6), feed(resumed, 6), strict=True):
        assert torch.equal(left, right)
    assert not model.left_of_state(options, state)
    options['gt_size'] = 24
    other = build()
    assert 'pairs begins empty: those of the state have 32 pixels, not 24' in other.left_of_state(options, state)
    other.resume_training(state)
    for iteration in range(6, 11):
        assert feed(other, iteration)[1].shape[-1] == 24
    options['gt_size'] = 32
    options['queue_size'] = 2
    smaller = build()
    smaller.resume_training(state)
    assert len(smaller.pool.state_dict()['gt']) == 2


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'queue_size': 5}, 'queue_size: 5 is not a multiple of the batch 2; take 6'),
        ({'gt_size': 64}, 'gt_size 64 is larger than crop_pad_size 40 of datasets: train; raise that'),
        ({'resize_prb': [1, 0, 0]}, 'resize_prb'),
        ({'sinc_prob': 2}, 'degradation option sinc_prob must be a probability, not 2'),
    ],
)
def test_bad_options_are_found_before_anything_is_written(photographs, capsys, monkeypatch, changes, message):
    real_world(photographs.options, 'VmambaIRRealSRModel', **changes)
    photographs.options['train']['scheduler']['milestones'] = [4]
    monkeypatch.chdir(photographs.folder)
    monkeypatch.setenv('XDG_CACHE_HOME', str(photographs.folder / 'cache'))
    write_options(photographs.folder / 'tiny.yml', photographs.options)
    assert cli.main(['train', '-opt', 'tiny.yml']) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert not (photographs.folder / 'experiments').exists()


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(photographs):
    """Without a pool, which each rank has for itself, the same images meet the same weights."""
    real_world(photographs.options, 'VmambaIRRealSRGANModel', queue_size=0)
    photographs.options['train'] |= {'total_iter': 4, 'use_grad_clip': False}
    photographs.run()
    alone = logged(photographs)
    (photographs.folder / 'losses.jsonl').unlink()
    photographs.options['name'] = 'ranks'
    photographs.options['datasets']['train']['batch_size_per_gpu'] = 1
    photographs.run(ranks=2)
    together = logged(photographs)
    assert set(together) == set(alone) == {1, 2, 3, 4}
    for iteration, losses in alone.items():
        assert together[iteration] == pytest.approx(losses, rel=2e-3, abs=2e-4), iteration
