"""What the network is shown in each iteration: scheduled shapes, the same on every road, nothing decoded in vain."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from hypothesis import given
from hypothesis import strategies as st

from vmambair_arch.data import pairs
from vmambair_arch.data.iteration_sampler import IterationSampler, number_by_iteration
from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.errors import UserError

STAGES = {'gt_sizes': [8, 16, 24], 'mini_batch_sizes': [4, 2, 2], 'iters': [3, 2, 4]}


def section(folder, **more):
    return {
        'name': 'pairs',
        'type': 'PairedProgressiveDataset',
        'phase': 'train',
        'scale': 1,
        'dataroot_gt': str(folder / 'target'),
        'dataroot_lq': str(folder / 'input'),
        'batch_size_per_gpu': 1,
        'num_worker_per_gpu': 0,
        'manual_seed': 5,
        'total_iter': 9,
        **(STAGES if 'gt_size' not in more else {}),
        **more,
    }


def stream(opt, *, rank=0):
    """Every batch of a run, through BasicSR's own functions."""
    replicas = opt.setdefault('num_replicas', 1)
    dataset = build_dataset(opt)
    sampler = IterationSampler(dataset, replicas, rank)
    loader = build_dataloader(dataset, opt, num_gpu=0, dist=replicas > 1, sampler=sampler, seed=rank)
    return list(loader)


def assert_same(batches, others):
    assert len(batches) == len(others)
    for a, b in zip(batches, others, strict=True):
        assert torch.equal(a['lq'], b['lq'])
        assert torch.equal(a['gt'], b['gt'])
        assert a['gt_path'] == b['gt_path']


def test_batches_have_the_shape_of_their_stage(pairs_folder):
    shapes = [tuple(batch['gt'].shape) for batch in stream(section(pairs_folder))]
    assert shapes == [(4, 3, 8, 8)] * 3 + [(2, 3, 16, 16)] * 2 + [(2, 3, 24, 24)] * 4


def test_the_last_stage_goes_on(pairs_folder):
    assert [len(batch['gt']) for batch in stream(section(pairs_folder, total_iter=11))][-3:] == [2, 2, 2]
    assert len(stream(section(pairs_folder, total_iter=4))) == 4


def test_item_is_the_mini_batch(pairs_folder):
    dataset = PairedProgressiveDataset(section(pairs_folder))
    batch = dataset[4]
    assert batch['lq'].shape == (2, 3, 16, 16)
    assert_same([batch], stream(section(pairs_folder))[4:5])


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('extra', [{}, {'mixup': {'probability': 0.5}}, {'cache': True}])
def test_workers_do_not_change_the_data(pairs_folder, workers, extra):
    opt = section(pairs_folder, **extra)
    assert_same(stream(opt), stream(opt | {'num_worker_per_gpu': workers}))


@pytest.mark.parametrize('start', [1, 3, 4, 8])
def test_a_resume_continues_the_data(pairs_folder, start):
    opt = section(pairs_folder, num_worker_per_gpu=1)
    assert_same(stream(opt)[start:], stream(opt | {'start_iter': start}))


@pytest.mark.parametrize('plain', [False, True])
def test_two_ranks_share_what_one_process_draws(pairs_folder, plain):
    if plain:
        one = section(pairs_folder, gt_size=16, batch_size_per_gpu=4)
        half = one | {'batch_size_per_gpu': 2, 'num_replicas': 2}
    else:
        one = section(pairs_folder)
        half = one | {'mini_batch_sizes': [2, 1, 1], 'num_replicas': 2}
    ranks = [stream(dict(half), rank=rank) for rank in (0, 1)]
    for whole, *parts in zip(stream(one), *ranks, strict=True):
        together = torch.cat([part['gt'] for part in parts])
        assert together.shape == whole['gt'].shape
        # Plain loaders deal samples out in turn, progressive ones in blocks: the same ones either way.
        rows = sorted(sample.numpy().tobytes() for sample in together)
        assert rows == sorted(sample.numpy().tobytes() for sample in whole['gt'])


def test_two_gpus_of_one_process_get_two_shares(pairs_folder):
    opt = section(pairs_folder, num_replicas=2)
    dataset = build_dataset(opt)
    loader = build_dataloader(dataset, opt, num_gpu=2, dist=False, sampler=IterationSampler(dataset, 1, 0))
    assert [len(batch['gt']) for batch in loader] == [8, 8, 8, 4, 4, 4, 4, 4, 4]


