"""Several folders in one data set, and folders below folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from test_paired_progressive_dataset import assert_same, section, stream

from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.data.paired_validation_dataset import PairedValidationDataset, short_names
from vmambair_arch.data.pairs import folder_images, list_pairs
from vmambair_arch.errors import UserError

PARTS = ('target', 'input', 'label')


@pytest.fixture
def three(tmp_path, write_images):
    """Folders a (two pairs), b (six) and c (three), all with labels; inputs are 10 levels darker, labels inverted."""
    for seed, (name, count) in enumerate((('a', 2), ('b', 6), ('c', 3))):
        names = [f'{i}.png' for i in range(count)]
        for file, image in zip(names, write_images(tmp_path / name / 'target', names, seed=seed), strict=True):
            for part, pixels in (('input', np.clip(image.astype(int) - 10, 0, 255)), ('label', 255 - image)):
                (tmp_path / name / part).mkdir(exist_ok=True)
                cv2.imwrite(str(tmp_path / name / part / file), pixels[..., ::-1].astype(np.uint8))
    return tmp_path


def entry(folder, name, **more):
    roots = {'dataroot_gt': str(folder / name / 'target'), 'dataroot_lq': str(folder / name / 'input')}
    return roots | ({'dataroot_label': str(folder / name / 'label')} if more.pop('label', False) else {}) | more


def several(folder, *entries, **more):
    opt = section(folder, **{'gt_size': 16, 'batch_size_per_gpu': 4, 'total_iter': 50} | more)
    del opt['dataroot_gt'], opt['dataroot_lq']
    return opt | {'sources': list(entries)}


def from_where(batches):
    return Counter(Path(path).parts[-3] for batch in batches for path in batch['gt_path'])


WEIGHTED = {'a': 2, 'b': 1, 'c': 1}


def weighted(folder, **more):
    labelled = more.pop('label', False)
    return several(folder, *(entry(folder, n, weight=w, label=labelled) for n, w in WEIGHTED.items()), **more)


def test_folders_are_drawn_by_weight_and_without_weights_by_their_size(three):
    counts = from_where(stream(weighted(three)))
    assert sum(counts.values()) == 200
    assert abs(counts['a'] - 100) < 25
    assert abs(counts['b'] - 50) < 25
    plain = from_where(stream(several(three, *(entry(three, name) for name in WEIGHTED), total_iter=11)))
    assert plain == {'a': 8, 'b': 24, 'c': 12}  # 44 samples of 11 pairs


def test_one_source_is_the_plain_section(three):
    plain = several(three) | entry(three, 'b') | {'sources': None}
    assert_same(stream(plain), stream(several(three, entry(three, 'b'))))


@pytest.mark.parametrize('extra', [{}, {'mixup': {}}, {'cutmix': {}}, {'cache': True}, {'label': True}])
def test_input_target_and_label_come_from_one_pair(three, extra):
    for batch in stream(weighted(three, **extra)):
        apart = (batch['gt'] - batch['lq']) * 255
        assert apart.min() > -1e-3
        assert apart.max() < 10.001
        if 'label' in extra:
            torch.testing.assert_close(batch['label'], 1 - batch['gt'])


@pytest.mark.parametrize('extra', [{}, {'mixup': {}}, {'rain': {}, 'rain_probability': 0.5}])
def test_workers_and_a_resume_change_nothing(three, extra):
    opt = weighted(three, **extra)
    whole = stream(opt)
    assert_same(whole, stream(opt | {'num_worker_per_gpu': 2}))
    assert_same(whole[13:], stream(opt | {'start_iter': 13}))


def test_two_ranks_share_what_one_process_draws(three):
    one = weighted(three)
    half = one | {'batch_size_per_gpu': 2, 'num_replicas': 2}
    ranks = [stream(dict(half), rank=rank) for rank in (0, 1)]
    for whole, *parts in zip(stream(one), *ranks, strict=True):
        rows = sorted(sample.numpy().tobytes() for part in parts for sample in part['gt'])
        assert rows == sorted(sample.numpy().tobytes() for sample in whole['gt'])


def test_a_database_beside_folders_shows_the_same(three):
    for part in ('input', 'target'):
        keys = [str(i) for i in range(6)]
        root = three / 'b' / part
        make_lmdb_from_imgs(str(root), str(three / f'{part}.lmdb'), [f'{key}.png' for key in keys], keys)
    in_lmdb = {
        'dataroot_gt': str(three / 'target.lmdb'),
        'dataroot_lq': str(three / 'input.lmdb'),
        'io_backend': {'type': 'lmdb'},
    }
    mixed = several(three, entry(three, 'a', weight=1), in_lmdb | {'weight': 1})
    for batch, other in zip(
        stream(several(three, entry(three, 'a', weight=1), entry(three, 'b', weight=1))), stream(mixed), strict=True
    ):
        assert torch.equal(batch['gt'], other['gt'])
        assert torch.equal(batch['lq'], other['lq'])


def test_clean_photographs_beside_weighted_folders(three, write_images):
    write_images(three / 'clean', [f'{i}.png' for i in range(11)], seed=9)
    opt = weighted(three, dataroot_clean=str(three / 'clean'), clean_probability=1)
    dataset = PairedProgressiveDataset(opt)
    seen = []
    dataset.source.read_clean = lambda index, read=dataset.source.read_clean: seen.append(index) or read(index)
    for index in range(200):
        dataset[index]
    clean = sum(index >= 11 for index in seen)
    assert 70 < clean < 130  # eleven photographs beside eleven targets
    assert sum(index < 2 for index in seen) > 0.35 * (200 - clean)  # folder a has half of the weight


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        (lambda a, b: a.pop('dataroot_lq'), 'entry 1: dataroot_lq is missing; give it in all or none'),
        (lambda a, b: b.update(dataroot_label='label'), 'entry 1: dataroot_label is missing; give it in all or none'),
        (lambda a, b: b.pop('weight'), 'entry 2: weight is missing'),
        (lambda a, b: b.update(dataroot_gt='nowhere'), 'nowhere: no such folder'),
        (lambda a, b: b.update(datarot_gt='b'), "nothing reads 'datarot_gt' (did you mean 'dataroot_gt'?)"),
    ],
)
def test_what_cannot_be_is_said_at_once(three, change, line):
    first, second = entry(three, 'a', weight=1), entry(three, 'b', weight=1)
    change(first, second)
    with pytest.raises(UserError) as error:
        PairedProgressiveDataset(several(three, first, second))
    assert line in str(error.value)


def test_folders_without_inputs_need_what_makes_them(three):
    entries = [{'dataroot_gt': str(three / name / 'target')} for name in 'ab']
    with pytest.raises(UserError, match='dataroot_lq is missing'):
        PairedProgressiveDataset(several(three, *entries))
    assert len(stream(several(three, *entries, rain={}))) == 50


def test_validation_takes_several_folders_and_no_weights(three):
    section = {'name': 'val', 'sources': [entry(three, 'a'), entry(three, 'c')]}
    dataset = PairedValidationDataset(section)
    names = [dataset[i]['name'] for i in range(5)]
    assert names == ['a_input_0', 'a_input_1', 'c_input_0', 'c_input_1', '2']
    with pytest.raises(UserError, match='weights are for training'):
        PairedValidationDataset({'name': 'val', 'sources': [entry(three, 'a', weight=1)]})


# ---------------------------------------------------------------- folders below folders


@pytest.fixture
def deep(tmp_path, write_images):
    for part in PARTS:
        for name in ('a/001.png', 'b/001.png', 'b/c/002.png', '003.png'):
            write_images((tmp_path / part / name).parent, [Path(name).name])
    return tmp_path


def roots(folder, **more):
    return {
        f'dataroot_{key}': str(folder / part) for key, part in zip(('gt', 'lq', 'label'), PARTS, strict=True)
    } | more


def test_pairs_by_their_path_below_the_folders(deep):
    (deep / 'input' / 'a' / '001.png').rename(deep / 'input' / 'a' / '001x4.png')
    for name in ('b/001', 'b/c/002', '003'):
        (deep / 'input' / f'{name}.png').rename(deep / 'input' / f'{name}x4.jpg')
    pairs = list_pairs(roots(deep, recursive=True, filename_tmpl='{}x4'))
    assert [tuple(str(Path(p).relative_to(deep)) for p in (pair.gt, pair.lq, pair.label)) for pair in pairs] == [
        ('target/003.png', 'input/003x4.jpg', 'label/003.png'),
        ('target/a/001.png', 'input/a/001x4.png', 'label/a/001.png'),
        ('target/b/001.png', 'input/b/001x4.jpg', 'label/b/001.png'),
        ('target/b/c/002.png', 'input/b/c/002x4.jpg', 'label/b/c/002.png'),
    ]


def test_only_with_the_key(deep):
    assert len(list_pairs(roots(deep))) == 1
    for part in PARTS:
        (deep / part / '003.png').unlink()
    with pytest.raises(UserError, match='no images in this folder .*folders below it have some: recursive: true'):
        list_pairs(roots(deep))


def test_partners_are_missed_and_left_over_by_their_paths(deep):
    (deep / 'input' / 'b' / 'c' / '002.png').unlink()
    with pytest.raises(UserError, match=r'input: no input for b/c/002\.png of .*target'):
        list_pairs(roots(deep, recursive=True))
    (deep / 'target' / 'b' / 'c' / '002.png').unlink()
    (deep / 'target' / 'a' / '001.png').unlink()
    with pytest.raises(UserError, match=r'target: no target for a/001\.png of .*input'):
        list_pairs(roots(deep, recursive=True))


def test_hidden_folders_are_passed_over_links_followed_and_circles_left(deep, write_images):
    write_images(deep / 'target' / '.thumbs', ['001.png'])
    write_images(deep / 'elsewhere', ['004.png'])
    (deep / 'target' / 'link').symlink_to(deep / 'elsewhere')
    (deep / 'target' / 'a' / 'circle').symlink_to(deep / 'target')
    found = [str(path.relative_to(deep / 'target')) for path in folder_images(deep / 'target', recursive=True)]
    assert found == ['003.png', 'a/001.png', 'b/001.png', 'b/c/002.png', 'link/004.png']
    write_images(deep / 'target' / 'b', ['001.jpg'])
    with pytest.raises(UserError, match=r'target/b: 001\.jpg and 001\.png have one name'):
        folder_images(deep / 'target', recursive=True)


def test_results_of_pictures_of_one_name_have_names_of_their_own(deep):
    dataset = PairedValidationDataset({'name': 'val', **roots(deep, recursive=True)})
    assert [dataset[i]['name'] for i in range(4)] == ['003', 'a_001', 'b_001', '002']


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        ([], []),
        (['x/1.png'], ['1']),
        (['x/1.png', 'x/2.png'], ['1', '2']),
        (['x/y/1.png', 'z/y/1.png'], ['x_y_1', 'z_y_1']),
        (['1.png', 'x/1.png'], ['1', 'x_1']),
        (['a_b/1.png', 'c/1.png', 'a/b_1.png', 'b_1.png'], None),
        (['x/1.png', 'x/1.png'], None),
    ],
)
def test_short_names_are_all_different(paths, names):
    found = short_names(paths)
    assert len(set(found)) == len(paths)
    assert not any('/' in name for name in found)
    if names is not None:
        assert found == names
