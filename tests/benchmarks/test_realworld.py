"""The benchmark on real photographs: every part does what its figures claim, with and without the teacher."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import realworld, realworld_pairs
from realesrgan_pipeline import imresize
from vmambair_arch import Restorer, VmambaIR
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import Image, write_image


def picture(height: int = 96, width: int = 112, seed: int = 0) -> np.ndarray:
    """A smooth random picture, RGB uint8."""
    small = np.random.default_rng(seed).integers(40, 216, (height // 8, width // 8, 3), dtype=np.uint8)
    return imresize(small, 8)


@pytest.fixture(scope='module')
def teacher_file(tmp_path_factory):
    """A generator of the teacher's shape with random parameters, as small as it can be on disk."""
    import vmambair_arch  # noqa: F401  # before basicsr, which it fixes

    # isort: split
    from basicsr.archs.rrdbnet_arch import RRDBNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('teacher') / 'x4plus.pth'
    state = RRDBNet(3, 3, 4, 64, 23, 32).half().state_dict()
    torch.save({'params_ema': state}, path)
    return path


def small_network() -> Restorer:
    torch.manual_seed(0)
    return Restorer(VmambaIR(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, d_state=2, scale=4))


def test_every_run_degrades_alike_and_every_draw_differs():
    truths = [picture(), picture(seed=1)]
    first, second = (list(realworld.degraded(truths, draws=2, crop=64)) for _ in range(2))
    assert len(first) == 4
    for (lq, truth), (lq_again, truth_again) in zip(first, second, strict=True):
        assert lq.shape == (16, 16, 3)
        assert truth.shape == (64, 64, 3)
        np.testing.assert_array_equal(lq, lq_again)
        np.testing.assert_array_equal(truth, truth_again)
    assert not np.array_equal(first[0][0], first[1][0])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 30), st.sampled_from([1, 4]))
def test_a_middle_is_no_larger_than_asked_and_of_whole_multiples(height, width, side, multiple):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    part = realworld.middle(image, side, multiple)
    for got, had in zip(part.shape, image.shape[:2], strict=False):
        assert got == min(had, side) // multiple * multiple


def test_without_a_folder_there_are_photographs_to_look_at():
    pytest.importorskip('skimage')
    photos = realworld.degraded_photographs()
    assert list(photos) == ['chelsea, draw 0', 'chelsea, draw 1', 'rocket, draw 0', 'rocket, draw 1']
    assert all(photo.shape == (64, 64, 3) for photo in photos.values())


def test_a_grid_is_seen_and_a_photograph_has_none():
    image = picture(256, 256)
    assert realworld.grid(image) < 0.1
    pattern = image.copy()
    pattern[::4, ::4] += 8
    assert realworld.grid(pattern) > 1


def test_a_colour_cast_is_seen_though_noise_is_not():
    rng = np.random.default_rng(0)
    pairs = list(realworld.degraded([picture()], draws=1, crop=64))

    def cast(image):
        result = pairs[0][1].astype(int)
        result[..., 2] += 5
        return result.clip(0, 255).astype(np.uint8)

    def noisy(image):
        return (pairs[0][1] + rng.normal(0, 4, pairs[0][1].shape)).round().clip(0, 255).astype(np.uint8)

    assert realworld.measure(cast, pairs, None).colour == pytest.approx(5, abs=0.1)
    assert realworld.measure(noisy, pairs, None).colour < 0.5


def test_without_a_teacher_everything_else_is_written(tmp_path):
    photos = {'a.png': picture(64, 64)}
    results = realworld.run(
        {'set': [picture(256, 256)]}, photos, {'ours': small_network()}, tmp_path, draws=1, crop=256
    )
    assert set(results['sets']['set']['methods']) == {'bicubic', 'ours'}
    assert results == json.loads((tmp_path / 'realworld.json').read_text())
    page = (tmp_path / 'realworld.md').read_text()
    assert page == realworld.table(results)
    assert '| ours |' in page
    assert 'tiles of 48' in results['seams']['ours']
    assert (tmp_path / 'sheet.jpg').exists()
    assert results['photos']['a.png']['bicubic']['colour'] == 0


def test_what_the_teacher_made_is_kept(tmp_path, teacher_file):
    enlarge = realworld.teacher(teacher_file, tmp_path)
    image = picture(16, 16)
    result = enlarge(image)
    assert result.shape == (64, 64, 3)
    (kept,) = tmp_path.iterdir()
    np.testing.assert_array_equal(realworld.read(kept), result)
    write_image(kept, Image(np.zeros((64, 64, 3), np.float32)))
    assert not enlarge(image).any()


