"""Inputs that are made from the targets by MATLAB's bicubic, against those on disk."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from realesrgan_pipeline import imresize
from vmambair_arch import UserError
from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.data.paired_validation_dataset import PairedValidationDataset


@pytest.fixture
def folders(tmp_path, write_images):
    """Three targets of 67 x 90 and their inputs at scale 4, of 16 x 22."""
    names = [f'{i}.png' for i in range(3)]
    (tmp_path / 'lq').mkdir()
    for name, image in zip(names, write_images(tmp_path / 'gt', names, size=(67, 90)), strict=True):
        noise = np.random.default_rng(len(name)).integers(0, 60, image.shape)
        image = (image // 2 + noise).astype(np.uint8)
        cv2.imwrite(str(tmp_path / 'gt' / name), image[..., ::-1])
        cv2.imwrite(str(tmp_path / 'lq' / name), imresize(image[:64, :88], 1 / 4)[..., ::-1])
    return tmp_path


def sections(folders, **more):
    """The same data set with inputs from disk, and made."""
    section = {'dataroot_gt': str(folders / 'gt'), 'scale': 4, 'manual_seed': 1} | more
    return section | {'dataroot_lq': str(folders / 'lq')}, section | {'bicubic': True}


@pytest.mark.parametrize('gt_size', [16, 48, 64, 120])
def test_made_patches_are_those_on_disk(folders, gt_size):
    from_disk, made = (
        PairedProgressiveDataset(section)
        for section in sections(folders, gt_size=gt_size, total_iter=20, batch_size_per_gpu=2)
    )
    for i in range(40):
        ours, theirs = made[i], from_disk[i]
        assert ours['lq'].shape[-1] == gt_size // 4
        assert torch.equal(ours['lq'], theirs['lq'])
        assert torch.equal(ours['gt'], theirs['gt'])


def test_made_images_for_validation_are_those_on_disk(folders):
    from_disk, made = (PairedValidationDataset(section) for section in sections(folders))
    for ours, theirs in zip(made, from_disk, strict=True):
        assert torch.equal(ours['lq'], theirs['lq'])
        assert torch.equal(ours['gt'], theirs['gt'])
        assert ours['gt'].shape == (3, 64, 88)


def test_made_images_are_the_benchmarks(shared):
    folder = shared / 'data' / 'sr' / 'Set5'
    section = {'dataroot_gt': str(folder / 'HR'), 'scale': 4, 'bicubic': True}
    for pair in PairedValidationDataset(section):
        name = pair['gt_path'].split('/')[-1].replace('.png', 'x4.png')
        expected = cv2.imread(str(folder / 'LR_bicubic' / 'X4' / name))[..., ::-1]
        np.testing.assert_array_equal((pair['lq'] * 255).round().permute(1, 2, 0), expected)


def test_grey_images_are_reduced_in_8_bits(folders):
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    cv2.imwrite(str(folders / 'gt' / '0.png'), grey)
    lq = PairedValidationDataset(sections(folders)[1])[0]['lq']
    for channel in lq:
        np.testing.assert_array_equal((channel * 255).round(), imresize(grey, 1 / 4))


def test_inputs_come_from_one_place(folders):
    from_disk, made = sections(folders)
    with pytest.raises(UserError, match='bicubic makes the inputs itself; remove dataroot_lq, or bicubic'):
        PairedValidationDataset(from_disk | {'bicubic': True})
    with pytest.raises(UserError, match='bicubic makes the inputs itself; remove rain, or bicubic'):
        PairedValidationDataset(made | {'rain': {}})
    with pytest.raises(UserError, match='name the folder of inputs, or give rain, or bicubic: true'):
        PairedValidationDataset(made | {'bicubic': False})


def test_targets_smaller_than_a_pixel_are_named(folders):
    cv2.imwrite(str(folders / 'gt' / '0.png'), np.zeros((3, 40, 3), np.uint8))
    with pytest.raises(UserError, match=r'0\.png: 40x3 is smaller than one pixel at scale 4'):
        PairedValidationDataset(sections(folders)[1])[0]
