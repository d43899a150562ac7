from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from realesrgan_pipeline import realesrgan_dataset
from realesrgan_pipeline.realesrgan_dataset import RealESRGANDataset
from vmambair_arch.data.pairs import folder_images


@pytest.fixture
def folder(tmp_path):
    """Five photographs, 64 x 56, each of one colour with a ramp; two of them in a subfolder."""
    for i in range(5):
        image = np.full((56, 64, 3), 40 * i, np.uint8)
        image[..., 0] = np.arange(64) * 3
        image[..., 1] = np.arange(56)[:, None] * 3
        path = tmp_path / 'photos' / ('sub' if i > 2 else '.') / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    return tmp_path / 'photos'


def dataset(folder, **changes):
    opt = {'name': 'photos', 'dataroot_gt': str(folder), 'crop_pad_size': 32, 'batch_size_per_gpu': 2, 'total_iter': 10}
    return RealESRGANDataset(opt | {'manual_seed': 3} | changes)


def test_patches_are_crops_of_the_photographs_flipped_half_of_the_time(folder):
    data = dataset(folder, total_iter=100)
    flips = 0
    for i in range(200):
        gt = (data[i]['gt'] * 255).round().int()
        number = int(data[i]['gt_path'].split('/')[-1][0])
        assert (gt[2] == 40 * number).all()
        step = (gt[0, 0, 1] - gt[0, 0, 0]).item()
        assert abs(step) == 3
        flips += step < 0
        assert gt[1, 1, 0] - gt[1, 0, 0] == 3  # no rotation by default
    assert 70 < flips < 130


def test_every_photograph_comes_once_before_any_comes_again(folder):
    data = dataset(folder, total_iter=25)
    paths = [data[i]['gt_path'] for i in range(50)]
    for turn in range(10):
        assert sorted(paths[5 * turn : 5 * turn + 5]) == [str(folder / name) for name in data.photographs.names]
    assert paths[:5] != paths[5:10]


def test_links_are_followed_and_hidden_folders_are_not(folder, tmp_path):
    """As in the data sets of pairs: what is linked into a folder belongs to it, what a program keeps there does not."""
    for place in ('elsewhere', 'photos/.thumbs', 'photos/sub/.ipynb_checkpoints'):
        (tmp_path / place).mkdir()
        cv2.imwrite(str(tmp_path / place / 'x.png'), np.zeros((40, 40, 3), np.uint8))
    (folder / 'linked').symlink_to(tmp_path / 'elsewhere')
    (folder / 'sub' / 'round').symlink_to(folder)
    names = dataset(folder).photographs.names
    assert names == ['0.png', '1.png', '2.png', 'linked/x.png', 'sub/3.png', 'sub/4.png']
    paired = folder_images(folder, recursive=True)
    assert sorted(str(path.relative_to(folder)) for path in paired) == names


def test_items_do_not_depend_on_how_the_batch_is_shared_out(folder):
    one, two = dataset(folder, batch_size_per_gpu=4), dataset(folder, batch_size_per_gpu=2, num_replicas=2)
    assert len(one) == len(two) == 40
    for i in (0, 7, 39):
        assert torch.equal(one[i]['gt'], two[i]['gt'])
    assert not torch.equal(one[0]['gt'], dataset(folder, batch_size_per_gpu=4, manual_seed=4)[0]['gt'])
    assert dataset(folder, start_iter=3).start_index == 6


@pytest.mark.parametrize('size', [8, 56, 60, 300])
def test_any_size_is_cropped_or_mirrored(folder, size):
    gt = dataset(folder, crop_pad_size=size, use_hflip=False)[0]['gt']
    assert gt.shape == (3, size, size)
    if size == 300:
        row = (gt[0, 0] * 255).round().int()
        ramp = np.arange(64) * 3
        np.testing.assert_array_equal(row, np.pad(ramp, (0, 300 - 64), mode='reflect'))


def test_rotations_where_asked_for(folder):
    data = dataset(folder, use_rot=True, total_iter=50)
    kinds = Counter()
    for i in range(100):
        gt = (data[i]['gt'] * 255).round().int()
        kinds[(gt[0, 0, 1] - gt[0, 0, 0]).item(), (gt[0, 1, 0] - gt[0, 0, 0]).item()] += 1
    assert set(kinds) == {(3, 0), (-3, 0), (0, 3), (0, -3)}


def test_a_list_names_the_photographs(folder):
    (folder.parent / 'list.txt').write_text('sub/4.png (56,64,3)\n1.png\n')
    assert dataset(folder, meta_info=str(folder.parent / 'list.txt')).photographs.names == ['1.png', 'sub/4.png']


def test_lmdb(folder):
    lmdb = pytest.importorskip('lmdb')
    root = folder.parent / 'photos.lmdb'
    with lmdb.open(str(root), map_size=2**22) as database, database.begin(write=True) as transaction:
        for i in range(3):
            transaction.put(str(i).encode(), (folder / f'{i}.png').read_bytes())
    (root / 'meta_info.txt').write_text(''.join(f'{i}.png (56,64,3) 1\n' for i in range(3)))
    changes = {'io_backend': {'type': 'lmdb'}}
    from_files, from_lmdb = dataset(folder), dataset(root, **changes)
    assert from_lmdb.photographs.names == ['0', '1', '2']
    assert dataset(root, **changes)[1]['gt'].shape == from_files[1]['gt'].shape  # twice in one process
    (root / 'meta_info.txt').write_text('7.png (56,64,3) 1\n')
    with pytest.raises(ValueError, match="photos.lmdb: its meta_info.txt names '7', but the database has no such key"):
        dataset(root, **changes)[0]


