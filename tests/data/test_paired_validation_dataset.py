"""Whole pairs, in order, the same every time."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from vmambair_arch.data.paired_validation_dataset import PairedValidationDataset


def test_whole_pairs_in_sorted_order(pairs_folder):
    roots = {'dataroot_gt': str(pairs_folder / 'target'), 'dataroot_lq': str(pairs_folder / 'input')}
    dataset = PairedValidationDataset({'phase': 'val', 'scale': 1, **roots})
    assert [dataset[i]['lq_path'][-5:] for i in range(len(dataset))] == [f'{i}.png' for i in range(7)]
    item = dataset[2]
    image = cv2.imread(str(pairs_folder / 'target' / '2.png'))[..., ::-1]
    np.testing.assert_array_equal((item['gt'] * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0), image)
    assert item['lq'].shape == item['gt'].shape == (3, 40, 48)


def test_an_image_has_the_same_rain_every_time(pairs_folder):
    dataset = PairedValidationDataset({'dataroot_gt': str(pairs_folder / 'target'), 'rain': {'opacity': [0.5, 0.9]}})
    first, second = dataset[0], dataset[1]
    assert torch.equal(first['lq'], dataset[0]['lq'])
    assert (first['lq'] - first['gt']).abs().max() > 0.1
    assert not torch.equal(first['lq'] - first['gt'], second['lq'] - second['gt'])
    assert first['lq_path'] == first['gt_path']
