"""What the first validation used to show: whether there is a truth, and whether networks and metrics suit it."""

from __future__ import annotations

import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY
from experiment import write_image, write_pairs

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


# ---------------------------------------------------------------- networks on the images


RRDB = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2, 'scale': 1}
"""At scale 1 it takes sides that 4 divides."""
GREY = {'network_g__inp_channels': 1, 'network_g__out_channels': 1}


def resize_val(workplace, *sizes):
    for part in ('gt', 'lq'):
        for path in (workplace / 'val' / part).iterdir():
            path.unlink()
        for i, size in enumerate(sizes):
            write_image(workplace / 'val' / part / f'{i:03d}.png', *size)


@pytest.mark.parametrize('model', ['VmambaIRModel', 'SRModel'])
@pytest.mark.parametrize(
    ('sizes', 'named'),
    [
        ([(24, 24), (48, 20)], ''),
        ([(45, 51)], '000.png (51x45)'),
        ([(24, 24), (40, 44), (60, 46)], '002.png (46x60)'),
        ([(24, 24), (46, 60), (40, 44)], '001.png (60x46)'),
    ],
)
@pytest.mark.parametrize('kind', ['PairedImageDataset', 'PairedValidationDataset'])
def test_networks_on_the_oddest_images(check, workplace, model, sizes, named, kind):
    resize_val(workplace, *sizes)
    faults = check(model_type=model, network_g=RRDB, datasets__val__type=kind).faults
    assert len(faults) == bool(named), faults
    assert all(fault.startswith(f'network_g: cannot restore {named} of datasets: val: ') for fault in faults)


def test_networks_on_the_image_of_a_class_of_a_user(check, workplace, kinds):
    resize_val(workplace, (45, 51))
    (fault,) = check(network_g=RRDB, datasets__val=kinds['a class of a user']).faults
    assert fault.startswith('network_g: cannot restore its first image (51x45) of datasets: val: ')


@pytest.mark.parametrize(('tile', 'faults'), [(32, 0), (34, 0), (0, 1), (None, 1)])
def test_networks_on_the_tiles_of_images(check, workplace, tile, faults):
    resize_val(workplace, (80, 62))  # in tiles the sides are multiples of 4, but of the last ones
    changes = {'model_type': 'VmambaIRModel', 'network_g': RRDB, 'val__tile': tile, 'val__tile_overlap': 6}
    said = check(**changes).faults
    assert len(said) == faults or tile, said
    resize_val(workplace, (80, 64))
    assert check(**changes | {'val__tile_overlap': 8}).faults == []


@pytest.mark.parametrize(('train', 'val', 'fine'), [('y', 'y', True), ('y', None, False), (None, None, True)])
def test_channels_of_validation_images(check, train, val, fine):
    network = GREY if train else {}
    changes = {'datasets__train__color': train, 'datasets__val__color': val, **network}
    faults = check(**{key: value for key, value in changes.items() if value is not None}).faults
    assert [fault.partition(' of ')[0] for fault in faults] == (
        [] if fine else ['network_g: cannot restore 000.png (24x24)']
    )


def test_a_first_sample_that_cannot_be_had(check, kinds):
    (fault,) = check(datasets__val=val(type='Unreadable')).faults
    assert fault == "datasets: val: its first sample: 'nobody knows' (KeyError)"
    assert check(datasets__val=val(type='Unreadable'), val=None).faults == []


def test_a_padding_model_is_left_to_itself(check, workplace):
    resize_val(workplace, (45, 51))
    swinir = {
        'type': 'SwinIR',
        'img_size': 16,
        'window_size': 4,
        'depths': [2],
        'num_heads': [1],
        'embed_dim': 4,
        'upscale': 1,
    }
    assert check(model_type='SwinIRModel', network_g={**swinir, 'upscale': 1, 'upsampler': ''}).faults == []
    assert len(check(model_type='SRModel', network_g={**swinir, 'upscale': 1, 'upsampler': ''}).faults) == 1
