"""What only the first iteration used to show is told by the check; each of these died, or trained nonsense, before."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from experiment import write_image
from torch._subclasses.fake_tensor import FakeTensor

from vmambair_arch.errors import Stopped
from vmambair_arch.models.vmambair_model import VmambaIRModel
from vmambair_arch.preflight.first_step import try_network
from vmambair_arch.preflight.resources import _activations

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


class Signalled(torch.nn.Module):
    """Sends its own process a signal, once, where the network is tried on tensors without memory."""

    number = signal.SIGTERM
    passed: ClassVar[list[bool]] = []

    def __init__(self, where: str = 'forward') -> None:
        super().__init__()
        self.where = where
        self.weight = torch.nn.Parameter(torch.ones(1))
        if where == 'constructor':
            self.send(self.weight)

    def send(self, tensor: torch.Tensor) -> None:
        if isinstance(tensor, FakeTensor) or torch._guards.detect_fake_mode() is not None:
            os.kill(os.getpid(), self.number)
            self.passed.append(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.where == 'forward':
            self.send(x)
        if self.where == 'operator':
            return torch.ops.signalled.scale(x * self.weight)
        return x * self.weight


@pytest.fixture
def signalled(monkeypatch):
    """The network and an operator of that kind; signals raise, as in `guard`."""
    library = torch.library.Library('signalled', 'DEF')
    library.define('scale(Tensor x) -> Tensor')
    library.impl('scale', torch.clone, 'CPU')

    def fake(x: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), Signalled.number)
        Signalled.passed.append(True)
        return torch.empty_like(x)

    torch.library.register_fake('signalled::scale', fake, lib=library)
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Signalled', Signalled)
    monkeypatch.setattr(Signalled, 'passed', [])

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield Signalled
    for number, handler in before.items():
        signal.signal(number, handler)
    library._destroy()


def on_a_patch(section):
    try_network(section, (1, 3, 8, 8), 0)


def memory(section):
    options = {'network_g': section, 'train': {}, 'scale': 1}
    _activations(options, {'gt_size': 16, 'batch_size_per_gpu': 1})


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize('where', ['constructor', 'forward', 'operator'])
@pytest.mark.parametrize('tried', [on_a_patch, memory])
def test_a_signal_waits_until_no_operator_is_without_memory(signalled, monkeypatch, number, where, tried):
    """An exception there is one in the middle of torch's C++, which may end the process with SIGABRT for it."""
    monkeypatch.setattr(signalled, 'number', number)
    with pytest.raises(Stopped) as stopped:
        tried({'type': 'Signalled', 'where': where})
    assert stopped.value.number == number
    assert signalled.passed == [True], 'it came at once'
