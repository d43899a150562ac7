"""The option files of super-resolution hold the published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realesrgan_pipeline import DegradationConfig
from vmambair_arch.archs import VmambaIR
from vmambair_arch.models.lr_schedulers import build_scheduler
from vmambair_arch.models.real_world import read_degradation, read_gt_size
from vmambair_arch.options import load_options

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
SR, REAL = ('train_sr_stage1', 'train_sr_gan', 'test_sr'), ('train_realsr_stage1', 'train_realsr_gan', 'test_realsr')


def load(name):
    return load_options(OPTIONS / f'{name}.yml')


@pytest.mark.parametrize(('names', 'preset', 'parameters'), [(SR, 'sr_x4', 11.724e6), (REAL, 'realsr_x4', 10.498e6)])
def test_networks_are_the_papers(names, preset, parameters):
    with torch.device('meta'):
        expected = VmambaIR.from_preset(preset)
        for name in names:
            section = load(name)['network_g']
            assert section.pop('type') == 'VmambaIR'
            network = VmambaIR(**section)
            assert network.config == expected.config
            assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, abs=1e3)


@pytest.mark.parametrize('name', ['train_realsr_stage1', 'train_realsr_gan'])
def test_degradation_is_real_esrgans_and_the_data_is_the_releases(name):
    opt = load(name)
    section = opt['datasets']['train']
    assert read_degradation(opt, section) == DegradationConfig()
    assert read_gt_size(opt, section) == 256
    assert section['crop_pad_size'] == 600
    assert (section['use_hflip'], section['use_rot']) == (True, False)
    assert (opt['queue_size'], section['batch_size_per_gpu']) == (180, 9)
    switches = [opt[key] for key in opt if key.endswith('gt_usm')]
    assert switches == [False] * (1 if 'stage1' in name else 3)


@pytest.mark.parametrize(
    ('name', 'label', 'expected'),
    [
        ('train_sr_stage1', 'g', [(0, 2e-4), (50_000, 1e-4), (70_000, 5e-5)]),
        ('train_sr_gan', 'g', [(0, 2e-4), (150_000, 1e-4)]),
        ('train_sr_gan', 'd', [(0, 1e-4), (150_000, 5e-5)]),
        ('train_realsr_stage1', 'g', [(0, 2e-4), (250_000, 1e-4), (350_000, 5e-5)]),
        ('train_realsr_gan', 'g', [(0, 1e-4)]),
        ('train_realsr_gan', 'd', [(0, 1e-4)]),
    ],
)
def test_rates_fall_when_published(name, label, expected):
    train = load(name)['train']
    base = train[f'optim_{label}']['lr']
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=base)
    scheduler = build_scheduler(optimizer, train.get(f'scheduler_{label}') or train['scheduler'])
    found = []
    for iteration in range(0, train['total_iter'], 1000):
        rate = scheduler.rate(base, iteration)
        if not found or found[-1][1] != rate:
            found.append((iteration, rate))
    assert found == [(iteration, pytest.approx(rate)) for iteration, rate in expected]


@pytest.mark.parametrize(
    ('name', 'total', 'losses'),
    [
        ('train_sr_stage1', 100_000, {'pixel_opt'}),
        ('train_realsr_stage1', 500_000, {'pixel_opt'}),
        ('train_sr_gan', 300_000, {'pixel_opt', 'perceptual_opt', 'gan_opt'}),
        ('train_realsr_gan', 300_000, {'pixel_opt', 'perceptual_opt', 'gan_opt'}),
    ],
)
def test_losses_weigh_one_to_one(name, total, losses):
    train = load(name)['train']
    assert train['total_iter'] == total
    assert train['ema_decay'] == 0.999
    assert {key for key in train if key.endswith('_opt')} == losses
    weights = [train[key].get('loss_weight', train[key].get('perceptual_weight')) for key in losses]
    assert weights == [1] * len(losses)
    if 'gan_opt' in losses:
        layers = train['perceptual_opt']['layer_weights']
        assert layers == {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1, 'conv4_4': 1, 'conv5_4': 1}
        stage1 = load(name.replace('gan', 'stage1'))
        assert load(name)['path']['pretrain_network_g'] == f'experiments/{stage1["name"]}/models/net_g_latest.pth'
        assert load(name)['network_g'] == stage1['network_g']
