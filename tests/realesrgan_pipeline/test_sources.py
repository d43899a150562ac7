"""Several folders in one data set: whose image comes when, and what is said of entries that cannot be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realesrgan_pipeline.sources import BLOCK, Order, read_sources, read_weights

KEYS = ('dataroot_gt', 'dataroot_lq', 'filename_tmpl', 'io_backend', 'meta_info_file', 'recursive')


def folders(images, sizes):
    ends = np.cumsum(sizes)
    return np.searchsorted(ends, images, side='right')


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.05, 10)), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
def test_every_folder_gets_its_share_and_every_image_of_it_its_turn(parts, seed):
    sizes, raw = [size for size, _ in parts], [weight for _, weight in parts]
    weights = [weight / sum(raw) for weight in raw]
    order = Order(seed, sizes, weights)
    images = np.array([order(place) for place in range(BLOCK)])
    counts = np.bincount(folders(images, sizes), minlength=len(sizes))
    assert np.abs(counts - np.array(weights) * BLOCK).max() <= 1
    for folder, size in enumerate(sizes):
        own = images[folders(images, sizes) == folder]
        for turn in range(len(own) // size):
            assert len(set(own[turn * size : (turn + 1) * size])) == size


def test_a_place_shows_the_same_whoever_asks_and_in_whatever_order():
    places = [0, BLOCK - 1, BLOCK, 3 * BLOCK + 17, 5]
    inorder = Order(7, [3, 50], [0.25, 0.75])
    expected = {place: inorder(place) for place in range(3 * BLOCK + 18)}
    asked = Order(7, [3, 50], [0.25, 0.75])
    assert [asked(place) for place in places] == [expected[place] for place in places]
    assert [Order(8, [3, 50], [0.25, 0.75])(place) for place in range(50)] != [expected[p] for p in range(50)]


def test_turns_go_on_over_the_border_of_a_block():
    order = Order(1, [7, 9], [0.3, 0.7])
    images = [order(place) for place in range(BLOCK - 500, BLOCK + 500)]
    own = [image for image in images if image < 7]
    # Wherever a window of seven begins, no image comes more than twice: turns of seven follow each other.
    assert max(max(Counter(own[i : i + 7]).values()) for i in range(len(own) - 7)) <= 2
    assert max(Counter(own).values()) - min(Counter(own).values()) <= 2


def test_without_weights_all_images_share_one_order():
    order = Order(5, [3, 4])
    images = [order(place) for place in range(21)]
    assert all(sorted(images[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert images == [Order(5, [7])(place) for place in range(21)]


def test_what_is_mixed_in_comes_by_weight_as_well():
    rng = np.random.default_rng(0)
    drawn = [Order(0, [2, 100], [0.8, 0.2]).any(rng) for _ in range(500)]
    assert 350 < sum(image < 2 for image in drawn) < 450
    assert max(drawn) < 102


def test_an_entry_takes_what_is_said_for_all_and_may_say_otherwise(monkeypatch):
    monkeypatch.setenv('HOME', '/home/somebody')
    section = {
        'filename_tmpl': '{}x4',
        'cache': True,
        'sources': [{'dataroot_gt': '~/a'}, {'dataroot_gt': 'b', 'filename_tmpl': '{}', 'weight': 2}],
    }
    assert read_sources(section, KEYS, 'x') == [
        {'filename_tmpl': '{}x4', 'cache': True, 'dataroot_gt': '/home/somebody/a'},
        {'filename_tmpl': '{}', 'cache': True, 'dataroot_gt': 'b', 'weight': 2},
    ]


@pytest.mark.parametrize(
    ('section', 'line'),
    [
        ({'sources': []}, 'sources must be a list of folders'),
        ({'sources': 'a'}, 'sources must be a list of folders'),
        ({'sources': ['a']}, "entry 1 must be a section, as {dataroot_gt: FOLDER}, not 'a'"),
        ({'sources': [{'dataroot_gt': 'a'}, {'weight': 1}]}, 'entry 2: dataroot_gt is missing'),
        ({'sources': [{'dataroot_gt': 'a', 'dataroot_lg': 'b'}]}, "'dataroot_lg' (did you mean 'dataroot_lq'?)"),
        ({'sources': [{'dataroot_gt': 'a', 'xyz': 'b'}]}, "nothing reads 'xyz'; it may have dataroot_gt, "),
        ({'sources': [{'dataroot_gt': 3}]}, 'dataroot_gt must be text, not 3'),
        ({'sources': [{'dataroot_gt': 'a', 'io_backend': 'lmdb'}]}, "io_backend must be a section, not 'lmdb'"),
        ({'sources': [{'dataroot_gt': 'a', 'recursive': 1}]}, 'recursive must be true or false, not 1'),
        ({'sources': [{'dataroot_gt': 'a', 'filename_tmpl': 'x4'}]}, "filename_tmpl must be text with one {} in it"),
        ({'sources': [{'dataroot_gt': 'a'}], 'dataroot_gt': 'b'}, 'dataroot_gt stands beside sources'),
        ({'sources': [{'dataroot_gt': 'a'}], 'meta_info_file': 'b'}, 'meta_info_file stands beside sources'),
    ],
)  # fmt: skip
def test_entries_that_cannot_be_are_named(section, line):
    with pytest.raises(ValueError) as error:
        read_sources(section, KEYS, 'mine')
    assert str(error.value).startswith('data set mine: ')
    assert line in str(error.value)


@pytest.mark.parametrize(
    ('weights', 'line'),
    [
        ([1, None], 'entry 2: weight is missing; give one to each folder, or to none'),
        ([1, 0], 'entry 2: weight must be a number above 0, not 0'),
        ([1, True], 'entry 2: weight must be a number above 0, not True'),
        ([float('nan'), 1], 'entry 1: weight must be a number above 0, not nan'),
        (['2', 1], "entry 1: weight must be a number above 0, not '2'"),
        ([1e-6, 1], 'entry 1: weight 1e-06 is below 1/10000 of all'),
    ],
)
def test_weights_that_cannot_be_are_named(weights, line):
    with pytest.raises(ValueError, match='data set mine: sources: ') as error:
        read_weights([{'weight': weight} for weight in weights], 'mine')
    assert line in str(error.value)


def test_weights_are_shares():
    assert read_weights([{'weight': 3}, {'weight': 1}], 'x') == [0.75, 0.25]
    assert read_weights([{}, {}], 'x') is None
