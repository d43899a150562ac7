"""`vmambair check --samples`: what the network will see."""

from __future__ import annotations

import pytest

from vmambair_arch.images.image_io import read_image

PROGRESSIVE = {
    'model_type': 'VmambaIRModel',
    'datasets__train__type': 'PairedProgressiveDataset',
    'datasets__train__gt_size': None,
    'datasets__train__gt_sizes': [16],
    'datasets__train__mini_batch_sizes': [2],
    'datasets__train__iters': [4],
}
REAL_WORLD = {
    'model_type': 'VmambaIRRealSRModel',
    'scale': 2,
    'gt_size': 16,
    'queue_size': 4,
    'network_g__scale': 2,
    'datasets__train__type': 'RealESRGANPipelineDataset',
    'datasets__train__dataroot_lq': ...,
    'datasets__train__gt_size': ...,
    'datasets__train__crop_pad_size': 24,
    'datasets__train__use_rot': ...,
    'datasets__val': ...,
    'val': ...,
}


@pytest.mark.parametrize('changes', [{}, PROGRESSIVE, REAL_WORLD], ids=["BasicSR's data set", 'ours', 'degraded'])
def test_a_sheet_of_inputs_and_targets(check, workplace, changes):
    report = check(SAMPLES='sheets', **changes)
    assert report.faults == []
    assert f'samples: wrote {"sheets"}/samples.png' in report.facts
    sheet = read_image(workplace / 'sheets' / 'samples.png').rgb
    assert sheet.shape[1] > 2 * 192
    assert sheet.shape[0] > 2 * 192
    assert sheet.std() > 0.05


def test_nothing_is_written_while_something_is_wrong(check, workplace):
    report = check(SAMPLES='sheets', datasets__train__dataroot_lq='nowhere')
    assert report.faults
    assert any('--samples' in line for line in report.warnings)
    assert not (workplace / 'sheets').exists()