def test_one_stage_is_used_like_any_data_set_of_basicsr(pairs_folder):
    batches = stream(section(pairs_folder, gt_size=16, batch_size_per_gpu=3, total_iter=7))
    assert [tuple(batch['lq'].shape) for batch in batches] == [(3, 3, 16, 16)] * 7
    assert all(batch['lq'].dtype == torch.float32 for batch in batches)


def test_other_seed_other_data(pairs_folder):
    a, b = (stream(section(pairs_folder, manual_seed=seed))[0]['gt'] for seed in (1, 2))
    assert not torch.equal(a, b)


def test_crops_and_flips_do_not_repeat_with_the_image(pairs_folder):
    batches = stream(section(pairs_folder, gt_size=16, batch_size_per_gpu=7, total_iter=12))
    patches = {sample.numpy().tobytes() for batch in batches for sample in batch['gt']}
    assert len(patches) > 80  # of 84; BasicSR's own loader would repeat the 7 patches of an epoch


def test_every_image_comes_once_before_any_comes_again(pairs_folder):
    batches = stream(section(pairs_folder))  # 12 + 4 + 8 samples over 7 images
    names = list(itertools.chain.from_iterable(batch['gt_path'] for batch in batches))
    for start in (0, 7, 14):
        assert len(set(names[start : start + 7])) == 7
    assert names[:7] != names[7:14]


def test_only_what_is_needed_is_decoded(pairs_folder, monkeypatch):
    count = 0
    decode = pairs.decode_pixels

    def counting(data, name):
        nonlocal count
        count += 1
        return decode(data, name)

    monkeypatch.setattr(pairs, 'decode_pixels', counting)
    stream(section(pairs_folder))
    assert count == 2 * (3 * 4 + 2 * 2 + 4 * 2)
    count = 0
    stream(section(pairs_folder, start_iter=7))
    assert count == 2 * 2 * 2
    count = 0
    stream(section(pairs_folder, cache=True))
    assert count == 2 * 7


def test_input_and_target_stay_aligned(pairs_folder):
    for batch in stream(section(pairs_folder)):
        gt, lq = batch['gt'] * 255, batch['lq'] * 255
        assert (lq - torch.clamp(gt - 10, min=0)).abs().max() < 1e-3


@pytest.mark.parametrize('size', [(40, 48), (33, 17), (10, 9)])
def test_scale_keeps_blocks_over_their_pixel_even_in_the_padding(tmp_path, size):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for part, image in (('input', small), ('target', small.repeat(4, 0).repeat(4, 1))):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / 'a.png'), image)
    opt = section(tmp_path, gt_size=80, batch_size_per_gpu=2, scale=4)
    for batch in stream(opt):
        assert batch['lq'].shape == (2, 3, 20, 20)
        blocks = batch['lq'].repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.equal(blocks, batch['gt'])


def test_all_eight_orientations_come_and_none_when_switched_off(tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    image[:4, :8] = 255
    for part in ('input', 'target'):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / 'a.png'), image)

    def orientations(**switches):
        batches = stream(section(tmp_path, gt_size=16, batch_size_per_gpu=60, total_iter=1, **switches))
        return len({sample.numpy().tobytes() for sample in batches[0]['gt']})

    assert orientations() == 8
    assert orientations(use_rot=False) == 2
    assert orientations(use_hflip=False) == 4
    assert orientations(use_hflip=False, use_rot=False) == 1


def test_rain_in_a_share_of_the_samples(pairs_folder):
    opt = section(pairs_folder, rain={'density': [60, 60]}, rain_probability=0.25, gt_size=40, batch_size_per_gpu=8)
    batches = stream(opt)
    assert_same(batches, stream(opt | {'num_worker_per_gpu': 2}))
    brighter = [
        ((lq - gt) > 0.02).float().mean() > 0.01 for b in batches for lq, gt in zip(b['lq'], b['gt'], strict=True)
    ]
    # The inputs on disk are darker than their targets everywhere, rain is brighter.
    assert 0.1 < np.mean(brighter) < 0.4


@pytest.mark.parametrize(
    ('options', 'line'),
    [
        ({'rain': {}}, 'remove dataroot_lq, or rain, or give rain_probability'),
        ({'rain_probability': 0.5}, 'rain_probability needs both dataroot_lq and rain'),
        ({'rain': {}, 'rain_probability': 2}, 'must be a number in 0..1, not 2'),
    ],
)
def test_bad_rain_probabilities(pairs_folder, options, line):
    with pytest.raises(UserError, match=line):
        stream(section(pairs_folder, gt_size=40, **options))


