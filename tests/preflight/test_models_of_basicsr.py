"""What BasicSR's own models say when they are built, or in their first step: it is told by the check."""

from __future__ import annotations

import pytest
from experiment import write_pairs

from vmambair_arch.preflight import Report, theirs
from vmambair_arch.preflight.building import model_class

EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 1}
RRDB = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2, 'scale': 1}
GAN = {
    'model_type': 'SRGANModel',
    'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4},
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    'train__optim_d': {'type': 'Adam', 'lr': 0.001},
}
FFT = {'train__pixel_opt': None, 'train__fft_opt': {'type': 'FFTLoss'}}
SMALL = {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4, 'input_size': 128}


@pytest.fixture
def enlarging(workplace):
    """Changes for a run at scale 4, of inputs of 12 and 8 pixels."""
    write_pairs(workplace / 'large', 3, size=48, scale=4)
    write_pairs(workplace / 'large_val', 1, size=32, scale=4)
    changes = {'scale': 4, 'datasets__train__gt_size': 32}
    for phase, folder in ('train', 'large'), ('val', 'large_val'):
        changes |= {f'datasets__{phase}__dataroot_{part}': f'{folder}/{part}' for part in ('gt', 'lq')}
    return changes


@pytest.mark.parametrize(
    ('changes', 'fault'),
    [
        ({'network_g': {**EDSR, 'upscale': 4}}, ''),
        ({'network_g': {**EDSR, 'upscale': 2}}, 'it makes 3 x 16 x 16, and the targets are 3 x 32 x 32'),
        ({'network_g': {**EDSR, 'upscale': 4, 'num_in_ch': 1}}, 'network_g: on a patch of 8 x 8 pixels: Given groups'),
        (
            {'network_g': {**EDSR, 'upscale': 4}, 'datasets__train__gt_size': 33},
            'datasets: train: gt_size 33 is no multiple of the scale 4, which PairedImageDataset needs',
        ),
    ],
)
def test_networks_that_enlarge(check, enlarging, changes, fault):
    said = check(**enlarging | changes).faults
    assert len(said) == bool(fault), said
    assert all(fault in line for line in said)


@pytest.mark.parametrize('kind', ['PairedImageDataset', 'RealESRGANPairedDataset'])
def test_networks_on_samples_of_any_data_set(check, kind):
    (fault,) = check(datasets__train__type=kind, network_g={**RRDB, 'num_out_ch': 1}).faults
    assert 'it makes 1 x 16 x 16, and the targets are 3 x 16 x 16' in fault


@pytest.mark.parametrize(
    ('changes', 'fault'),
    [
        ({}, ''),
        ({'train__pixel_opt': None}, 'train: no loss'),
        (FFT, 'train: SRModel needs pixel_opt or perceptual_opt, or both'),
        (FFT | {'model_type': 'VmambaIRModel'}, ''),
        ({'train__ema_decay': [0.9, 0.99]}, 'train: ema_decay: SRModel keeps one average'),
        ({'train__optim_g': {'type': 'Adam'}}, 'train: optim_g: lr is missing'),
        ({'model_type': 'VmambaIRModel', 'train__ema_decay': [0.9, 0.99]}, ''),
        ({'model_type': 'VmambaIRModel', 'train__optim_g': {'type': 'Adam'}}, ''),
        ({'network_d': SMALL, 'train__optim_d': {'type': 'Adam', 'lr': 0.001}}, ''),  # which SRModel does not read
        (GAN, ''),
        (GAN | {'model_type': 'ESRGANModel'}, ''),
        (GAN | {'train__pixel_opt': None}, ''),
        (GAN | {'train__gan_opt': None}, 'train: gan_opt is missing, which SRGANModel needs'),
        (GAN | {'model_type': 'ESRGANModel', 'train__gan_opt': None}, 'gan_opt is missing, which ESRGANModel needs'),
        (GAN | {'network_d': ...}, "section 'network_d' is missing"),
        (GAN | {'train__optim_d': {'type': 'Adam'}}, 'train: optim_d: lr is missing'),
        (GAN | {'network_d': SMALL}, 'network_d: on a patch of 16 x 16 pixels: Input size must be identical'),
    ],
)
def test_what_models_need(check, changes, fault):
    said = check(**{key: value for key, value in changes.items() if value is not ...}).faults
    assert len(said) == bool(fault), said
    assert all(fault in line for line in said)


# ---------------------------------------------------------------- models that need a GPU


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    ('model', 'instead'),
    [('RealESRNetModel', 'VmambaIRRealSRModel'), ('RealESRGANModel', 'VmambaIRRealSRGANModel')],
)
def test_models_that_degrade_on_a_gpu(check, model, instead, training):
    faults = check(training, model_type=model, num_gpu=0).faults
    assert f'model_type: {model} needs a GPU, and none is used (num_gpu); take {instead}' in faults
    report = Report('')
    theirs.check_their_model({}, model_class({'model_type': model}), training, 1, report)
    assert report.faults == []


@pytest.mark.parametrize('model', ['VideoBaseModel', 'VideoRecurrentModel', 'VideoGANModel'])
def test_video_models_keep_their_metrics_on_a_gpu(check, model):
    assert any('keeps them on a GPU' in fault for fault in check(model_type=model, num_gpu=0).faults)
    assert not any('GPU' in fault for fault in check(model_type=model, num_gpu=0, val__metrics=None).faults)
