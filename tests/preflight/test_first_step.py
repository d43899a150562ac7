"""What only the first iteration used to show is told by the check; each of these died, or trained nonsense, before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from experiment import write_image

from vmambair_arch.models.vmambair_model import VmambaIRModel

OURS = {'model_type': 'VmambaIRModel'}
PAIRED = {**OURS, 'datasets__train__type': 'PairedProgressiveDataset'}
LABELS = {
    **PAIRED,
    'datasets__train__dataroot_label': 'train/gt',
    'train__label_pixel_opt': {'type': 'L1Loss'},
}
GAN = {
    'model_type': 'VmambaIRSRGANModel',
    'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4},
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    'train__optim_d': {'type': 'Adam', 'lr': 0.001},
}


@pytest.mark.parametrize(
    ('changes', 'fault'),
    [
        ({**LABELS, 'datasets__train__lines_probability': 0.5}, 'dataroot_label has no label for what lines_prob'),
        ({**LABELS, 'datasets__train__clean_probability': 0.5}, 'dataroot_label has no label for what clean_prob'),
        (
            {**LABELS, 'datasets__train__enlarge': 2, 'datasets__train__enlarge_probability': 0.5},
            'dataroot_label has no label for what enlarge_probability',
        ),
        ({**OURS, 'datasets__train_extra': {'name': 'x', 'type': 'PairedImageDataset'}}, "'train_extra': there is one"),
        (
            {**OURS, 'datasets__train__type': 'SingleImageDataset', 'datasets__train__gt_size': ...},
            'gives no gt, which',
        ),
        (
            {**GAN, 'network_d': {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4, 'input_size': 128}},
            'network_d: on a patch of 16 x 16 pixels',
        ),
        (
            {**GAN, 'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 6, 'num_feat': 4}},
            'network_d: on a patch of 16 x 16 pixels',
        ),
        ({**GAN, 'train__gan_opt': {'type': 'L1Loss'}}, 'train: gan_opt: '),
        ({**PAIRED, 'network_g__inp_channels': 1, 'network_g__out_channels': 1}, 'network_g: on a patch of 16 x 16'),
        (
            {**PAIRED, 'network_g__out_channels': 1, 'network_g__dual_pixel_task': True},
            'it makes 1 x 16 x 16, and the targets are 3 x 16 x 16',
        ),
        (
            {**PAIRED, 'train__accumulate': 2, 'train__pixel_opt': {'type': 'L1Loss', 'reduction': 'sum'}},
            'train: pixel_opt: it grows with the number of images',
        ),
        ({**OURS, 'name': 'tiny_debug', 'val': None}, 'val: is empty, and a run for debugging writes into it'),
        ({**OURS, 'DEBUG': True, 'val': None}, 'val: is empty, and a run for debugging writes into it'),
        ({**OURS, 'train__scheduler': ...}, 'train: scheduler is missing'),
        ({**PAIRED, 'datasets__train__dataroot_lq': ..., 'datasets__train__rain': True}, 'rain must be a section'),
        ({**PAIRED, 'datasets__train__filename_tmpl': '{}{}'}, 'filename_tmpl must be text with one {} in it'),
        ({**PAIRED, 'datasets__train__filename_tmpl': '{}{x}'}, 'filename_tmpl must be text with one {} in it'),
        ({**PAIRED, 'datasets__train__filename_tmpl': '{}{'}, 'filename_tmpl must be text with one {} in it'),
    ],
)
def test_it_is_one_fault(check, changes, fault):
    faults = check(**changes).faults
    assert len(faults) == 1, faults
    assert fault in faults[0]


@pytest.mark.parametrize(
    'changes',
    [
        PAIRED,
        LABELS,
        GAN,
        {**PAIRED, 'train__accumulate': 2},
        {**OURS, 'train__pixel_opt': {'type': 'L1Loss', 'reduction': 'sum'}},
        {**OURS, 'val': None},
        {**OURS, 'train__scheduler': ..., 'train__scheduler_g': {'type': 'MultiStepLR', 'milestones': [3]}},
        {**PAIRED, 'train__perceptual_opt': None},
        {**OURS, 'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 6}},  # which the model does not read
    ],
    ids=str,
)
def test_what_runs_passes(check, changes):
    assert check(**changes).faults == []


def test_a_schedule_of_a_loss_that_is_switched_off_has_no_loss(check):
    changes = {'train__perceptual_opt': None, 'train__loss_schedules': {'perceptual': [[0, 0], [5, 1]]}}
    assert any('perceptual' in fault for fault in check(**PAIRED, **changes).faults)


def test_pictures_that_are_degraded_are_not_for_a_model_of_pairs(check):
    changes = {'datasets__train__type': 'RealESRGANPipelineDataset'}
    changes |= {f'datasets__train__{key}': ... for key in ('dataroot_lq', 'gt_size')}
    faults = check(**OURS, **changes).faults
    assert any('RealESRGANPipelineDataset gives no lq' in fault for fault in faults), faults


def test_a_network_that_only_tensors_without_memory_stop_passes(check, monkeypatch):
    class Reads(torch.nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(x.mean() >= 0)  # a number: no fake tensor has one

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Reads', Reads)
    assert check(**PAIRED, network_g={'type': 'Reads'}).faults == []


def test_a_first_picture_that_is_damaged(check, workplace):
    for path in (workplace / 'train/lq').iterdir():
        data = path.read_bytes()
        at = data.index(b'IDAT') + 8
        path.write_bytes(data[:at] + bytes(len(data) - at - 40) + data[-40:])
    faults = check(**PAIRED).faults
    assert len(faults) == 1
    assert 'datasets: train: its first sample: ' in faults[0]


def test_rain_of_no_probability_leaves_validation_as_it_is(workplace):
    from vmambair_arch.data.paired_validation_dataset import PairedValidationDataset

    write_image(workplace / 'other/000.png', seed=9)
    section = {
        'name': 'v',
        'dataroot_gt': 'val/gt',
        'dataroot_lq': 'val/lq',
        'io_backend': {'type': 'disk'},
        'scale': 1,
    }
    plain = PairedValidationDataset(section)[0]
    dry = PairedValidationDataset({**section, 'rain': {}, 'rain_probability': 0})[0]
    np.testing.assert_array_equal(plain['lq'], dry['lq'])


def test_data_and_networks_of_one_channel_pass(check):
    grey = {'datasets__train__color': 'y', 'datasets__val__color': 'y'}
    network = {'network_g__inp_channels': 1, 'network_g__out_channels': 1}
    assert check(**OURS, **grey, **network).faults == []
    assert any('on a patch of' in fault for fault in check(**OURS, **grey).faults)


def test_a_model_that_others_derive_may_read_what_it_likes(check, monkeypatch):
    class Mine(VmambaIRModel):
        __module__ = 'their_package'

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'Mine', Mine)
    changes = {'datasets__train__type': 'SingleImageDataset', 'datasets__train__gt_size': ...}
    assert not any('gives no' in fault for fault in check(model_type='Mine', **changes).faults)


def test_a_target_that_bicubic_reduces_to_nothing(check, workplace):
    """It came up when its turn came."""
    write_image(workplace / 'train' / 'gt' / 'tiny.png', 3, 9)
    bicubic = {'datasets__train__dataroot_lq': ..., 'datasets__train__bicubic': True, 'scale': 4}
    faults = check(
        **PAIRED,
        **bicubic,
        network_g__scale=4,
        datasets__val__dataroot_lq=...,
        datasets__val__bicubic=True,
        datasets__val__type='PairedValidationDataset',
    ).faults
    assert [fault for fault in faults if 'tiny.png is 9x3' in fault and 'smaller than one pixel at scale 4' in fault]