def test_rain_falls_on_clean_targets_and_always_down(pairs_folder):
    rain = {'angle': [0, 0], 'angle_spread': 0, 'density': [60, 60]}
    opt = section(pairs_folder, dataroot_lq=None, rain=rain, gt_size=40, batch_size_per_gpu=8)
    batches = stream(opt)
    assert_same(batches, stream(opt | {'num_worker_per_gpu': 2}))
    for batch in batches:
        streaks = (batch['lq'] - batch['gt']).abs().mean(1)
        assert streaks.mean() > 0.01
        along, across = streaks.diff(dim=1).abs().mean(), streaks.diff(dim=2).abs().mean()
        assert across > 2 * along
        levels = batch['lq'] * 255
        assert (levels - levels.round()).abs().max() < 1e-3
    rainy = {batch['lq'][0].numpy().tobytes() for batch in batches}
    assert len(rainy) == len(batches)


def white(tmp_path, name='clean', size=(60, 70)):
    (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / name / 'white.png'), np.full((*size, 3), 255, np.uint8))
    return str(tmp_path / name)


def test_a_share_of_samples_has_nothing_to_remove(pairs_folder):
    opt = section(pairs_folder, clean_probability=0.4, gt_size=24, batch_size_per_gpu=16)
    batches = stream(opt)
    assert_same(batches, stream(opt | {'num_worker_per_gpu': 2}))
    same = [torch.equal(lq, gt) for b in batches for lq, gt in zip(b['lq'], b['gt'], strict=True)]
    assert 0.25 < np.mean(same) < 0.55
    everything = stream(opt | {'clean_probability': 1})
    assert all(torch.equal(batch['lq'], batch['gt']) for batch in everything)


def test_clean_folder_gives_rainy_and_clean_samples_and_never_touches_real_pairs(pairs_folder, tmp_path):
    clean = white(tmp_path)

    def shares(**options):
        opt = section(pairs_folder, dataroot_clean=clean, gt_size=24, batch_size_per_gpu=16, **options)
        return np.mean([(gt == 1).all() for b in stream(opt) for gt in b['gt']])

    # One photograph beside seven targets: an eighth of what is cut from all of them.
    assert 0.05 < shares(clean_probability=1) < 0.25
    assert 0.02 < shares(rain={}, rain_probability=0.5) < 0.15
    dry = section(pairs_folder, dataroot_clean=clean, rain={}, rain_probability=0.0, gt_size=24, clean_probability=0.0)
    with pytest.raises(UserError, match='dataroot_clean needs rain or clean_probability'):
        stream(dry)


def test_a_sample_names_the_image_that_was_read(pairs_folder, tmp_path):
    """A clean image stands in for a pair; a step that fails must not accuse the pair."""
    clean = white(tmp_path)
    opt = section(pairs_folder, dataroot_clean=clean, gt_size=24, batch_size_per_gpu=16, clean_probability=0.7)
    found = 0
    for batch in stream(opt):
        for lq, gt, lq_path, gt_path in zip(*(batch[key] for key in ('lq', 'gt', 'lq_path', 'gt_path')), strict=True):
            assert bool((gt == 1).all()) == gt_path.startswith(clean)
            assert torch.equal(lq, gt) == (lq_path == gt_path)
            found += gt_path.startswith(clean)
    assert found


def test_hard_negatives_stand_in_input_and_target_alike(pairs_folder):
    flat = section(pairs_folder, gt_size=24, batch_size_per_gpu=16, use_hflip=False, use_rot=False)
    drawn = stream(flat | {'lines_probability': 1})
    changed = 0
    for batch in drawn:
        # The inputs are darker than the targets by 10 levels; what is drawn changes neither that nor its sign.
        difference = (batch['gt'] - batch['lq']) * 255
        assert difference.max() < 10.01
        assert difference.min() > -0.01
    for plain, lined in zip(stream(flat | {'lines_probability': 1e-9}), drawn, strict=True):
        changed += sum(not torch.equal(a, b) for a, b in zip(plain['gt'], lined['gt'], strict=True))
    assert changed > 0.8 * 16 * len(drawn)  # a thing may fall outside of the patch


def test_enlarged_samples_show_less_of_the_picture_and_keep_input_over_target(pairs_folder):
    flat = section(pairs_folder, gt_size=32, batch_size_per_gpu=16)
    plain = stream(flat)
    enlarged = stream(flat | {'enlarge': 4, 'enlarge_probability': 1})

    def detail(batches):
        return np.mean([batch['gt'].diff(dim=2).abs().mean() for batch in batches])

    assert detail(enlarged) < 0.8 * detail(plain)
    for batch in enlarged:
        assert batch['gt'].shape == batch['lq'].shape == (16, 3, 32, 32)
        assert ((batch['gt'] - batch['lq']) * 255 < 14).all()  # 10 levels apart; the cubic kernel overshoots at edges
        assert batch['gt'].min() >= 0
        assert batch['gt'].max() <= 1


