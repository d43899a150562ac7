"""Which images belong together, and what is said where they do not."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from vmambair_arch.data.pairs import PairSource, list_pairs, to_float, to_tensor
from vmambair_arch.errors import UserError


def section(folder, **more):
    return {'dataroot_gt': str(folder / 'target'), 'dataroot_lq': str(folder / 'input'), **more}


def names(pairs):
    return [(pair.gt.rsplit('/')[-1], pair.lq and pair.lq.rsplit('/')[-1]) for pair in pairs]


def test_pairs_are_sorted_whatever_the_file_system_says(tmp_path, write_images):
    order = ['b.png', '10.png', 'a.jpg', '9.png', 'C.webp']
    for folder in ('target', 'input'):
        write_images(tmp_path / folder, order)
    assert [gt for gt, _ in names(list_pairs(section(tmp_path)))] == ['10.png', '9.png', 'C.webp', 'a.jpg', 'b.png']


def test_partners_may_differ_in_suffix_and_by_template(tmp_path, write_images):
    write_images(tmp_path / 'target', ['a.png', 'b.v1.png'])
    write_images(tmp_path / 'input', ['ax4.jpg', 'b.v1x4.png'])
    pairs = list_pairs(section(tmp_path, filename_tmpl='{}x4'))
    assert names(pairs) == [('a.png', 'ax4.jpg'), ('b.v1.png', 'b.v1x4.png')]


def test_other_files_and_hidden_ones_are_passed_over(pairs_folder):
    (pairs_folder / 'target' / 'notes.txt').write_text('no image')
    (pairs_folder / 'target' / '.hidden.png').write_bytes(b'')
    assert len(list_pairs(section(pairs_folder))) == 7


def test_targets_alone(pairs_folder):
    pairs = list_pairs({'dataroot_gt': str(pairs_folder / 'target')})
    assert len(pairs) == 7
    assert {pair.lq for pair in pairs} == {None}


def test_meta_info_chooses_and_reaches_into_subfolders(tmp_path, write_images):
    for folder in ('target', 'input'):
        write_images(tmp_path / folder, ['a.png', 'b.png'])
        write_images(tmp_path / folder / 'sub', ['a.png'])
    meta = tmp_path / 'meta.txt'
    meta.write_text('sub/a.png (40,48,3)\nb.png\n\n')
    pairs = list_pairs(section(tmp_path, meta_info_file=str(meta)))
    assert [pair.gt.removeprefix(str(tmp_path)) for pair in pairs] == ['/target/b.png', '/target/sub/a.png']
    assert [pair.lq.removeprefix(str(tmp_path)) for pair in pairs] == ['/input/b.png', '/input/sub/a.png']
    meta.write_text('c.png\n')
    with pytest.raises(UserError, match="names 'c.png', which .*target does not have"):
        list_pairs(section(tmp_path, meta_info_file=str(meta)))
    with pytest.raises(UserError, match='nowhere.txt: cannot be read'):
        list_pairs(section(tmp_path, meta_info_file=str(tmp_path / 'nowhere.txt')))


@pytest.fixture
def real_rain(tmp_path, write_images):
    """Two scenes as SPA-Data packs them: many inputs, and one target, a scene."""
    for scene, pieces in (('001', 3), ('002', 2)):
        write_images(tmp_path / 'real_world' / scene, [f'{scene}_{piece}.png' for piece in range(pieces)])
        write_images(tmp_path / 'real_world_gt' / scene, [f'{scene}.png'])
    lines = [f'/real_world/{s}/{s}_{n}.png /real_world_gt/{s}/{s}.png' for s, n in (('002', 1), ('001', 0), ('001', 2))]
    (tmp_path / 'real_world.txt').write_text('\n'.join(lines) + '\n')
    root = str(tmp_path)
    return {'dataroot_gt': root, 'dataroot_lq': root, 'pairs_file': str(tmp_path / 'real_world.txt')}


def test_a_list_of_pairs_may_name_one_target_often(real_rain):
    pairs = list_pairs(real_rain)
    assert names(pairs) == [('001.png', '001_0.png'), ('001.png', '001_2.png'), ('002.png', '002_1.png')]
    source = PairSource(real_rain)
    for index in range(3):
        lq, gt = source.read(index)
        assert lq.shape == gt.shape
    assert len(list_pairs({'sources': [real_rain | {'weight': 2}, real_rain | {'weight': 1}]})) == 6


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('real_world/001/001_0.png', 'line 1: .* is no pair'),
        ('a b c', 'line 1: .* with a tab between them'),
        ('\n', 'names no images'),
        ('/real_world/001/001_0.png /real_world_gt/001/001.png\n\n/x /y', 'line 2'),
        ('/real_world/001/001_7.png /real_world_gt/001/001.png', "names 'real_world/001/001_7.png', which"),
        ('/real_world/001/001_0.png /real_world_gt/009/001.png', "names 'real_world_gt/009/001.png', which"),
        ('/real_world/001/001_0.png /real_world_gt/001/001.png\n' * 2, 'twice'),
    ],
)
def test_lists_of_pairs_that_cannot_be_are_named(real_rain, text, why):
    Path(real_rain['pairs_file']).write_text(text)
    with pytest.raises(UserError, match=why):
        list_pairs(real_rain)


@pytest.mark.parametrize(
    ('more', 'why'),
    [
        ({'meta_info_file': 'x'}, 'meta_info_file has no sense beside pairs_file'),
        ({'filename_tmpl': '{}x4'}, 'filename_tmpl has no sense'),
        ({'recursive': True}, 'recursive has no sense'),
        ({'dataroot_label': 'x'}, 'dataroot_label has no sense'),
        ({'io_backend': {'type': 'lmdb'}}, 'not in LMDB'),
        ({'dataroot_lq': None}, 'needs dataroot_lq'),
    ],
)
def test_what_a_list_of_pairs_cannot_be_with(real_rain, more, why):
    with pytest.raises(UserError, match=why):
        list_pairs(real_rain | more)


def test_names_with_blanks_in_a_list_of_pairs_take_a_tab(real_rain, tmp_path, write_images):
    write_images(tmp_path, ['a b.png', 'c d.png'])
    Path(real_rain['pairs_file']).write_bytes('\ufeffa b.png\tc d.png\r\n'.encode())
    assert names(list_pairs(real_rain)) == [('c d.png', 'a b.png')]


def test_missing_partners_are_named(pairs_folder):
    (pairs_folder / 'input' / '3.png').unlink()
    with pytest.raises(UserError, match=r'input: no input for 3\.png of .*target'):
        list_pairs(section(pairs_folder))
    for i in (0, 1, 2, 4, 5):
        (pairs_folder / 'input' / f'{i}.png').unlink()
    with pytest.raises(UserError, match=r'0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 1 more'):
        list_pairs(section(pairs_folder))


def test_surplus_inputs_are_named(pairs_folder):
    (pairs_folder / 'target' / '5.png').unlink()
    with pytest.raises(UserError, match=r'target: no target for 5\.png of .*input'):
        list_pairs(section(pairs_folder))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'dataroot_gt': '/nowhere'}, '/nowhere: no such folder'),
        ({'dataroot_gt': None}, 'dataroot_gt is missing'),
        ({'io_backend': {'type': 'disc'}}, "must be 'disk' or 'lmdb', not 'disc'"),
        ({'io_backend': {'type': 'lmdb'}}, 'not an LMDB folder'),
    ],
)
def test_what_cannot_be_found_is_said(pairs_folder, change, message):
    with pytest.raises(UserError, match=message):
        list_pairs(section(pairs_folder) | change)


def test_empty_folder_and_twin_names(pairs_folder, write_images):
    (pairs_folder / 'empty').mkdir()
    with pytest.raises(UserError, match='empty: no images in this folder'):
        list_pairs({'dataroot_gt': str(pairs_folder / 'empty')})
    write_images(pairs_folder / 'target', ['3.jpg'])
    with pytest.raises(UserError, match=r'3\.jpg and 3\.png have one name'):
        list_pairs(section(pairs_folder))


def test_pixels_are_those_of_the_file(pairs_folder):
    source = PairSource(section(pairs_folder))
    for i in range(len(source)):
        lq, gt = source.read(i)
        np.testing.assert_array_equal(gt, cv2.imread(source.pairs[i].gt)[..., ::-1])
        np.testing.assert_array_equal(lq, cv2.imread(source.pairs[i].lq)[..., ::-1])


def test_grey_alpha_and_16_bit_become_rgb(tmp_path):
    (tmp_path / 'target').mkdir()
    grey = np.full((8, 8), 128, np.uint8)
    cv2.imwrite(str(tmp_path / 'target' / 'a.png'), grey)
    cv2.imwrite(str(tmp_path / 'target' / 'b.png'), np.dstack([np.full((8, 8, 3), 51, np.uint8), grey]))
    cv2.imwrite(str(tmp_path / 'target' / 'c.png'), np.full((8, 8, 3), 32768, np.uint16))
    source = PairSource({'dataroot_gt': str(tmp_path / 'target'), 'rain': {}})
    for i, value in enumerate([128 / 255, 51 / 255, 32768 / 65535]):
        pixels = source.read(i)[1]
        assert pixels.shape == (8, 8, 3)
        np.testing.assert_allclose(to_float(pixels), value, atol=1e-6)


@pytest.mark.parametrize('content', [b'', b'no image', 'half'])
def test_corrupt_images_are_named(pairs_folder, content):
    path = pairs_folder / 'input' / '2.png'
    path.write_bytes(path.read_bytes()[:-200] if content == 'half' else content)
    with pytest.raises(UserError, match=r'input/2\.png'):
        PairSource(section(pairs_folder)).read(2)


def test_wrong_scale_names_both_files(tmp_path, write_images):
    write_images(tmp_path / 'target', ['a.png'], size=(41, 50))
    write_images(tmp_path / 'input', ['a.png'], size=(20, 25))
    lq, gt = PairSource(section(tmp_path, scale=2)).read(0)
    assert lq.shape == (20, 25, 3)
    assert gt.shape == (40, 50, 3)  # the odd row goes
    with pytest.raises(UserError, match=r'target/a\.png: 50x41 is not 4 times the 25x20 of its input .*input/a\.png'):
        PairSource(section(tmp_path, scale=4)).read(0)


def test_cache_reads_each_file_once(pairs_folder):
    source = PairSource(section(pairs_folder, cache=True))
    before = source.read(1)
    (pairs_folder / 'input' / '1.png').unlink()
    np.testing.assert_array_equal(source.read(1)[0], before[0])


def test_a_file_that_goes_away_is_named(pairs_folder):
    source = PairSource(section(pairs_folder))
    (pairs_folder / 'input' / '1.png').unlink()
    with pytest.raises(UserError, match=r'input/1\.png: cannot be read \(No such file'):
        source.read(1)


@pytest.fixture
def lmdb_folder(pairs_folder):
    """The seven pairs as two databases that BasicSR's own tool made."""
    for part in ('input', 'target'):
        keys = [str(i) for i in range(7)]
        make_lmdb_from_imgs(
            str(pairs_folder / part), str(pairs_folder / f'{part}.lmdb'), [f'{key}.png' for key in keys], keys
        )
    return pairs_folder