def test_another_network_is_no_teacher(tmp_path):
    torch.save({'params_ema': {'conv.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match=r'other\.pth: is not an x4plus generator'):
        realworld.teacher(tmp_path / 'other.pth', None)


def test_pairs_have_a_label_each_and_a_broken_run_goes_on(tmp_path, teacher_file, monkeypatch):
    monkeypatch.setattr(realworld_pairs, 'SIZE', 32)
    write_image(tmp_path / 'photos' / 'one.png', Image(picture(64, 80) / np.float32(255)))
    arguments = ([tmp_path / 'photos'], teacher_file, tmp_path / 'out')
    assert realworld_pairs.make(*arguments, count=2, seed=3) == 2
    before = realworld.read(tmp_path / 'out' / 'gt' / '00001.png')
    (tmp_path / 'out' / 'gt' / '00001.png').unlink()
    assert realworld_pairs.make(*arguments, count=2, seed=3) == 1
    np.testing.assert_array_equal(realworld.read(tmp_path / 'out' / 'gt' / '00001.png'), before)
    sizes = {kind: realworld.read(tmp_path / 'out' / kind / '00000.png').shape[0] for kind in ('gt', 'lq', 'label')}
    assert sizes == {'gt': 32, 'lq': 8, 'label': 32}


def test_some_truths_are_drawn_and_their_own_labels_and_bfloat16_is_refused_where_it_is_slow(
    tmp_path, teacher_file, monkeypatch
):
    monkeypatch.setattr(realworld_pairs, 'SIZE', 32)
    write_image(tmp_path / 'photos' / 'one.png', Image(picture(64, 80) / np.float32(255)))
    photos, plain, drawn = [tmp_path / 'photos'], tmp_path / 'plain', tmp_path / 'drawn'
    realworld_pairs.make(photos, teacher_file, plain, count=1, seed=3)
    realworld_pairs.make(photos, teacher_file, drawn, count=1, seed=3, facades=1)
    truths = [realworld.read(folder / 'gt' / '00000.png') for folder in (plain, drawn)]
    assert not np.array_equal(*truths)
    labels = [realworld.read(folder / 'label' / '00000.png') for folder in (plain, drawn)]
    assert not np.array_equal(labels[0], truths[0])
    np.testing.assert_array_equal(labels[1], truths[1])
    monkeypatch.setattr(realworld_pairs, 'computes_in_bf16', lambda: False)
    with pytest.raises(UserError, match='--bf16: this processor'):
        realworld_pairs.make(photos, teacher_file, drawn, count=1, seed=3, bf16=True)


def test_truths_without_a_teacher_come_from_folders_by_weight(tmp_path, monkeypatch):
    monkeypatch.setattr(realworld_pairs, 'SIZE', 32)
    for name, level in (('dark', 40), ('light', 200), ('unused', 120)):
        write_image(tmp_path / name / 'one.png', Image(np.full((48, 48, 3), level / 255, np.float32)))
    folders = [tmp_path / name for name in ('dark', 'unused', 'light')]
    assert realworld_pairs.make(folders, None, tmp_path / 'out', 40, 1, weights=[3, 0, 1]) == 40
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['gt']
    levels = [realworld.read(path).mean() for path in (tmp_path / 'out' / 'gt').iterdir()]
    assert set(np.round(levels)) == {40, 200}
    assert 20 <= sum(level < 100 for level in levels) <= 38
    for wrong, words in (
        ({'weights': [1]}, '--weights: 1 for 3 folders'),
        ({'weights': [0, 0, 0]}, '--weights: none may be negative'),
        ({'weights': [2, -1, 0]}, '--weights: none may be negative'),
        ({'weights': [float('nan'), 1, 1]}, '--weights: none may be negative'),
        ({'facades': 3}, '--facades: 3 is no share'),
        ({'facades': float('nan')}, '--facades: nan is no share'),
    ):
        with pytest.raises(UserError, match=words):
            realworld_pairs.make(folders, None, tmp_path / 'none', 1, 1, **wrong)
    assert not (tmp_path / 'none').exists()


def test_a_label_has_the_colours_of_the_truth_and_its_own_detail():
    truth = picture(64, 64)
    detail = np.zeros((64, 64, 1), int)
    detail[::2] = 6
    label = (truth.astype(int) - 12 + detail).clip(0, 255).astype(np.uint8)
    corrected = realworld_pairs.with_colours_of(truth, label)
    assert np.abs(corrected.mean(axis=(0, 1)) - truth.mean(axis=(0, 1))).max() < 0.5
    rows = corrected.astype(int).mean(axis=(1, 2)) - truth.astype(int).mean(axis=(1, 2))
    assert np.abs(rows[::2] - rows[1::2]).mean() == pytest.approx(6, abs=0.5)


def test_lines_that_an_input_does_not_show_are_not_learned():
    y, x = np.mgrid[:64, :64]
    lines = np.repeat(((x + y) // 8 % 2 * 200)[..., None], 3, 2).astype(np.uint8)
    small = lines.reshape(16, 4, 16, 4, 3).mean((1, 3)).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, small.shape, np.uint8)
    assert realworld_pairs.shows(small, lines)
    assert realworld_pairs.shows((0.8 * small + 0.2 * noise).astype(np.uint8), lines)
    assert not realworld_pairs.shows(noise, lines)
    assert not realworld_pairs.shows(np.full_like(small, 90), lines)
    assert realworld_pairs.shows(noise, np.full_like(lines, 90))  # a smooth wall under noise