def test_cache_reads_each_file_once(folder, monkeypatch):
    data = dataset(folder, cache=True)
    expected = [dataset(folder)[i]['gt'] for i in range(20)]
    read, names = data.photographs.folders[0].bytes, []
    monkeypatch.setattr(data.photographs.folders[0], 'bytes', lambda name: names.append(name) or read(name))
    assert all(torch.equal(data[i]['gt'], gt) for i, gt in enumerate(expected))
    assert sorted(names) == data.photographs.names


def test_a_busy_server_is_asked_again(folder, monkeypatch):
    monkeypatch.setattr(realesrgan_dataset, 'PAUSES', (0, 0))
    data = dataset(folder)
    expected = data[0]['gt']
    read, failures = data.photographs.folders[0].bytes, iter([OSError('server busy'), OSError('server busy')])

    def unreliable(name):
        for failure in failures:
            raise failure
        return read(name)

    monkeypatch.setattr(data.photographs.folders[0], 'bytes', unreliable)
    assert torch.equal(data[0]['gt'], expected)


def message(call) -> str:
    with pytest.raises(ValueError, match='.') as error:
        call()
    assert '\n' not in str(error.value)
    return str(error.value)


def test_bad_photographs_are_named(folder, monkeypatch):
    monkeypatch.setattr(realesrgan_dataset, 'PAUSES', (0, 0))

    def first_error():
        data = dataset(folder)
        return message(lambda: [data[i] for i in range(5)])

    good = (folder / '1.png').read_bytes()
    cv2.imwrite(str(folder / '1.png'), np.zeros((40, 40), np.uint8))
    assert first_error() == f'{folder}/1.png: a grey image among RGB images; convert it, or take it out'
    cv2.imwrite(str(folder / '1.png'), np.zeros((40, 40, 4), np.uint8))
    assert first_error() == f'{folder}/1.png: an image of mode RGBA among RGB images; convert it, or take it out'
    (folder / '1.png').write_bytes(b'')
    assert first_error() == f'{folder}/1.png: is not an image (0 bytes)'
    (folder / '1.png').write_bytes(good[:-60])
    assert first_error().startswith(f'{folder}/1.png: is damaged (')
    (folder / '1.png').write_bytes(good)
    with monkeypatch.context() as patch:
        patch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)
        assert 'png: is too large (' in first_error()

    data = dataset(folder)
    (folder / '1.png').unlink()
    error = message(lambda: [data[i] for i in range(5)])
    assert error.startswith(f'{folder}/1.png: cannot be read, tried 3 times (')


def test_bad_options_are_named(folder):
    lines = folder.parent / 'list.txt'
    lines.write_text('1.png\n\n2.png\n')
    assert message(lambda: dataset(folder, meta_info=str(lines))) == (
        f'{lines}, line 2 is empty: each line names an image; remove it'
    )
    lines.write_text('')
    assert message(lambda: dataset(folder, meta_info=str(lines))) == f'{lines}: names no images'
    lines.write_text('1.png\n9.png')
    said = message(lambda: dataset(folder, meta_info=str(lines)))
    assert said == f"{lines}: names '9.png', which {folder} does not have"
    assert 'cannot be read as a list' in message(lambda: dataset(folder, meta_info=str(folder / 'none.txt')))
    said = message(lambda: dataset(folder, meta_info=str(folder)))
    assert said == f'{folder}: cannot be read as a list of image names (Is a directory)'
    assert message(lambda: dataset(folder / 'none')) == f'{folder}/none: no such folder'
    (folder / 'empty').mkdir()
    assert message(lambda: dataset(folder / 'empty')).startswith(f'{folder}/empty: no images in this folder')
    assert message(lambda: dataset('')) == 'data set photos: dataroot_gt is missing: name the folder of the photographs'
    assert 'crop_pad_size must be' in message(lambda: dataset(folder, crop_pad_size='400'))
    assert "must be 'disk' or 'lmdb', not 'petrel'" in message(lambda: dataset(folder, io_backend={'type': 'petrel'}))


def test_registered_with_basicsr_beside_basicsrs_own(folder, basicsr_degradations):
    from basicsr.data import build_dataset
    from basicsr.utils.registry import DATASET_REGISTRY

    from vmambair_arch import UserError

    opt = {'name': 'photos', 'type': 'RealESRGANPipelineDataset', 'dataroot_gt': str(folder), 'crop_pad_size': 24}
    assert build_dataset(opt)[0]['gt'].shape == (3, 24, 24)
    with pytest.raises(UserError, match='no such folder'):
        build_dataset(opt | {'dataroot_gt': str(folder / 'none')})
    assert DATASET_REGISTRY.get('RealESRGANDataset').__module__.startswith('basicsr')


def test_several_folders_by_weight(folder, tmp_path):
    other = tmp_path / 'more'
    other.mkdir()
    (folder / '0.png').rename(other / '9.png')
    sources = [{'dataroot_gt': str(folder), 'weight': 1}, {'dataroot_gt': str(other), 'weight': 3}]
    data = dataset(folder, dataroot_gt=None, sources=sources, total_iter=100)
    names = [Path(data[i]['gt_path']).name for i in range(200)]
    assert 130 < names.count('9.png') < 170
    later = dataset(folder, dataroot_gt=None, sources=sources, total_iter=100, cache=True)
    assert all(torch.equal(later[i]['gt'], data[i]['gt']) for i in (150, 3, 199))
    plain = dataset(folder, dataroot_gt=None, sources=[{'dataroot_gt': str(f)} for f in (folder, other)], total_iter=5)
    assert Counter(plain[i]['gt_path'] for i in range(10)).most_common()[-1][1] == 2
    with pytest.raises(ValueError, match="entry 1: nothing reads 'dataroot_lq'"):
        dataset(folder, dataroot_gt=None, sources=[{'dataroot_gt': 'a', 'dataroot_lq': 'b'}])
