"""One row a feature: training, saving and going on is bit for bit what an undisturbed run does."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.models.optimizers import OPTIMIZERS, evaluated
from vmambair_arch.models.real_world import missing_codecs

from test_real_world import batch as photographs  # isort: skip
from test_real_world import real_world  # isort: skip

STEPS = 2
"""Iterations before and after the save."""

OPTIM = {
    'Muon': {'weight_decay': 0.1},
    'SOAP': {'precondition_frequency': 2},
    'Lion': {'lr': 1e-4, 'weight_decay': 0.1},
    'Rprop': {'lr': 1e-4},
}
"""What a row of an optimiser has beside its lr of 1e-3."""
NAMES = sorted({*OPTIMIZERS, 'AdamWScheduleFree', 'SOAP'})
DOCUMENTED = (
    'Adam', 'AdamP', 'AdamW', 'AdamWScheduleFree', 'Adan', 'Lamb', 'LaProp', 'Lion', 'Mars', 'Muon', 'NAdamW', 'SGD',
    'SOAP',
)  # fmt: skip
STAND_STILL = {'RAdamScheduleFree'}
"""Those that take no step before the fifth iteration."""

LOSSES = {
    'l1': {'type': 'L1Loss'},
    'mse': {'type': 'MSELoss'},
    'charbonnier': {'type': 'CharbonnierLoss'},
    'fft': {'type': 'FFTLoss'},
    'focal frequency': {'type': 'FocalFrequencyLoss'},
    'ms-ssim': {'type': 'MSSIMLoss'},
    'gradient': {'type': 'GradientLoss'},
    'edge': {'type': 'EdgeLoss'},
    'wavelet': {'type': 'WaveletLoss'},
    'ldl': {'type': 'LDLLoss'},
    'grid': {'type': 'GridLoss', 'period': 4, 'cells': 2},
    'vgg': {'type': 'VGGPerceptualLoss', 'layer_weights': {'conv2_1': 1.0}, 'vgg_type': 'vgg11'},
    'contextual': {'type': 'ContextualLoss', 'layer_weights': {'conv2_1': 1.0}, 'vgg_type': 'vgg11'},
    'lpips': {'type': 'LPIPSLoss', 'shift': 3},
    'dists': {'type': 'DISTSLoss'},
    'pyiqa': {'type': 'PyIQALoss', 'metric': 'gmsd'},
}
NEEDS = {'ms-ssim': 'piq', 'lpips': 'lpips', 'dists': 'DISTS_pytorch', 'pyiqa': 'pyiqa'}
BACKBONES = {'vgg': 'vgg11', 'contextual': 'vgg11', 'lpips': 'alexnet', 'dists': 'vgg16'}

TRAIN = {
    'one average': {'ema_decay': 0.9},
    'no average': {'ema_decay': 0},
    'an average with a warm-up': {'ema_decay': 0.9, 'ema_power': 0.75},
    'an average that begins late': {'ema_decay': 0.9, 'ema_update_after_step': 3},
    'several averages with a warm-up': {'ema_decay': [0.9, 0.5], 'ema_power': 0.75, 'ema_update_after_step': 1},
    'a loss on a schedule': {'loss_schedules': {'pixel': [[0, 0.5], [4, 2]]}},
    'accumulation': {'accumulate': 2},
    'bf16': {'amp': 'bf16'},
}

DATA = {
    'mixup': {'mixup': {'probability': 0.8}},
    'cutmix': {'cutmix': {'probability': 0.8}},
    'cutblur': {'cutblur': {'probability': 0.8}},
    'permuted channels': {'rgb_permutation_probability': 0.8},
    'rain': {'rain': {}, 'rain_probability': 0.5},
    'clean samples': {'clean_probability': 0.5},
    'lines': {'lines_probability': 0.8},
    'enlarged samples': {'enlarge': 3, 'enlarge_probability': 0.8},
    'further photographs': {'dataroot_clean': 'more/gt', 'clean_probability': 0.8},
    'growing patches': {'gt_size': None, 'gt_sizes': [16, 24], 'mini_batch_sizes': [2, 1], 'iters': [3, 1],
                        'batch_size_per_gpu': 1},
    'folders by weight': {'dataroot_gt': None, 'dataroot_lq': None, 'sources': [
        {'dataroot_gt': 'pairs/gt', 'dataroot_lq': 'pairs/lq', 'weight': 2},
        {'dataroot_gt': 'more/gt', 'dataroot_lq': 'more/lq', 'weight': 1}]},
}  # fmt: skip

DEGRADATIONS = {
    'published': {},
    'halos': {'halo_prob': 0.8},
    'screentone': {'screentone_prob': 0.8},
    'chroma': {'subsampling_prob': 0.8},
    **{
        codec: {'codec_prob': 0.8, 'codec_list': [codec], 'codec_weights': [1]}
        for codec in ('webp', 'avif', 'h264', 'hevc', 'vp9', 'mpeg2')
    },
    'a second codec': {'codec_prob2': 0.8, 'codec_list': ['webp', 'avif'], 'codec_weights': [1, 1]},
    'pool of pairs': {'queue_size': 4},
}


def batch(iteration: int, size: int = 16) -> dict:
    generator = torch.Generator().manual_seed(iteration)
    gt = torch.rand(2, 3, size, size, generator=generator)
    return {'lq': (gt + 0.1 * torch.rand(gt.shape, generator=generator)).clamp(0, 1), 'gt': gt}


def run(model, first: int, last: int, save_at: int = 0, data: Any = batch) -> list[torch.Tensor]:
    """Train; the inputs of every iteration."""
    inputs = []
    for iteration in range(first, last + 1):
        model.update_learning_rate(iteration)
        model.feed_data(data(iteration))
        inputs.append(model.lq.clone())
        model.optimize_parameters(iteration)
        if iteration == save_at:
            model.save(0, iteration)
    return inputs


def assert_resumes(build, options, train: dict[str, Any], steps: int = STEPS, data=lambda: batch) -> list[torch.Tensor]:
    """Twice `steps` iterations, and the second half anew from what was saved; the inputs of the first run.

    Args:
        train: what changes in section `train`.
        data: called once for each run: what hands out the batch of an iteration.
    """
    options.pop('val', None)
    train = {'scheduler': {'type': 'MultiStepLR', 'milestones': [steps + 1], 'gamma': 0.5}} | train
    undisturbed = build(**train)
    inputs = run(undisturbed, 1, 2 * steps, save_at=steps, data=data())
    wanted = deepcopy(undisturbed.networks_to_save()['g'])

    state_file = f'{options["path"]["training_states"]}/{steps}.state'
    weights = f'{options["path"]["models"]}/net_g_{steps}.pth'
    options['path'] |= {'pretrain_network_g': weights, 'resume_state': state_file}
    resumed = build(**train)
    resumed.resume_training(torch.load(state_file, weights_only=True))
    again = run(resumed, steps + 1, 2 * steps, data=data())
    assert all(torch.equal(a, b) for a, b in zip(inputs[steps:], again, strict=True)), 'other data'

    found = resumed.networks_to_save()['g']
    assert found.keys() == wanted.keys()
    for key in (key for key in wanted if key.startswith('params')):
        assert all(torch.equal(found[key][name], value) for name, value in wanted[key].items()), key
    begun = torch.load(weights, weights_only=True)['params']
    assert any(not torch.equal(begun[name], value) for name, value in wanted['params'].items()), 'nothing was trained'
    return inputs


@pytest.mark.parametrize(
    'name', [name if name in DOCUMENTED else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_optimisers_resume_exactly(name, build, options):
    if name not in OPTIMIZERS:
        pytest.skip(f'the package of {name} is not installed')
    average = {'ema_decay': 0} if 'ScheduleFree' in name else {}
    optim = {'type': name, 'lr': 1e-3} | OPTIM.get(name, {})
    assert_resumes(build, options, average | {'optim_g': optim}, steps=3 if name in STAND_STILL else STEPS)


@pytest.mark.parametrize('feature', TRAIN)
def test_averages_schedules_and_precision_resume_exactly(feature, build, options):
    assert_resumes(build, options, TRAIN[feature])


@pytest.fixture(scope='module')
def backbones(tmp_path_factory) -> Path:
    """A folder with random weights of the classifiers that losses look through."""
    from torchvision.models import alexnet
    from torchvision.models.vgg import cfgs, make_layers

    folder = tmp_path_factory.mktemp('backbones')
    torch.manual_seed(0)
    networks = {'vgg11': make_layers(cfgs['A']), 'vgg16': make_layers(cfgs['D']), 'alexnet': alexnet().features}
    for name, network in networks.items():
        torch.save({f'features.{k}': v.half() for k, v in network.state_dict().items()}, folder / f'{name}.pth')
    return folder


@pytest.mark.parametrize('loss', LOSSES)
def test_losses_resume_exactly(loss, build, options, backbones):
    if loss in NEEDS and not importlib.util.find_spec(NEEDS[loss]):
        pytest.skip(f'{NEEDS[loss]} is not installed')
    section = dict(LOSSES[loss])
    if loss in BACKBONES:
        section['vgg_path' if 'vgg_type' in section else 'weights'] = str(backbones / f'{BACKBONES[loss]}.pth')
    side = {'lpips': 48, 'dists': 32, 'ms-ssim': 24}.get(loss, 16)
    key = 'perceptual_opt' if loss == 'vgg' else 'one_opt'
    train = {'pixel_opt': ..., key: section}
    assert_resumes(build, options, train, data=lambda: lambda iteration: batch(iteration, side))


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """The current folder has `pairs` and `more`, each with five pictures in gt and darker ones in lq."""
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(('pairs', 'more')):
        rng = np.random.default_rng(seed)
        for i in range(5):
            picture = cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (32, 40))
            for part, pixels in (('gt', picture), ('lq', picture // 2)):
                Path(folder, part).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(f'{folder}/{part}/{i}.png', pixels)


@pytest.mark.parametrize('feature', DATA)
def test_data_resumes_exactly(feature, build, options, pairs):
    plain = {
        'name': 'pairs', 'scale': 1, 'dataroot_gt': 'pairs/gt', 'dataroot_lq': 'pairs/lq', 'gt_size': 16,
        'batch_size_per_gpu': 2, 'total_iter': 2 * STEPS, 'manual_seed': 4,
    }  # fmt: skip

    def read(section):
        dataset = PairedProgressiveDataset(section)
        return lambda iteration: torch.utils.data.default_collate(
            dataset.__getitems__(list(range(
                (iteration - 1) * dataset.items_per_iteration, iteration * dataset.items_per_iteration
            )))
        )  # fmt: skip

    inputs = assert_resumes(build, options, {}, data=lambda: read(plain | DATA[feature]))
    usual = [read(plain)(iteration)['lq'] for iteration in range(1, 2 * STEPS + 1)]
    assert any(not torch.equal(a, b) for a, b in zip(inputs, usual, strict=True)), 'the feature changed nothing'


@pytest.mark.parametrize('feature', DEGRADATIONS)
def test_degradations_resume_exactly(feature, build, options):
    if fault := missing_codecs(DEGRADATIONS[feature].get('codec_list', ())):
        pytest.skip(fault)

    def inputs(**changes):
        real_world(options, 'VmambaIRRealSRModel', **{'queue_size': 0} | changes)
        train = {'scheduler': options['train']['scheduler']}
        return assert_resumes(build, options, train, data=lambda: photographs)

    found = inputs(**DEGRADATIONS[feature])
    if feature == 'published':
        return
    model = build_published(build, options)
    usual = run(model, 1, 2 * STEPS, data=photographs)
    assert any(not torch.equal(a, b) for a, b in zip(found, usual, strict=True)), 'the feature changed nothing'


def build_published(build, options):
    """The model with the published degradation alone, from the start."""
    options['path'] |= {'pretrain_network_g': None, 'resume_state': None}
    for key in {key for changes in DEGRADATIONS.values() for key in changes}:
        options.pop(key, None)
    options['queue_size'] = 0
    return build()


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


SCHEDULE_FREE = [
    {'type': 'AdamWScheduleFree', 'lr': 1e-2, 'warmup_steps': 2},
    {'type': 'AdamWScheduleFree', 'lr': 1e-3, 'betas': [0.95, 0.99], 'weight_decay': 0.1},
    {'type': 'RAdamScheduleFree', 'lr': 1e-3},
    {'type': 'SGDScheduleFree', 'lr': 1e-2},
]


def schedule_free(build, options, optim):
    if optim['type'] not in OPTIMIZERS:
        pytest.skip('schedulefree is not installed')
    options.pop('val', None)
    return build(optim_g=optim, ema_decay=0, scheduler={'type': 'MultiStepLR', 'milestones': [99], 'gamma': 0.5})


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.net_g.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize('optim', SCHEDULE_FREE, ids=lambda optim: f'{optim["type"]}-{optim["lr"]}')
def test_validation_and_saving_leave_a_schedule_free_run_as_it_was(build, options, optim):
    model = schedule_free(build, options, optim)
    run(model, 1, 7)
    trained = weights(model)
    model.save(0, 7)
    saved = torch.load(f'{options["path"]["models"]}/net_g_7.pth', weights_only=True)['params']
    assert same(weights(model), trained)
    assert not same({name: saved[name] for name in trained}, trained), 'the average is saved'
    with suppress(KeyError), evaluated(model.optimizers):
        assert same(weights(model), {name: saved[name] for name in trained})
        raise KeyError('a validation that fails')
    assert same(weights(model), trained)
    run(model, 8, 8)
    assert not same(weights(model), trained), 'it cannot go on'


@pytest.mark.parametrize('optim', SCHEDULE_FREE, ids=lambda optim: f'{optim["type"]}-{optim["lr"]}')
@pytest.mark.parametrize('saved_at', [1, 4, 7])
def test_a_schedule_free_run_that_was_saved_once_ends_as_one_that_never_was(build, options, optim, saved_at):
    """A signal, or a best network, saves where the undisturbed run does not."""
    undisturbed = schedule_free(build, options, optim)
    run(undisturbed, 1, 9)
    first = schedule_free(build, options, optim)
    run(first, 1, saved_at, save_at=saved_at)
    options['path']['pretrain_network_g'] = f'{options["path"]["models"]}/net_g_{saved_at}.pth'
    resumed = schedule_free(build, options, optim)
    resumed.resume_training(torch.load(f'{options["path"]["training_states"]}/{saved_at}.state', weights_only=True))
    assert same(weights(resumed), weights(first))
    run(resumed, saved_at + 1, 9)
    assert same(weights(resumed), weights(undisturbed))


@pytest.mark.parametrize('change', ['of an older version', 'of a network that starts afresh'])
def test_a_schedule_free_run_goes_on_without_its_point(build, options, change):
    first = schedule_free(build, options, SCHEDULE_FREE[0])
    run(first, 1, 4, save_at=4)
    state = torch.load(f'{options["path"]["training_states"]}/4.state', weights_only=True)
    options['path']['pretrain_network_g'] = f'{options["path"]["models"]}/net_g_4.pth'
    if change == 'of an older version':
        del state['points']
    else:
        options['path']['ignore_resume_networks'] = ['network_g']
        del options['path']['pretrain_network_g']
    resumed = schedule_free(build, options, SCHEDULE_FREE[0])
    resumed.resume_training(state)
    close = [torch.allclose(p, weights(first)[name], atol=1e-6) for name, p in weights(resumed).items()]
    assert all(close) is (change == 'of an older version')
    run(resumed, 5, 6)


def test_the_rows_that_the_documentation_names_are_here():
    table = (Path(__file__).resolve().parents[2] / 'docs' / 'recipes.md').read_text(encoding='utf-8')
    rows = {'data': DATA, 'averages': TRAIN, 'optimisers': DOCUMENTED, 'losses': LOSSES, 'degradations': DEGRADATIONS}
    named = re.findall(r'`(data|averages|optimisers|losses|degradations)\[(.+?)\]`', table)
    assert len(named) > 5
    assert [(test, row) for test, row in named if row not in rows[test]] == []
