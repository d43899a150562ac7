"""What is made from high-resolution images: sizes, places, pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from basicsr.data import build_dataset

from realesrgan_pipeline.resize import imresize
from vmambair_arch.data.pairs import PairSource
from vmambair_arch.data.prepare import derive
from vmambair_arch.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def test_bicubic_is_matlabs_of_whole_blocks(tmp_path, write_images):
    image = write_images(tmp_path / 'HR', ['a.png'], size=(43, 50))[0]
    derive.bicubic(tmp_path / 'HR', tmp_path / 'X4', 4, workers=1)
    np.testing.assert_array_equal(read(tmp_path / 'X4' / 'ax4.png'), imresize(image[:40, :48], 1 / 4))


def test_bicubic_equals_the_benchmarks_own_low_resolution_images(shared, tmp_path):
    theirs = shared / 'data' / 'sr' / 'Set5'
    derive.bicubic(theirs / 'HR', tmp_path / 'X4', 4, workers=2)
    for path in sorted((tmp_path / 'X4').iterdir()):
        np.testing.assert_array_equal(read(path), read(theirs / 'LR_bicubic' / 'X4' / path.name))


@pytest.mark.parametrize('size', [(600, 900), (900, 600), (300, 500), (539, 800), (1348, 2040)])
def test_multiscale_has_real_esrgans_sizes(tmp_path, write_images, size):
    write_images(tmp_path / 'HR', ['a.png'], size=size)
    derive.multiscale(tmp_path / 'HR', tmp_path / 'out', workers=1)
    h, w = size
    shapes = [read(tmp_path / 'out' / f'aT{i}.png').shape[:2] for i in range(4)]
    assert shapes[:3] == [(int(h * s), int(w * s)) for s in (0.75, 0.5, 1 / 3)]
    assert min(shapes[3]) == 400
    assert max(shapes[3]) == 400 * max(size) // min(size)


@pytest.mark.parametrize('size', [(100, 130), (64, 64), (65, 129), (30, 100), (20, 20)])
def test_sub_images_cover_everything_at_both_scales(tmp_path, write_images, size):
    (image,) = write_images(tmp_path / 'HR', ['a.png'], size=size)
    h, w = (side - side % 4 for side in size)
    (tmp_path / 'LR').mkdir()
    small = image[:h:4, :w:4]  # each pixel is the corner of its block, so that places can be told
    cv2.imwrite(str(tmp_path / 'LR' / 'ax4.png'), small[..., ::-1])
    derive.sub_images(tmp_path / 'HR', tmp_path / 'HR_sub', 64, 4, 1)
    derive.sub_images(tmp_path / 'LR', tmp_path / 'LR_sub', 16, 1, 1, 'x4')

    names = sorted(path.name for path in (tmp_path / 'HR_sub').iterdir())
    assert names == sorted(path.name for path in (tmp_path / 'LR_sub').iterdir())
    assert names[0] == 'a_s001.png'
    covered = np.zeros((h, w), bool)
    for name in names:
        piece = read(tmp_path / 'HR_sub' / name)
        assert piece.shape[:2] == (min(64, h), min(64, w))
        np.testing.assert_array_equal(piece[::4, ::4], read(tmp_path / 'LR_sub' / name))
        windows = np.lib.stride_tricks.sliding_window_view(image[:h, :w], piece.shape)[..., 0, :, :, :]
        found = np.argwhere((windows == piece).all((-1, -2, -3)))
        assert len(found) == 1
        top, left = found[0]
        covered[top : top + 64, left : left + 64] = True
    assert covered.all()


def test_meta_info_has_basicsrs_form(tmp_path, write_images):
    write_images(tmp_path / 'A' / 'HR', ['b.png', 'a.png'], size=(10, 20))
    write_images(tmp_path / 'B', ['c.jpg'], size=(30, 20))
    folders = [tmp_path / 'A' / 'HR', tmp_path / 'B']
    assert derive.meta_info(tmp_path, folders, tmp_path / 'list.txt') == 3
    assert (tmp_path / 'list.txt').read_text() == 'A/HR/a.png (10,20,3)\nA/HR/b.png (10,20,3)\nB/c.jpg (30,20,3)\n'


@pytest.fixture
def pairs_x4(tmp_path, write_images):
    """Three pairs at scale 4 as folders and as LMDB."""
    names = ['a', 'b', 'c.v2']
    write_images(tmp_path / 'HR', [f'{name}.png' for name in names], size=(40, 60))
    derive.bicubic(tmp_path / 'HR', tmp_path / 'X4', 4, workers=1)
    return tmp_path


def test_lmdb_is_read_by_us_and_by_basicsr(pairs_x4):
    databases = [derive.make_lmdb(pairs_x4 / 'HR'), derive.make_lmdb(pairs_x4 / 'X4', 'x4')]
    assert [path.name for path in databases] == ['HR.lmdb', 'X4.lmdb']
    roots = {'dataroot_gt': str(databases[0]), 'dataroot_lq': str(databases[1])}
    ours = PairSource({**roots, 'scale': 4, 'io_backend': {'type': 'lmdb'}})
    assert [pair.gt for pair in ours.pairs] == [pair.lq for pair in ours.pairs] == ['a', 'b', 'c.v2']
    for index, name in enumerate(['a', 'b', 'c.v2']):
        lq, gt = ours.read(index)
        np.testing.assert_array_equal(gt, read(pairs_x4 / 'HR' / f'{name}.png'))
        np.testing.assert_array_equal(lq, read(pairs_x4 / 'X4' / f'{name}x4.png'))


def test_lmdb_of_ours_serves_basicsrs_own_data_set(tmp_path, write_images):
    write_images(tmp_path / 'HR', ['a.png', 'b.png'], size=(40, 60))
    write_images(tmp_path / 'LR', ['a.png', 'b.png'], size=(10, 15))
    roots = [str(derive.make_lmdb(tmp_path / folder)) for folder in ('HR', 'LR')]
    dataset = build_dataset({
        'name': 'x', 'type': 'PairedImageDataset', 'phase': 'val', 'scale': 4, 'dataroot_gt': roots[0],
        'dataroot_lq': roots[1], 'io_backend': {'type': 'lmdb'},
    })  # fmt: skip
    item = dataset[1]
    assert item['gt_path'] == 'b'
    gt = (item['gt'] * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(gt, read(tmp_path / 'HR' / 'b.png'))


def test_lmdb_goes_on_where_it_was_interrupted(tmp_path, write_images, monkeypatch):
    write_images(tmp_path / 'HR', [f'{i}.png' for i in range(6)])
    batches = derive._batches

    def interrupted(items, size=2):
        for count, batch in enumerate(batches(items, 2)):
            if count == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(derive, '_batches', interrupted)
    with pytest.raises(KeyboardInterrupt):
        derive.make_lmdb(tmp_path / 'HR')
    assert not (tmp_path / 'HR.lmdb').exists()
    assert (tmp_path / 'HR.lmdb.part').is_dir()
    monkeypatch.setattr(derive, '_batches', batches)
    derive.make_lmdb(tmp_path / 'HR')
    assert not (tmp_path / 'HR.lmdb.part').exists()
    source = PairSource({'dataroot_gt': str(tmp_path / 'HR.lmdb'), 'io_backend': {'type': 'lmdb'}, 'rain': {}})
    for i in range(6):
        np.testing.assert_array_equal(source.read(i)[1], read(tmp_path / 'HR' / f'{i}.png'))


def test_lmdb_that_holds_something_else_is_not_touched(tmp_path, write_images):
    write_images(tmp_path / 'HR', ['a.png'])
    derive.make_lmdb(tmp_path / 'HR')
    write_images(tmp_path / 'HR', ['b.png'])
    with pytest.raises(UserError, match=r'HR\.lmdb: holds other images than .*HR; delete it'):
        derive.make_lmdb(tmp_path / 'HR')


def test_what_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    write = type(path).write_bytes
    monkeypatch.setattr(type(path), 'write_bytes', lambda self, data: write(self, data[:-1]))
    with pytest.raises(UserError, match=r'a\.png: what was written reads back differently'):
        derive.write_checked(path, b'data')
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_twice(tmp_path, write_images, monkeypatch):
    write_images(tmp_path / 'HR', ['a.png', 'b.png'], size=(64, 64))

    def make():
        derive.bicubic(tmp_path / 'HR', tmp_path / 'X4', 4, 1)
        derive.multiscale(tmp_path / 'HR', tmp_path / 'small', 1)
        derive.sub_images(tmp_path / 'HR', tmp_path / 'sub', 32, 1, 1)

    make()
    (tmp_path / 'X4' / 'bx4.png').unlink()
    (tmp_path / 'sub' / 'a_s003.png').unlink()
    written = []
    write = derive.write_checked
    monkeypatch.setattr(derive, 'write_checked', lambda path, data: (written.append(path.name), write(path, data)))
    make()
    assert 'bx4.png' in written
    assert 'a_s003.png' in written
    assert not [name for name in written if name.startswith(('ax4', 'aT', 'bT', 'b_s'))]


def test_a_damaged_image_stops_with_its_name(tmp_path, write_images):
    write_images(tmp_path / 'HR', ['a.png', 'b.png'])
    (tmp_path / 'HR' / 'b.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'HR/b\.png'):
        derive.bicubic(tmp_path / 'HR', tmp_path / 'X4', 4, workers=2)


@pytest.mark.parametrize(('size', 'unit'), [(32, 4), (24, 3), (48, 4)])
def test_squares_that_were_cut_otherwise_are_not_mixed(tmp_path, write_images, size, unit):
    write_images(tmp_path / 'HR', ['a.png'], size=(54, 58))
    derive.sub_images(tmp_path / 'HR', tmp_path / 'sub', 24, 4, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / 'sub').iterdir()}
    with pytest.raises(UserError, match='sub: holds squares that were cut otherwise'):
        derive.sub_images(tmp_path / 'HR', tmp_path / 'sub', size, unit, 1)
    derive.sub_images(tmp_path / 'HR', tmp_path / 'sub', 24, 4, 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'sub').iterdir()} == before


def test_pictures_that_are_too_small_to_be_reduced_or_cut(tmp_path, write_images):
    write_images(tmp_path / 'HR', ['a.png'], size=(5, 40))
    with pytest.raises(UserError, match=r'a\.png: 40x5 cannot be reduced 8 times'):
        derive.bicubic(tmp_path / 'HR', tmp_path / 'X8', 8, 1)
    with pytest.raises(UserError, match=r'a\.png: 40x5 is smaller than 8 pixels, the least for squares'):
        derive.sub_images(tmp_path / 'HR', tmp_path / 'sub', 16, 8, 1)
