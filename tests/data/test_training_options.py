"""The deraining and deblurring option files show the network what their recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.data.paired_validation_dataset import PairedValidationDataset
from vmambair_arch.models.lr_schedulers import build_scheduler
from vmambair_arch.options import load_options

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
PROGRESSIVE = [
    'train_derain',
    'train_derain_released',
    'train_derain_released_finetune',
    'train_derain_released_396k',
    'train_deblur',
]


def lay_out(section, write_images, root):
    for key in ('dataroot_gt', 'dataroot_lq'):
        folder = root / section[key]
        if not folder.is_dir():
            write_images(folder, ['a.png', 'b.png'], size=(64, 96))
        section[key] = str(folder)


@pytest.mark.parametrize('name', PROGRESSIVE)
def test_stages_cover_the_run(name, tmp_path, write_images):
    opt = load_options(OPTIONS / f'{name}.yml')
    section, total = opt['datasets']['train'], opt['train']['total_iter']
    lay_out(section, write_images, tmp_path)
    assert sum(section['iters']) == total
    dataset = PairedProgressiveDataset(
        {**section, 'scale': 1, 'phase': 'train', 'num_replicas': 8, 'total_iter': total}
    )
    first, last = dataset[0], dataset[8 * total - 1]
    assert first['gt'].shape == first['lq'].shape == (8, 3, 128, 128)
    assert last['gt'].shape == (1, 3, 384, 384)
    second = 8 * section['iters'][0]
    assert dataset[second - 1]['gt'].shape[-1] == 128
    assert dataset[second]['gt'].shape == (5, 3, 160, 160)


@pytest.mark.parametrize('name', [*PROGRESSIVE, 'test_derain'])
def test_validation_sets_are_found_where_the_file_says(name, tmp_path, write_images):
    opt = load_options(OPTIONS / f'{name}.yml')
    sections = [section for phase, section in opt['datasets'].items() if phase != 'train']
    assert len(sections) == (4 if name == 'test_derain' else 1)
    for section in sections:
        lay_out(section, write_images, tmp_path)
        assert PairedValidationDataset({**section, 'scale': 1})[1]['gt'].shape == (3, 64, 96)


def rates(name):
    train = load_options(OPTIONS / f'{name}.yml')['train']
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=train['optim_g']['lr'])
    scheduler = build_scheduler(optimizer, train['scheduler'])
    return lambda iteration: scheduler.rate(train['optim_g']['lr'], iteration)


@pytest.mark.parametrize('name', ['train_derain', 'train_derain_released', 'train_deblur'])
def test_the_rate_is_held_and_then_falls(name):
    rate = rates(name)
    assert rate(1) == rate(50_000) == rate(92_000) == pytest.approx(3e-4)
    assert rate(92_000 + 104_000) == pytest.approx((3e-4 + 1e-6) / 2)
    assert rate(300_000) == pytest.approx(1e-6)


def test_the_released_peculiarities_are_kept():
    rate = rates('train_derain_released_finetune')
    assert rate(1) == pytest.approx(1e-4, rel=1e-3)
    assert rate(48_000) == pytest.approx(2.85e-4)
    assert rate(144_000) == rate(156_000) == pytest.approx(1e-6)
    assert rates('train_derain_released_396k')(396_000) == pytest.approx(1.24e-5, rel=0.01)