def test_varied_samples_are_the_same_after_a_resume(pairs_folder, tmp_path):
    varied = section(
        pairs_folder,
        dataroot_clean=white(tmp_path),
        rain={'size': [1, 4], 'blur': [0, 1]},
        rain_probability=0.3,
        clean_probability=0.2,
        lines_probability=0.3,
        enlarge=3,
        enlarge_probability=0.3,
        gt_size=24,
        batch_size_per_gpu=4,
        cache=True,
    )
    assert_same(stream(varied)[4:], stream(varied | {'start_iter': 4}))


@pytest.mark.parametrize(
    ('options', 'line'),
    [
        ({'clean_probability': 2}, 'clean_probability must be a number in 0..1, not 2'),
        ({'lines_probability': 'often'}, "lines_probability must be a number in 0..1, not 'often'"),
        ({'enlarge': 0.5}, 'enlarge must be a number in 1..16, not 0.5'),
        ({'enlarge_probability': 0.5}, 'enlarge_probability needs enlarge'),
        ({'clean_probability': 0.5, 'scale': 2}, 'clean_probability is for deraining: scale 1'),
        ({'dataroot_clean': 'nowhere', 'clean_probability': 1}, 'nowhere: no such folder'),
    ],
)
def test_bad_shares_are_refused_at_once(pairs_folder, options, line):
    with pytest.raises(UserError, match=line):
        PairedProgressiveDataset(section(pairs_folder, gt_size=24) | options)


def test_mixup_blends_input_and_target_alike(pairs_folder):
    flat = section(pairs_folder, gt_size=16, batch_size_per_gpu=6, use_hflip=False, use_rot=False)
    plain, mixed = stream(flat), stream(flat | {'mixup': {'beta': 1.2, 'probability': 0.5}})
    changed = 0
    for a, b in zip(plain, mixed, strict=True):
        for i in range(6):
            changed += not torch.equal(a['gt'][i], b['gt'][i])
            assert ((b['gt'] - b['lq']) * 255 <= 10.001).all()  # a blend of pairs that differ by at most 10
    assert 15 < changed < 39  # of 54, half on average
    assert_same(stream(flat | {'mixup': {'probability': 0}}), plain)


def test_lmdb_and_meta_info_show_the_same_as_the_folder(pairs_folder):
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    keys = [str(i) for i in range(7)]
    roots = {}
    for part in ('input', 'target'):
        roots[part] = str(pairs_folder / f'{part}.lmdb')
        make_lmdb_from_imgs(str(pairs_folder / part), roots[part], [f'{key}.png' for key in keys], keys)
    (pairs_folder / 'meta.txt').write_text('\n'.join(f'{key}.png (40,48,3)' for key in reversed(keys)))
    from_folder = stream(section(pairs_folder))
    lmdb = {'dataroot_gt': roots['target'], 'dataroot_lq': roots['input'], 'io_backend': {'type': 'lmdb'}}
    for others in (lmdb, lmdb | {'num_worker_per_gpu': 2}, {'meta_info_file': str(pairs_folder / 'meta.txt')}):
        batches = stream(section(pairs_folder, **others))
        for a, b in zip(from_folder, batches, strict=True):
            assert torch.equal(a['lq'], b['lq'])