def lmdb_section(folder, **more):
    return {
        'dataroot_gt': str(folder / 'target.lmdb'),
        'dataroot_lq': str(folder / 'input.lmdb'),
        'io_backend': {'type': 'lmdb'},
        **more,
    }


def test_lmdb_holds_what_the_folders_hold(lmdb_folder):
    from_files, from_lmdb = PairSource(section(lmdb_folder)), PairSource(lmdb_section(lmdb_folder))
    again = PairSource(lmdb_section(lmdb_folder))  # LMDB itself refuses a second client of a path
    assert len(from_lmdb) == 7
    for i in range(7):
        for a, b, c in zip(from_files.read(i), from_lmdb.read(i), again.read(i), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_lmdb_says_what_is_missing(lmdb_folder):
    (lmdb_folder / 'input.lmdb' / 'meta_info.txt').write_text('0.png (40,48,3) 1\n')
    with pytest.raises(UserError, match='no input for the keys 1, 2, 3, 4, 5 and 1 more'):
        list_pairs(lmdb_section(lmdb_folder))
    for part in ('input', 'target'):
        (lmdb_folder / f'{part}.lmdb' / 'meta_info.txt').write_text('77.png (40,48,3) 1\n')
    with pytest.raises(UserError, match="names '77', but the database has no such key"):
        PairSource(lmdb_section(lmdb_folder)).read(0)
    with lmdb.open(str(lmdb_folder / 'broken.lmdb')):
        pass
    (lmdb_folder / 'broken.lmdb' / 'data.mdb').write_bytes(b'x' * 5000)
    (lmdb_folder / 'broken.lmdb' / 'meta_info.txt').write_text('0.png (40,48,3) 1\n')
    with pytest.raises(UserError, match=r'broken\.lmdb: cannot be opened as LMDB'):
        PairSource({'dataroot_gt': str(lmdb_folder / 'broken.lmdb'), 'io_backend': {'type': 'lmdb'}, 'rain': {}}).read(
            0
        )


def test_names_with_brackets_in_a_database_are_their_own(tmp_path, write_images):
    """`photo (1).png` and `photo.png` are two images."""
    from vmambair_arch.data.prepare.derive import make_lmdb

    names = ['photo (1).png', 'photo.png', 'a.b.png']
    write_images(tmp_path / 'target', names)
    database = make_lmdb(tmp_path / 'target')
    source = PairSource({'dataroot_gt': str(database), 'rain': {}, 'io_backend': {'type': 'lmdb'}})
    assert [pair.gt for pair in source.pairs] == sorted(['photo (1)', 'photo', 'a.b'])
    for index, pair in enumerate(source.pairs):
        written = cv2.imread(str(tmp_path / 'target' / f'{pair.gt}.png'))[..., ::-1]
        np.testing.assert_array_equal(source.read(index)[1], written)
    meta = database / 'meta_info.txt'
    meta.write_text(meta.read_text() + 'photo.png (50,40,3) 1\n')
    with pytest.raises(UserError, match="names 'photo.png' twice"):
        list_pairs({'dataroot_gt': str(database), 'io_backend': {'type': 'lmdb'}})


@pytest.mark.parametrize('older', [False, True])
def test_a_database_of_images_that_were_made_anew_is_refused(tmp_path, write_images, older):
    """Names and sizes are the same; pixels are not, and training would have gone on with the old ones."""
    from vmambair_arch.data.prepare.derive import make_lmdb

    folder = tmp_path / 'target'
    write_images(folder, ['a.png', 'b.png'])
    assert make_lmdb(folder) == make_lmdb(folder)
    path = folder / 'b.png'
    height, width = cv2.imread(str(path)).shape[:2]
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    if older:  # as unpacked from an archive; flat images are shorter
        os.utime(path, (1e9, 1e9))
    with pytest.raises(UserError, match=r'target\.lmdb: holds another b\.png than .*target; delete it'):
        make_lmdb(folder)


@pytest.mark.parametrize('size', [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_patches_that_were_mirrored_become_tensors(size):
    patch = np.random.default_rng(0).uniform(size=(*size, 3)).astype(np.float32)
    for view in (patch[::-1], patch[:, ::-1], patch[::-1, ::-1], patch.swapaxes(0, 1)[::-1]):
        tensor = to_tensor(view)
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy().transpose(1, 2, 0), view)
