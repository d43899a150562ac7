"""What the first validation used to show: whether there is a truth, and whether networks and metrics take the images."""

from __future__ import annotations

import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY
from experiment import write_pairs

from vmambair_arch.data.prepare.derive import make_lmdb


class MyPairs(PairedImageDataset):
    """As a user's own package derives it."""


class Unreadable(PairedImageDataset):
    def __getitem__(self, index):
        raise KeyError('nobody knows')


class OnlyInputs(PairedImageDataset):
    def __getitem__(self, index):
        return {key: value for key, value in super().__getitem__(index).items() if not key.startswith('gt')}


def val(**more):
    return {
        'name': 'Val',
        'dataroot_gt': 'val/gt',
        'dataroot_lq': 'val/lq',
        'io_backend': {'type': 'disk'},
        **more,
    }


@pytest.fixture
def kinds(workplace, monkeypatch):
    """Sections of data sets by what is special about them; all but the last have a truth."""
    for kind in (MyPairs, Unreadable, OnlyInputs):
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, kind.__name__, kind)
    write_pairs(workplace / 'clip', 2)
    for part in ('gt', 'lq'):
        (workplace / 'clips' / part).mkdir(parents=True)
        (workplace / 'clip' / part).rename(workplace / 'clips' / part / 'one')
        listed = make_lmdb(workplace / 'val' / part) / 'meta_info.txt'
        listed.write_text('\n'.join(line.partition(' ')[0] for line in listed.read_text().splitlines()))
    (workplace / 'pairs.txt').write_text('gt/000.png, lq/000.png')
    databases = {'dataroot_gt': 'val/gt.lmdb', 'dataroot_lq': 'val/lq.lmdb', 'io_backend': {'type': 'lmdb'}}
    clips = {'dataroot_gt': 'clips/gt', 'dataroot_lq': 'clips/lq', 'cache_data': False, 'num_frame': 1}
    return {
        "BasicSR's pairs": val(type='PairedImageDataset'),
        "Real-ESRGAN's pairs": val(type='RealESRGANPairedDataset'),
        'pairs of a list': val(
            type='RealESRGANPairedDataset', dataroot_gt='val', dataroot_lq='val', meta_info='pairs.txt'
        ),
        'a class of a user': val(type='MyPairs'),
        'a database without sizes': val(type='PairedImageDataset', **databases),
        'ours in a database without sizes': val(type='PairedValidationDataset', **databases),
        'a video': val(type='VideoTestDataset', **clips) | {'name': 'REDS4', 'padding': 'reflection'},
        'a class without truth': val(type='OnlyInputs'),
    }


KINDS = (
    "BasicSR's pairs", "Real-ESRGAN's pairs", 'pairs of a list', 'a class of a user', 'a database without sizes',
    'ours in a database without sizes', 'a video',
)  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_data_sets_that_have_a_truth_are_not_refused_for_want_of_one(check, kinds, kind):
    assert check(datasets__val=kinds[kind]).faults == []


@pytest.mark.parametrize('kind', KINDS)
def test_metrics_are_tried_on_the_size_of_any_data_set(check, kinds, kind):
    psnr = {'psnr': {'type': 'calculate_psnr', 'crop_border': 12}}
    (fault,) = check(datasets__val=kinds[kind], val__metrics=psnr).faults
    assert 'val: metrics: psnr: cannot score ' in fault
    assert '(24x24) of datasets: val' in fault


def test_a_class_of_a_user_without_a_truth(check, kinds):
    (fault,) = check(datasets__val=kinds['a class without truth']).faults
    assert 'compares with the truth, which datasets: val does not have' in fault