@given(iteration=st.integers(0, 40), replicas=st.integers(1, 3))
def test_samples_are_numbered_without_a_gap(iteration, replicas):
    dataset = PairedProgressiveDataset.__new__(PairedProgressiveDataset)
    dataset.stage_starts, dataset.mini_batch_sizes = [0, 3, 5], [4, 2, 7]
    dataset.items_per_iteration = replicas
    by_hand = sum(replicas * [4, 4, 4, 2, 2, *[7] * 40][i] for i in range(iteration))
    assert dataset._samples_before(iteration) == by_hand


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'iters': None}, 'iters missing'),
        ({'gt_sizes': [8, 16]}, 'gt_sizes 2, mini_batch_sizes 3, iters 3'),
        ({'gt_sizes': [8, 16, 0]}, 'gt_sizes must be a list of whole numbers'),
        ({'iters': 300}, 'iters must be a list'),
        ({'mini_batch_sizes': [4, 2, '1']}, 'mini_batch_sizes must be'),
        ({'gt_size': 16, **STAGES}, 'give gt_size, or gt_sizes, mini_batch_sizes, iters, not both'),
        ({'batch_size_per_gpu': 8}, 'batch_size_per_gpu must be 1, not 8'),
        ({'scale': 3}, 'gt size 8 is not a multiple of scale 3'),
        ({'rain': {}}, 'remove dataroot_lq, or rain'),
        ({'dataroot_lq': None}, 'dataroot_lq is missing'),
        ({'dataroot_lq': None, 'rain': {'angel': [0, 1]}}, "did you mean 'angle'"),
        ({'dataroot_lq': None, 'rain': {}, 'scale': 2}, 'rain needs scale 1'),
        ({'mixup': {'alpha': 1}}, 'mixup takes beta'),
        ({'mixup': {'beta': 0}}, 'mixup takes beta'),
    ],
)
def test_bad_options_are_refused_at_once(pairs_folder, change, message):
    with pytest.raises(UserError, match=message):
        PairedProgressiveDataset(section(pairs_folder) | change)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_corrupt_image_is_named_from_a_worker_too(pairs_folder, workers):
    (pairs_folder / 'input' / '4.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'input/4\.png: is no PNG'):
        stream(section(pairs_folder, num_worker_per_gpu=workers))


def test_an_error_with_workers_at_work_ends_the_process(pairs_folder):
    script = """
import sys, vmambair_arch, multiprocessing
from basicsr.data import build_dataloader, build_dataset
opt = {'name': 'n', 'type': 'PairedProgressiveDataset', 'phase': 'train', 'scale': 1, 'gt_size': 8, 'total_iter': 99,
       'dataroot_gt': 'target', 'dataroot_lq': 'input', 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 2}
from basicsr.data.data_sampler import EnlargedSampler
dataset = build_dataset(opt)
batches = iter(build_dataloader(dataset, opt, num_gpu=0, sampler=EnlargedSampler(dataset, 1, 0), seed=0))
next(batches)
assert len(multiprocessing.active_children()) == 2
raise RuntimeError('something else')
"""
    code = [sys.executable, '-c', script]
    done = subprocess.run(code, cwd=pairs_folder, capture_output=True, text=True, timeout=120, env=os.environ | {
        'PYTHONPATH': str(Path(__file__).resolve().parents[2])
    })  # fmt: skip
    assert 'RuntimeError: something else' in done.stderr


def options(**train):
    return {
        'manual_seed': 7,
        'dist': False,
        'num_gpu': 0,
        'world_size': 1,
        'train': {'total_iter': '100'},
        'datasets': {'train': {'type': 'PairedProgressiveDataset', **train}},
    }


def test_the_section_learns_where_the_run_stands():
    opt, state = options(), {'iter': 40, 'epoch': 3}
    number_by_iteration(opt, state)
    assert opt['datasets']['train'] | {'type': None} == {
        'type': None, 'manual_seed': 7, 'total_iter': 100, 'num_replicas': 1, 'start_iter': 40
    }  # fmt: skip
    assert state['epoch'] == 0


def test_other_data_sets_are_left_alone():
    opt, state = options(type='PairedImageDataset'), {'iter': 40, 'epoch': 3}
    number_by_iteration(opt, state)
    assert opt == options(type='PairedImageDataset')
    assert state['epoch'] == 3
    sampler = IterationSampler(list(range(10)), 2, 0)
    assert sorted([*sampler, *IterationSampler(list(range(10)), 2, 1)]) == list(range(10))
    assert list(sampler) != [0, 2, 4, 6, 8]  # BasicSR's shuffle


def test_a_second_epoch_is_empty(pairs_folder):
    dataset = PairedProgressiveDataset(section(pairs_folder))
    sampler = IterationSampler(dataset, 1, 0)
    assert list(sampler) == list(range(9))
    assert list(sampler) == list(range(9))  # BasicSR's prefetcher asks twice
    sampler.set_epoch(1)
    assert list(sampler) == []


def test_basicsr_uses_the_sampler():
    import basicsr.train

    assert basicsr.train.EnlargedSampler is IterationSampler


def test_real_pairs_go_in(shared):
    folder = shared / 'data' / 'rain100l_train'
    batch = PairedProgressiveDataset(section(folder, gt_size=128, batch_size_per_gpu=4))[0]
    difference = (batch['lq'] - batch['gt'])[0]
    assert 0 < difference.abs().mean() < 0.2
