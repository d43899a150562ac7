"""From archives to the folders of the option files, interrupted and resumed, with bad images and missing ones."""

from __future__ import annotations

import dataclasses
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from vmambair_arch.cli import main
from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.data.paired_validation_dataset import PairedValidationDataset
from vmambair_arch.data.prepare import SOURCES, derive, prepare
from vmambair_arch.errors import UserError
from vmambair_arch.options import load_options

OPTIONS = Path(__file__).resolve().parents[3] / 'options'


@pytest.fixture(autouse=True)
def small_sets(tmp_path, monkeypatch):
    """Every set has three images of a kind, and Rain100L two numbers for training and one for validation."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    for name, source in SOURCES.items():
        parts = tuple(dataclasses.replace(part, count=3) for part in source.parts)
        if name == 'rain100l':
            parts = tuple(dataclasses.replace(part, count=2) for part in source.parts)
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, parts=parts))


@pytest.fixture
def archive(write_images, tmp_path):
    """A function that zips images (and other bytes) under given names in `downloads`."""

    def make(name, members, *, size=(32, 40), suffix='.png'):
        folder = tmp_path / 'downloads'
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / f'{name}.zip', 'w') as file:
            for number, member in enumerate(members):
                inner, data = member if isinstance(member, tuple) else (member, None)
                if data is None:
                    image = write_images(tmp_path / 'scratch', ['x.png'], size=size, seed=number)[0]
                    data = cv2.imencode(Path(inner).suffix, image[..., ::-1])[1].tobytes()
                file.writestr(inner, data)
        return folder

    return make


def rain_members(*folders, names=('1.jpg', '2.jpg', '3.jpg')):
    return [f'{folder}/{kind}/{name}' for folder in folders for kind in ('input', 'target') for name in names]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def test_pairs_land_where_the_option_files_read(archive, tmp_path):
    archive('train', rain_members('train/Rain13K'))
    archive(
        'test', rain_members(*(f'test/{name}' for name in ('Rain100L', 'Rain100H', 'Test100', 'Test1200', 'Test2800')))
    )
    result = prepare(['rain13k', 'derain-test'], tmp_path / 'downloads', Path('datasets'))
    assert result.faults == []
    scenes = [f'{split}/GOPR0001_01_00/{kind}' for split in ('train', 'test') for kind in ('blur', 'sharp')]
    archive('GOPRO_Large', [f'{scene}/{i}.png' for scene in scenes for i in range(3)])
    assert prepare(['gopro'], tmp_path / 'downloads', Path('datasets')).faults == []
    for file in ('train_derain', 'train_derain_released', 'test_derain', 'train_deblur'):
        for phase, section in load_options(OPTIONS / f'{file}.yml')['datasets'].items():
            kind = PairedProgressiveDataset if phase == 'train' else PairedValidationDataset
            assert len(kind({**section, 'scale': 1}).source) == 3


def test_rain100l_lands_where_train_derain_light_reads(archive, tmp_path):
    numbers = (1, 2, 181, 182)
    archive('RainTrainL', [f'RainTrainL/{kind}-{i}.png' for kind in ('rain', 'norain') for i in numbers])
    assert prepare(['rain100l'], tmp_path / 'downloads', Path('datasets')).faults == []
    sections = load_options(OPTIONS / 'train_derain_light.yml')['datasets']
    train = PairedProgressiveDataset({**sections['train'], 'scale': 1})
    val = PairedValidationDataset({**sections['val'], 'scale': 1})
    assert [Path(pair.lq).stem for pair in train.source.pairs] == ['001', '002']
    assert [Path(pair.lq).stem for pair in val.source.pairs] == ['181', '182']


def test_camera_pairs_get_one_name_and_their_sizes_are_checked(archive, tmp_path):
    archive('DRealSR', [f'DRealSR/x4/Test_x4/test_HR/Canon_{i}_x4.png' for i in range(3)], size=(32, 40))
    archive('Test_x4', [f'Test_x4/test_LR/Canon_{i}_x1.png' for i in range(3)], size=(8, 10))
    assert prepare(['drealsr-test'], tmp_path / 'downloads', Path('datasets')).faults == []
    root = tmp_path / 'datasets/DRealSR/test'
    wanted = [f'{kind}/Canon_{i}.png' for kind in ('HR', 'LR') for i in range(3)]
    assert [path for path in files(root) if path.endswith('png')] == wanted
    archive('Test_x4', ['Test_x4/test_LR/Canon_0_x1.png'], size=(16, 20))
    faults = prepare(['drealsr-test'], tmp_path / 'downloads', Path('again')).faults
    assert any('40x32, not 4 times its input of 20x16' in fault for fault in faults)


def test_an_unknown_layout_is_said_in_a_line(archive, tmp_path):
    archive('LSDIR', ['LSDIR/photos/1.png'])
    with pytest.raises(
        UserError, match=r'^lsdir: found LSDIR.zip, but no images as shard-00 to shard-16, .* page: LSDIR'
    ):
        prepare(['lsdir'], tmp_path / 'downloads', Path('datasets'))


def test_images_keep_their_bytes_and_lists_their_form(archive, tmp_path):
    folder = archive('train', rain_members('train/Rain13K'))
    lines = []
    prepare(['rain13k'], folder, tmp_path / 'out', say=lines.append)
    root = tmp_path / 'out' / 'Rain13K'
    with zipfile.ZipFile(folder / 'train.zip') as file:
        for name in file.namelist():
            assert (root / name).read_bytes() == file.read(name)
    meta = (root / 'meta_info_train_Rain13K_input.txt').read_text()
    assert meta == '1.jpg (32,40,3)\n2.jpg (32,40,3)\n3.jpg (32,40,3)\n'
    assert lines == [f'{root}/train/Rain13K/{kind}: 3 images' for kind in ('input', 'target')]


def test_an_interrupted_run_goes_on_where_it_stopped(archive, tmp_path, monkeypatch):
    folder = archive('train', rain_members('train/Rain13K'))
    write, written = derive.write_checked, []

    def interrupted(path, data):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(derive, 'write_checked', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(['rain13k'], folder, tmp_path / 'out')
    assert len(files(tmp_path / 'out')) == 4
    written.clear()
    monkeypatch.setattr(derive, 'write_checked', lambda path, data: (written.append(path.name), write(path, data)))
    assert prepare(['rain13k'], folder, tmp_path / 'out').faults == []
    images = [name for name in written if name.endswith('.jpg')]
    assert len(images) == 2
    assert len([name for name in files(tmp_path / 'out') if name.endswith('.jpg')]) == 6
    assert not [name for name in files(tmp_path / 'out') if '.part' in name]


def test_the_first_of_two_archives_with_the_same_image_counts(archive, tmp_path):
    folder = archive('Rain13K', rain_members('Rain13K'))
    archive('train', rain_members('train/Rain13K'), size=(16, 16))
    for _ in range(2):
        prepare(['rain13k'], folder, tmp_path / 'out')
        assert cv2.imread(str(tmp_path / 'out/Rain13K/train/Rain13K/input/1.jpg')).shape == (32, 40, 3)


def test_unpacked_folders_do_as_well(archive, tmp_path):
    folder = archive('train', rain_members('train/Rain13K'))
    shutil.unpack_archive(folder / 'train.zip', folder)
    (folder / 'train.zip').unlink()
    assert prepare(['rain13k'], folder, tmp_path / 'out').faults == []
    assert len([name for name in files(tmp_path / 'out') if name.endswith('.jpg')]) == 6


def test_everything_else_is_finished_around_bad_images(archive, tmp_path, capsys):
    members = rain_members('train/Rain13K', names=('1.jpg', '2.jpg'))
    archive('train', [*members, ('train/Rain13K/input/3.jpg', b'no image'), 'train/Rain13K/target/3.jpg'])
    assert main(['prepare', 'rain13k', '--downloads', 'downloads']) == 1
    out = capsys.readouterr().out
    assert 'datasets/Rain13K/train/Rain13K/target: 3 images' in out
    assert re.search(r'missing or damaged: downloads/train\.zip: train/train/Rain13K/input/3\.jpg: is no', out)
    assert 'missing or damaged: datasets/Rain13K/train/Rain13K/input: 2 of 3 images' in out
    assert 'target/3.jpg: has no partner in datasets/Rain13K/train/Rain13K/input' in out


def test_partners_of_other_sizes_are_named(archive, tmp_path, write_images):
    members = rain_members('train/Rain13K', names=('1.png', '2.png'))
    write_images(tmp_path / 'odd', ['x.png'], size=(8, 9))
    odd = (tmp_path / 'odd' / 'x.png').read_bytes()
    folder = archive('train', [*members, 'train/Rain13K/input/3.png', ('train/Rain13K/target/3.png', odd)])
    (fault,) = prepare(['rain13k'], folder, tmp_path / 'out').faults
    assert fault.endswith('target/3.png: is 9x8, not 1 times its input of 40x32')


def test_a_missing_archive_is_told_with_page_and_layout(tmp_path, capsys):
    (tmp_path / 'downloads').mkdir()
    assert main(['prepare', 'rain13k', '--downloads', 'downloads']) == 2
    error = capsys.readouterr().err
    assert re.search(r'nothing named Rain13K\*, train in downloads', error)
    assert 'train/Rain13K/{input,target}/*.jpg' in error
    assert 'Restormer' in error
    assert not (tmp_path / 'datasets').exists()


def test_an_archive_of_something_else_is_told(archive, tmp_path):
    folder = archive('train', ['train/other/a.png'])
    with pytest.raises(UserError, match=r'rain13k: found train\.zip, but no images as train/Rain13K'):
        prepare(['rain13k'], folder, tmp_path / 'out')


def test_a_hostile_archive_writes_nothing(archive, tmp_path):
    folder = archive('train', [*rain_members('train/Rain13K'), ('../../evil.png', b'x')])
    with pytest.raises(UserError, match=r'train\.zip: refused, since its member .*evil'):
        prepare(['rain13k'], folder, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    assert not list(tmp_path.rglob('evil.png'))


def test_two_images_for_one_name_are_refused(archive, tmp_path):
    folder = archive('OST', ['OST/animal/1.png', 'OST/more/animal/1.png'])
    with pytest.raises(UserError, match=r'both OST/OST/animal/1\.png and OST/OST/more/animal/1\.png would become'):
        prepare(['ost'], folder, tmp_path / 'out')


def test_unknown_names_are_answered_with_the_nearest(capsys):
    assert main(['prepare', 'rain13']) == 2
    assert "did you mean 'rain13k'" in capsys.readouterr().err
    assert main(['prepare']) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in SOURCES)


def test_test_sets_get_low_resolution_images_by_default(archive, tmp_path):
    folder = archive('Set5', [f'Set5/{name}.png' for name in 'abc'])
    assert prepare(['set5'], folder, tmp_path / 'out').faults == []
    section = {
        'dataroot_gt': str(tmp_path / 'out/SR/Set5/HR'),
        'dataroot_lq': str(tmp_path / 'out/SR/Set5/LR_bicubic/X4'),
    }
    dataset = PairedValidationDataset({**section, 'scale': 4, 'filename_tmpl': '{}x4'})
    assert dataset[2]['lq'].shape == (3, 8, 10)
    assert dataset[2]['gt'].shape == (3, 32, 40)


def test_training_sets_get_what_is_asked_for(archive, tmp_path):
    archive('DIV2K_train_HR', [f'DIV2K_train_HR/{i}.png' for i in range(3)], size=(64, 80))
    folder = archive('Flickr2K', [f'Flickr2K/Flickr2K_HR/f{i}.png' for i in range(3)], size=(64, 80))
    archive('OST', [f'OST/{kind}/1.png' for kind in ('sky', 'sea', 'tree')], size=(64, 80))
    extras = {'bicubic': [4], 'multiscale': True, 'sub_images': 200, 'lmdb': True, 'workers': 2}
    result = prepare(['df2k-ost'], folder, tmp_path / 'out', **extras)
    assert result.faults == []
    root = tmp_path / 'out' / 'DF2K_OST'
    assert len(list((root / 'HR').iterdir())) == 9
    for lq, gt, template in (('LR_bicubic/X4', 'HR', '{}x4'), ('LR_bicubic/X4_sub', 'HR_sub', '{}')):
        section = {'dataroot_gt': str(root / gt), 'dataroot_lq': str(root / lq), 'filename_tmpl': template}
        paths = PairedProgressiveDataset({**section, 'scale': 4, 'gt_size': 32, 'batch_size_per_gpu': 2})
        assert paths[0]['gt'].shape == (1, 3, 32, 32)
        lmdb = {'dataroot_gt': f'{root / gt}.lmdb', 'dataroot_lq': f'{root / lq}.lmdb', 'io_backend': {'type': 'lmdb'}}
        other = PairedProgressiveDataset({**lmdb, 'scale': 4, 'gt_size': 32, 'batch_size_per_gpu': 2})
        np.testing.assert_array_equal(paths[0]['lq'], other[0]['lq'])
    targets = (root / 'meta_info_targets.txt').read_text().splitlines()
    assert {line.partition('/')[0] for line in targets} == {'HR_sub', 'HR_multiscale_sub'}
    assert {line.split(' (')[0] for line in targets} == {
        f'{folder}/{path.name}' for folder in ('HR_sub', 'HR_multiscale_sub') for path in (root / folder).iterdir()
    }
    again = prepare(['df2k-ost'], folder, tmp_path / 'out', **extras)
    assert again.faults == []


def test_real_world_pairs_are_checked_for_their_scale(archive, tmp_path):
    archive('valid-input-noisy', [f'valid-input-noisy/{i}.png' for i in range(3)], size=(8, 10))
    folder = archive('valid-gt-clean', [f'valid-gt-clean/{i}.png' for i in range(3)], size=(32, 40))
    assert prepare(['aim2019'], folder, tmp_path / 'out').faults == []
    assert len(files(tmp_path / 'out' / 'AIM2019' / 'valid-input-noisy')) == 3


def test_squares_that_do_not_fit_are_refused_before_anything_is_written(archive, tmp_path):
    folder = archive('Set5', ['Set5/a.png'])
    with pytest.raises(UserError, match='--sub-images 30: must be a multiple of 4'):
        prepare(['set5'], folder, tmp_path / 'out', sub_images=30)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['train_sr_stage1', 'train_realsr_stage1', 'test_sr', 'test_realsr'])
def test_option_files_read_where_images_land(name):
    """Every folder of data that the super-resolution option files name is one that some set is laid out to."""
    laid_out = {f'datasets/{source.folder}/{part.folder}' for source in SOURCES.values() for part in source.parts}
    laid_out |= {f'datasets/{source.folder}' for source in SOURCES.values()}
    for section in load_options(OPTIONS / f'{name}.yml')['datasets'].values():
        for key in ('dataroot_gt', 'dataroot_lq'):
            assert section.get(key) is None or section[key] in laid_out
