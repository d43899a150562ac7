"""Files, folders, videos and the command line."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmambair_arch import Restorer, cli
from vmambair_arch.errors import Stopped, UserError
from vmambair_arch.images.formats import SUFFIXES
from vmambair_arch.images.image_io import Image, read_image, write_image
from vmambair_arch.inference import records
from vmambair_arch.inference.restore_files import Report, restore_bytes, restore_files


def make(path, value=0.8, size=(6, 7)):
    write_image(path, Image(np.full((*size, 3), value, np.float32)))
    return path


def tree(folder):
    """Files but the records of what results were made of."""
    paths = (path.relative_to(folder) for path in folder.rglob('*') if not path.is_dir())
    return sorted(str(path) for path in paths if records.FOLDER not in path.parts)


@pytest.fixture
def restorer(halve):
    return Restorer(halve)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    for name in ('a.png', 'b.jpg', 'deep/er/c.webp', 'deep/d.tif', 'E.PNG'):
        make(folder / name)
    (folder / 'notes.txt').write_text('not an image, and not said to be one')
    (folder / '.hidden.png').write_bytes(b'')
    return folder


def test_a_folder_keeps_its_tree(photos, tmp_path, restorer):
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert tree(tmp_path / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp']
    assert len(report.written) == 5
    assert not report.failed
    for path in report.written:
        assert abs(read_image(path).rgb.mean() - 0.4) < 0.01


def test_suffix_format_and_quality(photos, tmp_path, restorer):
    restore_files(photos / 'deep', tmp_path / 'out', restorer, suffix='_clean', format='jpg', quality=30)
    assert tree(tmp_path / 'out') == ['d_clean.jpg', 'er/c_clean.jpg']
    assert cv2.imread(str(tmp_path / 'out/d_clean.jpg')) is not None


@pytest.mark.parametrize(
    ('output', 'written'), [('out.jpg', 'out.jpg'), ('folder', 'folder/a.png'), ('new/x.tif', 'new/x.tif')]
)
def test_a_single_file(photos, tmp_path, restorer, output, written):
    report = restore_files(photos / 'a.png', tmp_path / output, restorer)
    assert report.written == [tmp_path / written]
    assert (tmp_path / written).is_file()


def test_what_somebody_else_made_is_left_alone_unless_told(photos, tmp_path, restorer):
    make(tmp_path / 'out/a.png', 0)
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert [message for _, message in report.failed] == [
        f'{tmp_path / "out/a.png"}: is there and was not made by this command; --overwrite replaces it, '
        'or choose another output'
    ]
    assert len(report.written) == 4
    assert read_image(tmp_path / 'out/a.png').rgb.max() == 0
    report = restore_files(photos, tmp_path / 'out', restorer, overwrite=True)
    assert len(report.written) == 5
    assert read_image(tmp_path / 'out/a.png').rgb.mean() > 0.3


def test_what_was_made_of_the_same_is_skipped_and_of_something_else_made_again(photos, tmp_path, restorer, tiny):
    def again(**options):
        return restore_files(photos, tmp_path / 'out', options.pop('by', restorer), **options)

    assert len(again().written) == 5
    report = again()
    assert (len(report.written), len(report.skipped)) == (0, 5)
    os.utime(photos / 'a.png')  # a copy has another time and the same content
    assert len(again().skipped) == 5
    make(photos / 'a.png', 0.3)
    report = again()
    assert [path.name for path in report.written] == ['a.png']
    assert report.notes[0][1].endswith('(another input)')
    report = again(by=Restorer(tiny))
    assert len(report.written) == 5
    assert all('network' in why for _, why in report.notes if 'made again' in why)
    report = again(by=Restorer(tiny), quality=70)
    assert 'quality None, now 70' in report.notes[0][1]
    assert len(report.written) == 5


def test_a_result_that_was_changed_since_is_not_lost(photos, tmp_path, restorer):
    restore_files(photos, tmp_path / 'out', restorer)
    make(tmp_path / 'out/a.png', 0.1, size=(9, 9))
    make(photos / 'a.png', 0.4)
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert 'a.png: is there and was changed since' in report.failed[0][1]
    assert read_image(tmp_path / 'out/a.png').rgb.shape == (9, 9, 3)


def test_the_rest_goes_on_after_a_bad_file(photos, tmp_path, restorer):
    (photos / 'aa.png').write_bytes(b'')
    (photos / 'ab.jpg').write_text('text')
    (photos / 'deep/cut.png').write_bytes((photos / 'a.png').read_bytes()[:-30])
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert len(report.written) == 5
    assert [path.name for path, _ in report.failed] == ['aa.png', 'ab.jpg', 'cut.png']
    assert all(str(path) in message for path, message in report.failed)
    assert tree(tmp_path / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp']


def test_two_files_of_one_result_get_a_name_each(tmp_path, restorer):
    make(tmp_path / 'in/a.png', 0.2)
    make(tmp_path / 'in/a.jpg', 0.9)
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer, format='png', suffix='_x')
    assert not report.failed
    assert tree(tmp_path / 'out') == ['a.jpg_x.png', 'a_x.png']
    assert abs(read_image(tmp_path / 'out/a_x.png').rgb.mean() - 0.1) < 0.01
    assert abs(read_image(tmp_path / 'out/a.jpg_x.png').rgb.mean() - 0.45) < 0.01
    assert any('since another one becomes a_x.png' in note for _, note in report.notes)


def test_several_inputs_and_patterns(photos, tmp_path, restorer, monkeypatch):
    make(tmp_path / 'one.png')
    make(tmp_path / 'two.jpg')
    monkeypatch.chdir(tmp_path)
    report = restore_files(['*.png', 'two.jpg', 'photos', 'one.png'], 'out', restorer)
    assert tree(tmp_path / 'out') == [
        'one.png', 'photos/E.PNG', 'photos/a.png', 'photos/b.jpg', 'photos/deep/d.tif', 'photos/deep/er/c.webp',
        'two.jpg',
    ]  # fmt: skip
    assert len(report.written) == 7
    with pytest.raises(UserError, match='none-.*: nothing matches this pattern'):
        restore_files(['one.png', 'none-*.png'], 'other', restorer)
    with pytest.raises(UserError, match='gone.png: no such file'):
        restore_files(['one.png', 'gone.png'], 'other', restorer)
    with pytest.raises(UserError, match='the name of one file, but the results are several'):
        restore_files(['one.png', 'two.jpg'], 'other.png', restorer)
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('name', ['x.gif', 'x.jxl', 'x.pgn', 'x.xyz'])
def test_an_ending_that_cannot_be_written_is_refused_before_any_work(photos, tmp_path, restorer, halve, name):
    with pytest.raises(UserError, match=name):
        restore_files(photos / 'a.png', tmp_path / name, restorer)
    assert not halve.shapes
    assert not (tmp_path / name).exists()
    if name != 'x.xyz':
        with pytest.raises(UserError, match=name):
            restore_files(photos, tmp_path / name, restorer)
    restore_files(photos / 'a.png', f'{tmp_path / name}/', restorer)  # a folder, if one says so
    assert tree(tmp_path / name) == ['a.png']


def test_formats_and_transparency_are_checked_before_the_network_runs(tmp_path, restorer, halve):
    clear = Image(np.full((6, 7, 3), 0.8, np.float32), np.full((6, 7), 0.5, np.float32))
    write_image(tmp_path / 'clear.png', clear)
    with pytest.raises(UserError, match='cannot hold the transparency'):
        restore_files(tmp_path / 'clear.png', tmp_path / 'a.jpg', restorer)
    make(tmp_path / 'in/a.png')
    (tmp_path / 'clear.png').rename(tmp_path / 'in/clear.png')
    halve.shapes.clear()
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer, format='jpg')
    assert [path.name for path, _ in report.failed] == ['clear.png']
    assert len(halve.shapes) == 1
    assert [note for _, note in report.notes] == ['lossless before, now JPEG of quality 95']
    wide = np.zeros((1, 9000, 3), np.float32)
    write_image(tmp_path / 'wide.png', Image(wide))
    with pytest.raises(UserError, match='WEBP holds 16383 pixels a side, not 18000'):
        restore_files(tmp_path / 'wide.png', tmp_path / 'wide.webp', Restorer(halve, outscale=2))


def test_names_that_say_little(tmp_path, restorer):
    make(tmp_path / 'in/a.jpg').rename(tmp_path / 'in/a.jfif')
    make(tmp_path / 'in/b.png').rename(tmp_path / 'in/nameless')
    write_image(tmp_path / 'in/c.png', Image(np.ones((5, 5, 3), np.float32), np.full((5, 5), 0.3, np.float32)))
    (tmp_path / 'in/c.png').rename(tmp_path / 'in/c.jpg')
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert tree(tmp_path / 'out') == ['a.jfif', 'c.png', 'nameless.png']
    assert ('c.png', 'is PNG in truth, written as .png') in [(path.name, note) for path, note in report.notes]


def test_files_that_are_not_taken_are_counted_and_named(photos, tmp_path, restorer):
    for number in range(6):
        (photos / f'{number}.txt').write_text('x')
    (photos / 'link').symlink_to(tmp_path)
    lines = list(restore_files(photos, tmp_path / 'out', restorer).lines())
    assert 'not taken: 0.txt, 1.txt, 2.txt, 3.txt and 3 more: no image or video by its name' in lines
    assert 'not taken: .hidden.png: hidden' in lines
    assert 'not taken: link: symlinked folder' in lines


def test_results_beside_their_inputs(photos, restorer):
    for _ in range(2):
        report = restore_files(photos, photos, restorer, suffix='_clean')
        assert not report.failed
        assert [name for name in tree(photos) if '_clean' in name] == [
            'E_clean.PNG', 'a_clean.png', 'b_clean.jpg', 'deep/d_clean.tif', 'deep/er/c_clean.webp',
        ]  # fmt: skip
    assert len(report.skipped) == 5
    assert sum(reason == 'result of an earlier run' for _, reason in report.ignored) == 5
    make(photos / 'new.png')
    make(photos / 'new_clean.png', 0.1)  # somebody's own
    report = restore_files(photos, photos, restorer, suffix='_clean')
    assert 'would overwrite the input' in report.failed[0][1]
    assert abs(read_image(photos / 'new_clean.png').rgb.mean() - 0.1) < 0.01


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png'])
def test_moving_pictures_frame_by_frame(tmp_path, halve_x2, suffix):
    frames = [PIL.Image.new('RGB', (12, 10), (60 + 40 * number, 80, 90)) for number in range(3)]
    frames[0].save(tmp_path / f'a{suffix}', save_all=True, append_images=frames[1:], duration=[50, 70, 90], loop=3)
    restore_files(tmp_path / f'a{suffix}', tmp_path / 'out', Restorer(halve_x2))
    with PIL.Image.open(tmp_path / f'out/a{suffix}') as result:
        assert (result.n_frames, result.size, result.info['loop']) == (3, (24, 20), 3)
        reds, durations = [], []
        for number in range(3):
            result.seek(number)
            reds.append(np.asarray(result.convert('RGB'))[..., 0].mean())
            durations.append(result.info['duration'])
    np.testing.assert_allclose(reds, [30, 50, 70], atol=3)
    assert durations == [50, 70, 90]
    with pytest.raises(UserError, match='has 3 frames, which .jpg cannot hold'):
        restore_files(tmp_path / f'a{suffix}', tmp_path / 'a.jpg', Restorer(halve_x2))


def test_a_still_gif_becomes_a_png(tmp_path, restorer):
    PIL.Image.new('RGB', (12, 10), (100, 80, 90)).save(tmp_path / 'a.gif')
    report = restore_files(tmp_path / 'a.gif', tmp_path / 'out', restorer)
    assert tree(tmp_path / 'out') == ['a.png']
    assert report.notes[0][1] == 'written as .png'


def test_the_bar_moves_within_a_picture(tmp_path, tiny):
    seen = []
    picture = np.random.default_rng(0).uniform(size=(40, 90, 3)).astype(np.float32)
    Restorer(tiny, tile=48, overlap=8)(picture, progress=lambda *args: seen.append(args))
    done, totals = zip(*seen, strict=True)
    blocks = sum(type(module).__name__ == 'OSSBlock' for module in tiny.modules())
    tiles = totals[0] // blocks
    assert tiles > 1
    assert set(totals) == {tiles * blocks}
    assert done[-1] == totals[-1]
    assert list(done) == sorted(done)
    assert len(set(done)) >= tiles * blocks - 1


def test_single_bad_inputs(tmp_path, restorer, photos):
    (tmp_path / 'bad.png').write_text('x')
    (tmp_path / 'empty').mkdir()
    for source, message in [
        ('bad.png', 'bad.png: is no PNG'),
        ('gone.png', 'gone.png: no such file or folder'),
        ('empty', 'empty: no images in this folder'),
    ]:
        with pytest.raises(UserError, match=message) as error:
            restore_files(tmp_path / source, tmp_path / 'out', restorer)
        assert error.value.exit_code == 2
    make(tmp_path / 'file.png')
    with pytest.raises(UserError, match='is a file, but'):
        restore_files(photos, tmp_path / 'file.png', restorer)
    for options, message in [
        ({'suffix': '/../x'}, 'path separator'),
        ({'format': 'gif'}, "format 'gif'"),
        ({'quality': 0}, 'quality'),
        ({'max_pixels': 41}, 'too large'),
    ]:
        with pytest.raises(UserError, match=message):
            restore_files(tmp_path / 'file.png', tmp_path / 'out', restorer, **options)
    with pytest.raises(UserError, match='cannot become that'):
        restore_files(tmp_path / 'file.png', tmp_path / 'out.mp4', restorer)
    assert not (tmp_path / 'out').exists()


# one run after another


def told(report, reason):
    """Names of the files that were not taken for that reason."""
    return sorted(path.name for path, why in report.ignored if why == reason)


RESULT, TWICE = 'result of an earlier run', 'named twice, restored once'


@pytest.mark.parametrize('below', ['step1', 'work/step1', 'photos-clean', 'photos/../step1'])
@pytest.mark.parametrize('suffix', ['', '_clean'])
@pytest.mark.parametrize('gone', [False, True])
def test_results_of_one_step_are_the_input_of_the_next(photos, tmp_path, restorer, halve_x2, below, suffix, gone):
    restore_files(photos, tmp_path / below, restorer, suffix=suffix)
    make(tmp_path / below / 'new.png')
    if gone:
        (photos / 'a.png').unlink()
    for output in ('step2', 'work'):
        report = restore_files(tmp_path / below, tmp_path / output, Restorer(halve_x2))
        assert not report.failed
        assert len(report.written) == 6
        assert told(report, RESULT) == []
    assert read_image(tmp_path / f'work/a{suffix}.png').rgb.shape == (12, 14, 3)
    # and in the same folder, which takes none of what it made itself
    for again in (0, 6):
        report = restore_files(tmp_path / below, tmp_path / below, Restorer(halve_x2), suffix='_x2')
        assert (len(report.skipped), len(report.failed)) == (again, 0)
        assert len(told(report, RESULT)) == again


def test_a_result_whose_original_is_gone_is_no_input_of_its_own_run(photos, restorer):
    restore_files(photos, photos, restorer, suffix='_clean')
    (photos / 'a.png').unlink()
    report = restore_files(photos, photos, restorer, suffix='_clean')
    assert 'a_clean.png' in told(report, RESULT)
    assert not any('_clean_clean' in name for name in tree(photos))
    for original in ('b.jpg', 'E.PNG', 'deep/d.tif', 'deep/er/c.webp'):
        (photos / original).unlink()
    with pytest.raises(UserError, match=r'photos: all 5 pictures are of an earlier run into .*; choose another output'):
        restore_files(photos, photos, restorer, suffix='_clean')
    assert len(restore_files(photos, photos.parent / 'out', restorer).written) == 5


def test_records_without_a_path_are_understood(photos, tmp_path, restorer):
    """As they were once."""
    restore_files(photos, photos, restorer, suffix='_clean')
    restore_files(photos / 'a.png', tmp_path / 'step1', restorer)
    for path in (*photos.rglob('.vmambair/*.json'), *tmp_path.glob('step1/.vmambair/*.json')):
        record = json.loads(path.read_text())
        del record['source']['path'], record['replaces']
        path.write_text(json.dumps(record))
    report = restore_files(photos, photos, restorer, suffix='_clean')
    assert (len(report.skipped), len(told(report, RESULT)), report.failed) == (5, 5, [])
    assert len(restore_files(tmp_path / 'step1', tmp_path / 'step2', restorer).written) == 1
    make(tmp_path / 'other/a.png', 0.3)
    report = restore_files(tmp_path / 'other', tmp_path / 'step1', restorer)
    assert [why for _, why in report.notes] == ['made again, since it was made of something else (another input)']


@pytest.mark.parametrize(
    'inputs',
    [
        ['photos', 'photos/a.png'],
        ['photos/a.png', 'photos'],
        ['photos', 'photos/deep'],
        ['photos/deep', 'photos', 'photos/deep/er'],
        ['photos', 'photos/../photos'],
        ['photos/a.png', 'photos/deep/../a.png', 'link/a.png'],
        ['photos', 'link'],
        ['photos/*', 'photos/a.png'],
        ['photos/**'],
        ['photos/**/*', 'photos'],
        ['photos/**/*.png', 'photos/*.png'],
    ],
)
def test_a_file_that_is_named_twice_is_restored_once(photos, tmp_path, restorer, halve, monkeypatch, inputs):
    (tmp_path / 'link').symlink_to(photos)
    (photos / 'notes.txt').unlink()
    monkeypatch.chdir(tmp_path)
    report = restore_files(inputs, 'out', restorer)
    assert not report.failed
    results = [record(path)['source']['path'] for path in report.written]
    assert len(results) == len(set(results)) == len(report.written) == len(halve.shapes)
    assert sorted(map(str, report.written)) == [f'out/{name}' for name in tree(tmp_path / 'out')]
    whole = [one for one in inputs if one in ('photos', 'link', 'photos/**', 'photos/*')]
    assert not whole or len(results) == 5
    assert not any('since another one' in note for _, note in report.notes)
    assert len(inputs) == 1 or told(report, TWICE)
    again = restore_files(inputs, 'out', restorer)
    assert (len(again.skipped), again.written, again.failed) == (len(results), [], [])


def record(result):
    return json.loads(records.record_path(Path(result)).read_text())


@given(
    inputs=st.lists(
        st.sampled_from(
            ['in', 'in/s', 'in/s/t', 'in/a.png', 'in/s/a.png', './in/s/a.png', 'in/*.png', 'in/**/*.png', 'in/*', '*',
             'in/**', 'out', 'in/a.jpg', 'in/s/../a.png']
        ),
        min_size=1,
        max_size=4,
    ),
    suffix=st.sampled_from(['', '_x']),
    output=st.sampled_from(['out', 'in/out', 'in', 'in/s', '.']),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_inputs_there_are_each_has_one_result_and_a_second_run_makes_none(
    tmp_path_factory, inputs, suffix, output
):
    folder = tmp_path_factory.mktemp('runs')
    files = ['in/a.png', 'in/a.jpg', 'in/s/a.png', 'in/s/t/a.png']
    for number, name in enumerate(files):
        make(folder / name, number / 10)
    restorer = Restorer(torch.nn.Identity())
    before = {name: (folder / name).read_bytes() for name in files}
    with contextlib.chdir(folder):
        try:
            first = restore_files(inputs, output, restorer, suffix=suffix)
        except UserError:
            return
        second = restore_files(inputs, output, restorer, suffix=suffix)
    assert {name: (folder / name).read_bytes() for name in files} == before
    if first.failed:
        return
    sources = [record(folder / path)['source']['path'] for path in first.written]
    assert len(sources) == len(set(sources)) == len(set(first.written)) == len(first.written)
    assert (second.written, second.failed) == ([], [])
    assert sorted(second.skipped) == sorted(first.written)


@pytest.mark.parametrize(
    ('pattern', 'output', 'suffix'),
    [
        ('photos/**/*.png', 'photos/out', ''),
        ('photos/*.png', 'photos', '_clean'),
        ('photos/**/*.png', 'photos', '_clean'),
        ('photos/**', 'photos', '_clean'),
        ('photos/**', 'photos/out', ''),
        ('**/*.png', 'photos/out', ''),
        ('*/*.png', '.', '_clean'),
        ('*', 'out', ''),
        ('*/', 'out', ''),
        ('*/*/', 'photos/out', ''),
    ],
)
@pytest.mark.parametrize('by', ['us', 'the shell'])
def test_a_second_run_over_a_pattern_takes_none_of_its_results(
    photos, tmp_path, restorer, monkeypatch, pattern, output, suffix, by
):
    monkeypatch.chdir(tmp_path)
    (photos / 'notes.txt').unlink()
    if by == 'the shell' and '**' in pattern and suffix == '':
        pytest.skip('what lies in a folder that was not named cannot be told from files that were')

    def run():
        inputs = [pattern] if by == 'us' else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 as a shell
        return restore_files(inputs, output, restorer, suffix=suffix)

    first = run()
    assert first.written
    made = tree(tmp_path)
    for _ in range(2):
        again = run()
        assert not again.failed
        assert not again.written
        assert sorted(again.skipped) == sorted(first.written)
        assert tree(tmp_path) == made


def test_an_output_folder_among_the_inputs_is_set_aside_and_said(photos, tmp_path, restorer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'results/mine.png')
    report = restore_files(['photos', 'results', 'photos/a.png'], 'results/', restorer)
    assert told(report, 'the output folder') == ['results']
    assert len(report.written) == 5
    with pytest.raises(UserError, match='is the input folder'):
        restore_files(['results', 'results/'], 'results', restorer)


def test_files_of_one_name_from_several_folders_get_a_name_each(tmp_path, restorer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [f'{letter}/photos' for letter in 'xyzuv']
    for number, folder in enumerate(folders):
        make(tmp_path / folder / 'a.png', number / 10)
        make(tmp_path / folder / 'nameless.png', number / 10).rename(tmp_path / folder / 'nameless')
    make(tmp_path / 'z/photos/a.png-2.png', 0.9)
    report = restore_files(folders, 'out', restorer)
    assert not report.failed
    names = ['a.png', 'a.png-2.png', 'a.png-3.png', 'a.png-4.png', 'a.png-5.png', 'a.png.png']
    names += ['nameless-2.png', 'nameless-3.png', 'nameless-4.png', 'nameless-5.png', 'nameless.png']
    assert tree(tmp_path / 'out') == [f'photos/{name}' for name in names]
    values = sorted(round(float(read_image(path).rgb.mean()) * 20) for path in tmp_path.glob('out/photos/a*'))
    assert values == [0, 1, 2, 3, 4, 9]
    assert len(restore_files(folders, 'out', restorer).skipped) == 11


@pytest.mark.parametrize('both', ['files', 'folders'])
@pytest.mark.parametrize('options', [{}, {'quality': 70}])
def test_another_input_does_not_replace_the_result_of_one_that_is_there(tmp_path, restorer, both, options):
    for number, folder in enumerate('xy'):
        make(tmp_path / folder / 'photos/a.png', (1 + number) / 4)
        os.utime(tmp_path / folder / 'photos/a.png', (7, 7))  # the same size and time, as from an archive
    inputs = [tmp_path / folder / 'photos' / ('a.png' if both == 'files' else '') for folder in 'xy']
    restore_files(inputs[0], tmp_path / 'res', restorer)
    before = (tmp_path / 'res/a.png').read_bytes()
    report = restore_files(inputs[1:], tmp_path / 'res/', restorer, **options) if both == 'folders' else None
    if report is None:
        with pytest.raises(UserError, match=r'res/a.png: is there and was made of .*x/photos/a.png; --overwrite'):
            restore_files(inputs[1], tmp_path / 'res', restorer, **options)
    else:
        assert re.search(r'res/a.png: is there and was made of .*x/photos/a.png; --overwrite', report.failed[0][1])
    assert (tmp_path / 'res/a.png').read_bytes() == before
    assert restore_files(inputs[1], tmp_path / 'res', restorer, overwrite=True).written


def test_an_input_that_moved_or_was_copied_keeps_its_result(photos, tmp_path, restorer):
    restore_files(photos, tmp_path / 'out', restorer)
    shutil.copytree(photos, tmp_path / 'copy')
    assert len(restore_files(tmp_path / 'copy', tmp_path / 'out', restorer).skipped) == 5
    photos.rename(tmp_path / 'moved')
    make(tmp_path / 'moved/a.png', 0.1)
    report = restore_files(tmp_path / 'moved', tmp_path / 'out', restorer)
    assert ([path.name for path in report.written], len(report.skipped)) == (['a.png'], 4)


def test_a_name_may_go_to_another_input_of_the_same_run(tmp_path, restorer):
    make(tmp_path / 'in/a.jpg', 0.2)
    restore_files(tmp_path / 'in', tmp_path / 'out', restorer, format='png')
    make(tmp_path / 'in/a.png', 0.8)
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer, format='png')
    assert not report.failed
    assert tree(tmp_path / 'out') == ['a.jpg.png', 'a.png']


@pytest.mark.parametrize('kind', ['image', 'moving'])
@pytest.mark.parametrize('moment', ['before', 'after'])
@pytest.mark.parametrize('there', [False, True])
def test_a_run_that_is_killed_as_it_writes_leaves_nothing_foreign(
    tmp_path, restorer, halve, monkeypatch, kind, moment, there
):
    """Killed just before or after the result gets its name."""
    frames = [PIL.Image.new('RGB', (12, 10), (60 + 40 * number, 80, 90)) for number in range(3)]
    (tmp_path / 'in').mkdir()
    source = tmp_path / f'in/a.{"gif" if kind == "moving" else "png"}'
    frames[0].save(source, save_all=kind == 'moving', append_images=frames[1:])
    if there:
        restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    real = Path.replace

    def replace(path, target):
        if Path(target) != tmp_path / 'out' / source.name:
            return real(path, target)
        if moment == 'after':
            real(path, target)
        os.link(path if moment == 'before' else target, tmp_path / 'kept')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'replace', replace)
        with pytest.raises(KeyboardInterrupt):
            restore_files(tmp_path / 'in', tmp_path / 'out', Restorer(halve, outscale=2))
    report = restore_files(tmp_path / 'in', tmp_path / 'out', Restorer(halve, outscale=2))
    assert not report.failed
    assert len(report.skipped) == (moment == 'after')
    again = restore_files(tmp_path / 'in', tmp_path / 'out', Restorer(halve, outscale=2))
    assert len(again.skipped) == 1


def test_records_that_cannot_be_written_are_found_before_the_work(photos, tmp_path, restorer, monkeypatch):
    real = tempfile.NamedTemporaryFile

    def refuse(*args, dir, **options):
        if Path(dir).name == records.FOLDER:
            raise PermissionError(13, 'Permission denied')
        return real(*args, dir=dir, **options)

    (tmp_path / 'out' / records.FOLDER).mkdir(parents=True)
    monkeypatch.setattr('vmambair_arch.files.tempfile.NamedTemporaryFile', refuse)
    monkeypatch.setattr(restorer, 'restore', lambda *args, **options: pytest.fail('it was restored for nothing'))
    with pytest.raises(UserError, match=r'out/\.vmambair: nothing can be written here \(Permission denied\)'):
        restore_files(photos / 'a.png', tmp_path / 'out', restorer)


# where results may go


def test_the_input_is_never_overwritten(photos, tmp_path, restorer):
    before = (photos / 'a.png').read_bytes()
    (tmp_path / 'link').symlink_to(photos)
    for source, output in [
        (photos, photos),
        (photos, tmp_path / 'link'),
        (photos / 'a.png', photos),
        (photos / 'a.png', photos / 'a.png'),
        (photos / 'a.png', tmp_path / 'link'),
    ]:
        with pytest.raises(UserError, match='overwritten|is the input folder'):
            restore_files(source, output, restorer, overwrite=True)
    assert (photos / 'a.png').read_bytes() == before


def test_an_output_inside_the_input_is_not_an_input(photos, restorer):
    for _ in range(2):
        restore_files(photos, photos / 'out', restorer, overwrite=True)
    assert tree(photos / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp']


def test_symlinks_of_the_input(photos, tmp_path, restorer):
    make(tmp_path / 'elsewhere/x.png')
    (photos / 'file.png').symlink_to(tmp_path / 'elsewhere/x.png')
    (photos / 'folder').symlink_to(tmp_path / 'elsewhere')
    (photos / 'deep/circle').symlink_to(photos)
    (photos / 'dangling.png').symlink_to(tmp_path / 'gone.png')
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert tree(tmp_path / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp', 'file.png']
    assert [path.name for path, _ in report.failed] == ['dangling.png']


def test_symlinks_in_the_output_lead_nowhere(photos, tmp_path, restorer):
    (tmp_path / 'victim').mkdir()
    (tmp_path / 'secret.png').write_bytes(b'secret')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/deep').symlink_to(tmp_path / 'victim')
    (tmp_path / 'out/a.png').symlink_to(tmp_path / 'secret.png')
    report = restore_files(photos, tmp_path / 'out', restorer, overwrite=True)
    assert sorted(path.name for path, _ in report.failed) == ['c.webp', 'd.tif']
    assert all('leads out of the output folder' in message for _, message in report.failed)
    assert not tree(tmp_path / 'victim')
    assert (tmp_path / 'secret.png').read_bytes() == b'secret'  # the link was replaced, not followed
    assert not (tmp_path / 'out/a.png').is_symlink()


# ranks


def test_ranks_share_a_folder(photos, tmp_path, restorer, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    done = []
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        report = restore_files(photos, tmp_path / 'out', restorer)
        assert not report.skipped
        assert list(report.lines())[-1].endswith(f'(share {int(rank) + 1} of 2)')
        done.append(len(report.written))
    assert done == [3, 2]
    assert len(tree(tmp_path / 'out')) == 5


@pytest.mark.parametrize(
    'variables',
    [{'RANK': '1'}, {'WORLD_SIZE': '4'}, {'RANK': ''}, {'RANK': '0', 'WORLD_SIZE': '1'}, {'LOCAL_RANK': '3'}],
)
def test_variables_that_say_nothing_of_a_share_leave_every_file(photos, tmp_path, restorer, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert len(report.written) == 5
    assert not any('share' in line for line in report.lines())


@pytest.mark.parametrize(
    ('rank', 'ranks'),
    [('', '2'), ('x', '2'), ('1', 'two'), ('2', '2'), ('-1', '2'), ('0', '0'), ('1.0', '2'), ('0', '')],
)
def test_ranks_that_are_none_are_refused(photos, tmp_path, restorer, halve, monkeypatch, rank, ranks):
    monkeypatch.setenv('RANK', rank)
    monkeypatch.setenv('WORLD_SIZE', ranks)
    with pytest.raises(UserError, match=f"RANK is '{rank}' and WORLD_SIZE '{ranks}'") as error:
        restore_files(photos, tmp_path / 'out', restorer)
    assert error.value.exit_code == 2
    assert not halve.shapes


@pytest.mark.slow
def test_torchrun(photos, tmp_path, checkpoint):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '-m', 'vmambair_arch', 'restore']
    command += [str(photos), '-o', str(tmp_path / 'out'), '-m', str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r'(\d) restored', done.stdout)) == ['2', '3']
    assert len(tree(tmp_path / 'out')) == 5


# stopping


def test_ctrl_c_leaves_no_half_file(photos, tmp_path, restorer, monkeypatch):
    real, calls = Restorer.restore, []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Restorer, 'restore', stop)
    monkeypatch.setattr(Restorer, 'workers', lambda self, pixels: 1)  # one after the other, so that two are done
    with pytest.raises(KeyboardInterrupt):
        restore_files(photos, tmp_path / 'out', restorer)
    assert len(tree(tmp_path / 'out')) == 2
    for name in tree(tmp_path / 'out'):
        read_image(tmp_path / 'out' / name)


def test_a_signal_to_the_command(tmp_path, checkpoint):
    for number in range(200):
        make(tmp_path / f'in/{number:03}.png', size=(64, 64))
    command = [sys.executable, '-m', 'vmambair_arch', 'restore', str(tmp_path / 'in')]
    process = subprocess.Popen(
        [*command, '-o', str(tmp_path / 'out'), '-m', str(checkpoint)],
        stderr=subprocess.PIPE,
        text=True,
        # A test run that was itself started in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(list(tmp_path.glob('out/[!.]*'))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'Traceback' not in stderr
    written = tree(tmp_path / 'out')
    assert 3 <= len(written) < 200
    for name in written:
        read_image(tmp_path / 'out' / name)


# the command


def test_where_results_went():
    assert list(Report([Path('out', 'a.png'), Path('out', 'sub', 'b.png')]).lines()) == ['2 restored into out, 0 bad']
    assert list(Report([Path('a.png'), Path('b.png')]).lines()) == ['2 restored into ., 0 bad']
    assert list(Report([Path('a.png')]).lines()) == ['1 restored into a.png, 0 bad']


@pytest.mark.parametrize('name', ['bad\nname', '\x1b[31mred', 'cr\rcr'])
def test_names_with_control_characters_take_a_line_each(tmp_path, restorer, capsys, name):
    make(tmp_path / 'in' / f'{name}.png')
    (tmp_path / 'in' / f'{name}.jpg').write_text('x')
    (tmp_path / 'in' / f'{name}.txt').write_text('x')
    lines = list(restore_files(tmp_path / 'in', tmp_path / 'out', restorer, report_seams=True).lines())
    assert len(lines) == 4
    escaped = name.encode('unicode_escape').decode()
    assert all(f'{escaped}.{ending}' in line for line, ending in zip(lines, ('png', 'txt', 'jpg'), strict=False))
    assert not any(name in line for line in [*lines, capsys.readouterr().err])


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        (['a.png'], 'afile: is a file whose name says no format'),
        (['a.png', 'b.png'], 'afile: is a file, but the results'),
        (['folder'], 'afile: is a file, but the results'),
    ],
)
def test_an_output_that_is_a_file_without_an_ending(tmp_path, restorer, monkeypatch, inputs, message):
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b.png', 'folder/a.png'):
        make(tmp_path / name)
    (tmp_path / 'afile').write_text('x')
    with pytest.raises(UserError, match=message):
        restore_files(inputs, 'afile', restorer, overwrite=True)
    assert (tmp_path / 'afile').read_text() == 'x'


def test_the_command(photos, tmp_path, checkpoint, capsys):
    (photos / 'bad.png').write_text('x')
    arguments = ['restore', str(photos), '-o', str(tmp_path / 'out'), '-m', str(checkpoint)]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert re.search(r'5 restored into .*out, 1 bad', out)
    assert re.search(r'bad: .*bad\.png: is no PNG', out)
    assert '100%' in err
    (photos / 'bad.png').unlink()
    assert cli.main(arguments) == 0
    assert '0 restored, 5 existed' in capsys.readouterr().out
    assert cli.main(['restore', str(tmp_path / 'gone'), '-m', str(checkpoint)]) == 2
    assert 'gone: no such file or folder' in capsys.readouterr().err


def pipe(arguments, data=b''):
    command = [sys.executable, '-m', 'vmambair_arch', 'restore', *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_a_pipe(tmp_path, checkpoint, tiny):
    data = make(tmp_path / 'a.webp', size=(40, 50)).read_bytes()
    done = pipe(['-', '-m', checkpoint], data)
    assert done.returncode == 0, done.stderr
    assert done.stdout[8:12] == b'WEBP'
    done = pipe(['-', '-m', checkpoint, '-o', tmp_path / 'out.png'], data)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        read_image(tmp_path / 'out.png').rgb, Restorer(tiny)(read_image(tmp_path / 'a.webp').rgb), atol=0.003
    )
    done = pipe([tmp_path / 'a.webp', '-m', checkpoint, '-o', '-', '--format', 'png'])
    assert done.stdout[:4] == b'\x89PNG'
    done = pipe(['-', '-m', checkpoint], b'no picture')
    assert (done.returncode, done.stdout) == (2, b'')
    assert b'error: stdin: is no PNG' in done.stderr


def test_a_pipe_into_a_format_that_is_not_written(tmp_path, checkpoint, monkeypatch, capsys):
    data = make(tmp_path / 'a.webp', size=(40, 50)).read_bytes()
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
    assert cli.main(['restore', '-', '-m', str(checkpoint), '-o', str(tmp_path / 'x.gif')]) == 2
    assert 'x.gif' in capsys.readouterr().err
    assert not (tmp_path / 'x.gif').exists()


def test_short_flags_of_real_esrgan(photos, tmp_path, checkpoint):
    flags = ['-i', str(photos / 'a.png'), '-o', str(tmp_path / 'out'), '-n', str(checkpoint), '-s', '2', '-t', '32']
    assert cli.main(['restore', *flags, '--suffix', 'x']) == 0
    assert tree(tmp_path / 'out') == ['ax.png']
    assert read_image(tmp_path / 'out/ax.png').rgb.shape == (12, 14, 3)


@pytest.mark.parametrize(('wanted', 'said'), [(None, False), ('0.5', False), ('1', False), ('1.5', True), ('4', True)])
def test_a_size_that_is_not_the_networks_own_is_said(photos, tmp_path, checkpoint, capsys, wanted, said):
    """`-s 4` where --task is forgotten gave a picture without rain, stretched."""
    flags = [] if wanted is None else ['-s', wanted]
    assert (
        cli.main(['restore', str(photos / 'a.png'), '-o', str(tmp_path / 'o.png'), '-m', str(checkpoint), *flags]) == 0
    )
    assert (f'bicubic interpolation the rest of {wanted}' in capsys.readouterr().err) == said


def test_a_checkpoint_that_is_none(photos, tmp_path, capsys):
    (tmp_path / 'bad.pth').write_bytes(b'no checkpoint')
    for model in ('bad.pth', 'gone.pth'):
        assert cli.main(['restore', str(photos), '-o', str(tmp_path / 'out'), '-m', str(tmp_path / model)]) == 2
        assert model in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_an_output_that_cannot_be_written(photos, tmp_path, restorer):
    if os.geteuid() == 0:
        (tmp_path / 'out').write_text('a file where the folder should be')
    else:
        (tmp_path / 'out').mkdir(mode=0o500)
    with pytest.raises(UserError, match='out'):
        restore_files(photos / 'a.png', tmp_path / 'out', restorer)


def test_small_images_side_by_side_are_what_they_are_alone(tmp_path, tiny):
    """Same files, same report in the same order, the same number of threads afterwards, bad files noted."""
    folder = tmp_path / 'photos'
    for number in range(7):
        make(folder / f'{number}.png', size=(20 + number, 30))
    (folder / '3.png').write_bytes(b'broken')
    before = torch.get_num_threads()
    reports = {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            reports[threads] = restore_files(folder, tmp_path / str(threads), Restorer(tiny, device='cpu'))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for number in (0, 1, 2, 4, 5, 6):
        alone, beside = ((tmp_path / str(threads) / f'{number}.png').read_bytes() for threads in (1, 3))
        assert alone == beside
    names = [[path.name for path in report.written] for report in reports.values()]
    assert names[0] == names[1] == [f'{number}.png' for number in (0, 1, 2, 4, 5, 6)]
    assert [path.name for path, _ in reports[3].failed] == ['3.png']


def test_an_interrupt_leaves_the_rest_of_small_images(tmp_path, tiny, monkeypatch):
    folder = tmp_path / 'photos'
    for number in range(30):
        make(folder / f'{number:02}.png')
    before = torch.get_num_threads()
    restorer = Restorer(tiny, device='cpu')
    real, calls = restorer.restore, []

    def interrupted(image, **options):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(image, **options)

    monkeypatch.setattr(restorer, 'restore', interrupted)
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            restore_files(folder, tmp_path / 'out', restorer)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(calls) < 30
    assert len(tree(tmp_path / 'out')) == len(calls) - 1
    for name in tree(tmp_path / 'out'):
        read_image(tmp_path / 'out' / name)


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png'])
@pytest.mark.parametrize('kind', ['played once', 'cover', 'lossless'])
def test_a_moving_picture_stays_what_it_is(tmp_path, suffix, kind):
    rng = np.random.default_rng(0)
    noise = [PIL.Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)) for _ in range(3)]
    more = {
        'played once': {} if suffix == '.gif' else {'loop': 1},
        'cover': {'default_image': True} if suffix == '.png' else {'loop': 0},
        'lossless': {'lossless': True, 'loop': 0},
    }[kind]
    noise[0].save(tmp_path / f'a{suffix}', save_all=True, append_images=noise[1:], duration=50, **more)
    restore_files(tmp_path / f'a{suffix}', tmp_path / 'out', Restorer(torch.nn.Identity()))
    with PIL.Image.open(tmp_path / f'a{suffix}') as source, PIL.Image.open(tmp_path / f'out/a{suffix}') as result:
        assert result.info.get('loop') == source.info.get('loop')
        covers = 1 if kind == 'cover' and suffix == '.png' else 0
        assert result.n_frames == source.n_frames - covers
        if kind == 'lossless' and suffix != '.gif':
            for number in range(3):
                source.seek(number)
                result.seek(number)
                np.testing.assert_array_equal(np.asarray(source.convert('RGB')), np.asarray(result.convert('RGB')))


def test_a_name_as_long_as_names_can_be(tmp_path, restorer):
    for name in (f'{"x" * 251}.png', f'{"x" * 246}.png', f'{"雨" * 83}.png'):
        make(tmp_path / 'in' / name)
    first = restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert (len(first.written), first.failed) == (3, [])
    again = restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert (len(again.skipped), again.failed) == (3, [])
    longer = restore_files(tmp_path / 'in', tmp_path / 'out', restorer, suffix='_clean')
    assert len(longer.failed) == 3
    assert all('name too long' in why for _, why in longer.failed)
    with pytest.raises(UserError, match='name too long'):
        restore_files(tmp_path / ('x' * 300), tmp_path / 'out', restorer)


@pytest.mark.parametrize(
    ('raised', 'why'),
    [
        (MemoryError(), 'a.png: is too large for the memory'),
        (RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory: you tried'), 'a.png: is too large for'),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 'a.png: is too large'),
        (PermissionError(13, 'Permission denied', 'somewhere'), r'somewhere: cannot be used \(Permission denied'),
        (OSError(36, 'File name too long'), r'a.png: cannot be used \(File name too long'),
    ],
)
@pytest.mark.parametrize('count', [1, 3])
def test_what_is_wrong_with_one_file_does_not_end_the_others(tmp_path, restorer, monkeypatch, raised, why, count):
    for name in 'abc'[:count]:
        make(tmp_path / 'in' / f'{name}.png')
    real = restorer.restore
    monkeypatch.setattr(restorer, 'workers', lambda pixels: 1)

    def restore(image, **options):
        if not seen:
            seen.append(1)
            raise raised
        return real(image, **options)

    seen: list[int] = []
    monkeypatch.setattr(restorer, 'restore', restore)
    if count == 1:
        with pytest.raises(UserError, match=why):
            restore_files(tmp_path / 'in/a.png', tmp_path / 'x.png', restorer)
        return
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert len(report.written) == 2
    assert re.search(why, report.failed[0][1])


def fails_on(restorer, monkeypatch, numbers, fail):
    """Makes the pictures of these numbers, in the order they come, fail by `fail()`."""
    real, seen = restorer.restore, itertools.count()

    def restore(image, **options):
        return fail() if next(seen) in numbers else real(image, **options)

    monkeypatch.setattr(restorer, 'restore', restore)


def raises(error, cause=None):
    def fail():
        raise error from cause

    return fail


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize(
    ('fail', 'why'),
    [
        (lambda: [][1], 'IndexError: list index out of range'),
        (lambda: torch.from_numpy(np.ones(3)[::-1]), 'ValueError: At least one stride'),
        (lambda: cv2.cvtColor(np.ones(3), 6), 'error: OpenCV'),
        (raises(RuntimeError('a kernel\nsaid so')), 'RuntimeError: a kernel said so'),
        (raises(AssertionError()), 'AssertionError: '),
    ],
)
def test_our_own_faults_cost_their_files_alone_and_can_be_reported(
    tmp_path, restorer, monkeypatch, caplog, fail, why, workers
):
    for name in 'abcde':
        make(tmp_path / 'in' / f'{name}.png')
    monkeypatch.setattr(restorer, 'workers', lambda pixels: workers)
    fails_on(restorer, monkeypatch, {1, 3}, fail)
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert (len(report.written), len(report.failed)) == (3, 2)
    for path, line in report.failed:
        assert line.startswith(f'{path}: {why}')
        assert 'a fault of this program, not of the file; please report it with the traceback' in line
    assert caplog.text.count('Traceback') == 1  # of one place
    assert caplog.text.count(str(tmp_path / 'in')) == 1


def test_our_own_fault_on_the_only_file_is_raised(tmp_path, restorer, monkeypatch):
    make(tmp_path / 'a.png')
    fails_on(restorer, monkeypatch, {0}, lambda: [][1])
    with pytest.raises(IndexError):
        restore_files(tmp_path / 'a.png', tmp_path / 'b.png', restorer)


@pytest.mark.parametrize(
    'fail',
    [
        raises(RuntimeError('CUDA error: an illegal memory access was encountered')),
        raises(RuntimeError('it was ended'), KeyboardInterrupt()),
        raises(RuntimeError('it was ended'), Stopped(15)),
        raises(KeyboardInterrupt()),
        raises(Stopped(15)),
    ],
)
def test_a_lost_device_and_a_signal_end_the_run(tmp_path, restorer, monkeypatch, fail):
    for name in 'abc':
        make(tmp_path / 'in' / f'{name}.png')
    monkeypatch.setattr(restorer, 'workers', lambda pixels: 1)
    fails_on(restorer, monkeypatch, {1}, fail)
    with pytest.raises((RuntimeError, KeyboardInterrupt, Stopped)):
        restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert len(tree(tmp_path / 'out')) == 1


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp'])
@pytest.mark.parametrize('size', [(1, 1), (1, 4), (4, 1), (2, 3)])
def test_pictures_of_a_single_row_or_column_lie_in_any_way(tmp_path, restorer, suffix, size):
    block = PIL.Image.Exif()
    for orientation in range(1, 9):
        block[0x0112] = orientation
        stored = np.full((*size, 3), 200, np.uint8)
        (tmp_path / 'in').mkdir(exist_ok=True)
        PIL.Image.fromarray(stored).save(tmp_path / f'in/{orientation}{suffix}', exif=block.tobytes(), lossless=True)
    report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer)
    assert (len(report.written), report.failed) == (8, [])
    for path in report.written:
        np.testing.assert_allclose(read_image(path).rgb, 100 / 255, atol=0.02)


def test_a_sealed_output_is_found_before_the_work(photos, tmp_path, restorer, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('vmambair_arch.files.tempfile.NamedTemporaryFile', refuse)
    monkeypatch.setattr(restorer, 'restore', lambda *args, **options: pytest.fail('it was restored for nothing'))
    for inputs in (photos, photos / 'a.png', [photos, photos / 'a.png']):
        with pytest.raises(UserError, match=r'out.*: nothing can be written here \(Permission denied\)') as error:
            restore_files(inputs, tmp_path / 'out/', restorer)
        assert error.value.exit_code == 2


def test_a_sealed_folder_of_the_output_costs_its_files_alone(photos, tmp_path, restorer, monkeypatch):
    real = tempfile.NamedTemporaryFile

    def refuse(*args, dir, **options):
        if Path(dir).name == 'deep':
            raise PermissionError(13, 'Permission denied')
        return real(*args, dir=dir, **options)

    monkeypatch.setattr('vmambair_arch.files.tempfile.NamedTemporaryFile', refuse)
    (tmp_path / 'out/deep').mkdir(parents=True)
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert (len(report.written), len(report.failed)) == (3, 2)
    monkeypatch.undo()
    restore_files(photos, tmp_path / 'out', restorer)
    monkeypatch.setattr('vmambair_arch.files.tempfile.NamedTemporaryFile', lambda **_: pytest.fail('for nothing'))
    assert len(restore_files(photos, tmp_path / 'out', restorer).skipped) == 5  # nothing is to be written


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize('workers', [1, 2])
def test_a_full_disk_ends_the_run_and_its_report_says_what_is_left(
    photos, tmp_path, restorer, halve, monkeypatch, number, workers
):
    real = Path.write_bytes

    def write(path, data):
        if len(halve.shapes) >= 3:
            raise OSError(number, os.strerror(number))
        return real(path, data)

    monkeypatch.setattr(Path, 'write_bytes', write)
    monkeypatch.setattr(restorer, 'workers', lambda pixels: workers)
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert len(halve.shapes) <= 3 + workers
    assert 1 <= len(report.written) <= 2
    first, last = report.failed[0][1], report.failed[-1][1]
    assert re.search(rf'out/.*: cannot be written \({os.strerror(number)}\)', first)
    assert '.part' not in first
    left = 5 - len(report.written) - (len(report.failed) - 1)
    assert (
        last == f'{tmp_path / "out"}: the disk is full, and {left} files were left; free some of it and run this again'
    )
    monkeypatch.undo()
    assert len(restore_files(photos, tmp_path / 'out', restorer).failed) == 0


class Broken(torch.nn.Module):
    """Fails on dark pictures."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        if x.mean() < 0.5:
            if isinstance(self.fault, Exception):
                raise self.fault
            return x * self.fault
        return x


@pytest.mark.parametrize(
    'fault', [float('nan'), float('inf'), MemoryError(), UserError('no luck'), OSError(5, 'I/O', 'x')]
)
@pytest.mark.parametrize('size', [(6, 7), (80, 90)])
def test_whatever_is_wrong_with_a_file_is_said_with_its_name(tmp_path, monkeypatch, fault, size):
    monkeypatch.chdir(tmp_path)
    dark = [make(Path('in', name), 0.2, size) for name in ('a.png', 'deep/b.png')]
    make(Path('in/light.png'), 0.9, size)
    restorer = Restorer(Broken(fault), device='cpu', tile=0)
    report = restore_files('in', 'out', restorer)
    assert [path.name for path in report.written] == ['light.png']
    assert [path for path, _ in report.failed] == dark
    for path, message in report.failed:
        assert message.startswith(f'{path}: ')
        assert message.count(str(path)) == 1
    with pytest.raises(UserError, match='in/a.png: '):
        restore_files(dark[0], 'x.png', restorer)
    if not isinstance(fault, (MemoryError, OSError)):
        with pytest.raises(UserError, match='^stdin: '):
            restore_bytes(dark[0].read_bytes(), restorer)


def test_a_folder_that_may_not_be_looked_into_is_named(photos, tmp_path, restorer, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith('deep'):
            raise PermissionError(13, 'Permission denied', str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    report = restore_files(photos, tmp_path / 'out', restorer)
    assert len(report.written) == 3
    assert report.failed == [(photos / 'deep', f'{photos / "deep"}: cannot be looked into (Permission denied)')]


def test_what_is_not_carried_over_is_noted(tmp_path, restorer):
    PIL.Image.new('RGB', (12, 10), (90, 80, 70)).save(tmp_path / 'a.jpg', comment='from the bridge')
    report = restore_files(tmp_path / 'a.jpg', tmp_path / 'out', restorer)
    assert (tmp_path / 'out/a.jpg', 'without the comment, which is not carried over') in report.notes


def test_a_pipe_replaces_no_file_and_takes_no_options_of_files(tmp_path, checkpoint):
    data = make(tmp_path / 'a.png', size=(40, 50)).read_bytes()
    (tmp_path / 'mine.png').write_bytes(b'mine')
    done = pipe(['-', '-m', checkpoint, '-o', tmp_path / 'mine.png'], data)
    assert done.returncode == 2
    assert b'mine.png: is there; --overwrite replaces it' in done.stderr
    assert (tmp_path / 'mine.png').read_bytes() == b'mine'
    done = pipe(['-', '-m', checkpoint, '-o', tmp_path / 'mine.png', '--overwrite'], data)
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / 'mine.png').rgb.shape == (40, 50, 3)
    done = pipe(['-', '-m', checkpoint, '--suffix', '_x'], data)
    assert done.returncode == 2
    assert b'--suffix does not go with -' in done.stderr


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device of Linux')  # noqa: PTH110
@pytest.mark.parametrize(
    ('redirected', 'code', 'said'),
    [
        ('<&-', 2, 'stdin: is empty'),
        ('>/dev/full', 1, 'stdout: cannot be written (No space left on device)'),
        ('>&-', 0, ''),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, checkpoint, redirected, code, said):
    make(tmp_path / 'a.png', size=(40, 50))
    line = f'{sys.executable} -m vmambair_arch restore - -m {checkpoint} -o - --format png < a.png {redirected}'
    done = subprocess.run(['sh', '-c', line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_format_whose_package_is_missing_through_a_pipe(tmp_path, restorer, monkeypatch):
    monkeypatch.setattr('vmambair_arch.images.formats.open_heif', lambda: False)
    with pytest.raises(UserError, match='HEIC needs the package'):
        restore_bytes(make(tmp_path / 'a.png').read_bytes(), restorer, format='heic')


# options that contradict each other, or have nothing to do


CONTRADICTING = [
    ('out.png', 'jpg'),
    ('out.jpg', 'png'),
    ('out.JPEG', 'webp'),
    ('out.tif', 'avif'),
    ('out.webp', 'jpeg'),
]


@pytest.fixture
def main(monkeypatch, restorer):
    """The command with a stand-in for its network and bytes for its stdin."""

    def run(*arguments, data=b''):
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(Restorer, 'from_pretrained', lambda *_args, **_options: restorer)
        return cli.main(['restore', *map(str, arguments)])

    return run


@pytest.mark.parametrize(('output', 'format'), CONTRADICTING)
@pytest.mark.parametrize('by', ['file', 'stream'])
def test_a_format_that_contradicts_the_name_is_refused(tmp_path, halve, main, capsys, output, format, by):
    source = make(tmp_path / 'a.png')
    inputs = [source] if by == 'file' else ['-']
    assert main(*inputs, '-o', tmp_path / output, '--format', format, data=source.read_bytes()) == 2
    assert (
        f"{output}: ends in '{Path(output).suffix.lower()}', and the format is to be {format}"
        in capsys.readouterr().err
    )
    assert not halve.shapes
    assert tree(tmp_path) == ['a.png']


@pytest.mark.parametrize(
    ('output', 'format', 'kind'),
    [
        ('out.jpeg', 'jpg', 'JPEG'),
        ('out.TIF', 'tiff', 'TIFF'),
        ('out.png', 'auto', 'PNG'),
        ('out.webp', 'webp', 'WEBP'),
    ],
)
@pytest.mark.parametrize('by', ['file', 'stream'])
def test_the_name_says_the_format(tmp_path, main, output, format, kind, by):
    source = make(tmp_path / 'a.bmp')
    inputs = [source] if by == 'file' else ['-']
    assert main(*inputs, '-o', tmp_path / output, '--format', format, data=source.read_bytes()) == 0
    with PIL.Image.open(tmp_path / output) as result:
        assert result.format == kind


@pytest.mark.parametrize(
    ('ending', 'start'), [('j2k', b'\xff\x4f\xff\x51'), ('jp2', b'\0\0\0\x0cjP  '), ('J2K', b'\xff\x4f')]
)
@pytest.mark.parametrize('clear', [False, True])
def test_jpeg_2000_is_what_its_name_says(tmp_path, restorer, main, ending, start, clear):
    alpha = np.full((40, 50), 0.5, np.float32) if clear else None
    write_image(tmp_path / 'a.png', Image(np.full((40, 50, 3), 0.8, np.float32), alpha))
    restore_files(tmp_path / 'a.png', tmp_path / f'out.{ending}', restorer)
    data = (tmp_path / 'a.png').read_bytes()
    assert main('-', '-o', tmp_path / f'stream.{ending}', data=data) == 0
    for name in ('out', 'stream'):
        assert (tmp_path / f'{name}.{ending}').read_bytes().startswith(start)
        again = read_image(tmp_path / f'{name}.{ending}')
        assert (again.rgb.shape, again.alpha is None) == ((40, 50, 3), not clear)
    assert restore_bytes(data, restorer, format=ending.lower())[0].startswith(start)


@pytest.mark.parametrize(
    ('source', 'options', 'said'),
    [
        ('icc.png', ['--format', 'jpg'], ['lossless before, now JPEG of quality 95']),
        ('icc.png', ['--format', 'bmp'], ['without the colour profile, which .bmp does not hold']),
        ('comment.jpg', [], ['without the comment, which is not carried over']),
        ('icc.png', ['--quality', '70'], ['--quality is of lossy formats, and PNG is none']),
        ('icc.png', [], []),
    ],
)
def test_a_stream_says_what_a_file_says(tmp_path, main, capsysbinary, source, options, said):
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile('sRGB')).tobytes()
    PIL.Image.new('RGB', (12, 10), (90, 80, 70)).save(tmp_path / 'icc.png', icc_profile=profile)
    PIL.Image.new('RGB', (12, 10), (90, 80, 70)).save(tmp_path / 'comment.jpg', comment='from the bridge')
    assert main('-', *options, data=(tmp_path / source).read_bytes()) == 0
    out, err = capsysbinary.readouterr()
    assert err.decode().splitlines() == [f'vmambair: note: stdin: {line}' for line in said]
    assert PIL.Image.open(io.BytesIO(out)).size == (12, 10)


@pytest.mark.parametrize('output', ['/dev/null/x.png', 'file/x.png', 'file/deep/x.png'])
def test_a_stream_to_a_place_that_cannot_be_is_refused_before_the_work(
    tmp_path, halve, main, capsys, monkeypatch, output
):
    monkeypatch.chdir(tmp_path)
    data = make(tmp_path / 'a.png').read_bytes()
    (tmp_path / 'file').write_text('x')
    assert main('-', '-o', output, data=data) == 2
    assert f'{Path(output).parent}: nothing can be written here' in capsys.readouterr().err
    assert not halve.shapes


IDLE = {
    'codec': '--codec is of videos, and there is none',
    'crf': '--crf is of videos, and there is none',
    'quality': '--quality is of pictures in lossy formats, and there will be none',
}


@pytest.mark.parametrize(
    ('names', 'options', 'idle'),
    [
        (['a.png'], {'codec': 'h264', 'crf': 20}, ['codec', 'crf']),
        (['a.png', 'b.jpg'], {'crf': 20, 'quality': 80}, ['crf']),
        (['a.png', 'b.tif'], {'quality': 80}, ['quality']),
        (['a.png'], {'quality': 80, 'format': 'webp'}, []),
        (['a.webp', 'b.bmp'], {'quality': 80}, []),
        (['a.gif'], {'quality': 80}, ['quality']),
        (['a.png'], {}, []),
    ],
)
def test_options_that_nothing_has_a_use_for_are_noted(tmp_path, restorer, names, options, idle):
    for name in names:
        PIL.Image.new('RGB', (12, 10), (90, 80, 70)).save(tmp_path / name)
    report = restore_files([tmp_path / name for name in names], tmp_path / 'out', restorer, **options)
    said = [why for path, why in report.notes if path == tmp_path / 'out']
    assert said == [IDLE[name] for name in idle]
    lines = list(report.lines())
    assert all(f'note: out: {IDLE[name]}' in lines for name in idle)


def test_seams_are_measured_of_results_that_exist_and_not_of_what_moves(tmp_path, restorer):
    frames = [PIL.Image.new('RGB', (12, 10), (60 + 40 * number, 80, 90)) for number in range(3)]
    (tmp_path / 'in').mkdir()
    frames[0].save(tmp_path / 'in/a.gif', save_all=True, append_images=frames[1:])
    make(tmp_path / 'in/b.png')
    for skipped in (0, 2):
        report = restore_files(tmp_path / 'in', tmp_path / 'out', restorer, report_seams=True)
        assert len(report.skipped) == skipped
        assert [path.name for path, _ in report.seams] == ['b.png']
        assert (tmp_path / 'in/a.gif', 'seams are measured in pictures that stand still') in report.notes


@pytest.mark.parametrize('arguments', [[''], ['a.png', ''], ['a.png', '-o', ''], ['-', '-o', ''], ['', '-o', '-']])
def test_an_empty_name_is_not_the_current_folder(tmp_path, halve, main, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'a.png')
    assert main(*arguments, data=(tmp_path / 'a.png').read_bytes()) == 2
    assert 'an input or the output is an empty name' in capsys.readouterr().err
    assert not halve.shapes
    assert tree(tmp_path) == ['a.png']


@pytest.mark.parametrize('pixels', [0, -1])
@pytest.mark.parametrize('source', ['a.png', '-'])
def test_no_pixels_at_all(tmp_path, restorer, main, capsys, monkeypatch, pixels, source):
    monkeypatch.chdir(tmp_path)
    data = make(tmp_path / 'a.png').read_bytes()
    assert main(source, f'--max-pixels={pixels}', data=data) == 2
    assert f'the most pixels must be 1 or more, got {pixels}' in capsys.readouterr().err
    with pytest.raises(UserError, match='1 or more'):
        restore_bytes(data, restorer, max_pixels=pixels)


@pytest.mark.parametrize('ending', ['jpg', 'bmp'])
@pytest.mark.parametrize('alpha', ['resize', 'restore'])
def test_screenshots_whose_alpha_hides_nothing_become_pictures_without(tmp_path, halve_x2, ending, alpha):
    """`halve_x2` halves the alpha too where it is restored: what counts is the input's."""
    restorer = Restorer(halve_x2, alpha=alpha)
    rgb = np.full((6, 7, 3), 0.8, np.float32)
    source = tmp_path / 'in/a.png'
    write_image(source, Image(rgb, np.ones((6, 7), np.float32)))
    report = restore_files(source, tmp_path / f'one.{ending}', restorer)
    write_image(tmp_path / 'in/clear.png', Image(rgb, np.tile(np.float32([1, 0.5]), (6, 4))[:, :7]))
    report.add(restore_files(tmp_path / 'in', tmp_path / 'out', restorer, format=ending))
    assert [path.name for path in report.written] == [f'one.{ending}', f'a.{ending}']
    assert [path.name for path, _ in report.failed] == ['clear.png']
    data, kind = restore_bytes(source.read_bytes(), restorer, format=ending)
    assert kind == SUFFIXES[f'.{ending}']
    for result in (*report.written, io.BytesIO(data)):
        picture = np.asarray(PIL.Image.open(result))
        assert picture.shape == (12, 14, 3)
        assert np.abs(picture.astype(int) - 102).max() <= 1
    with pytest.raises(UserError, match='clear.png: .* cannot hold the transparency of this image'):
        restore_files(tmp_path / 'in/clear.png', tmp_path / f'b.{ending}', restorer)


@pytest.mark.parametrize('source', ['.webp', '.png'])
@pytest.mark.parametrize('ending', ['.webp', '.png', '.gif'])
def test_a_moving_picture_is_seen_as_it_was_and_what_it_loses_is_said(tmp_path, halve_x2, source, ending):
    block = PIL.Image.Exif()
    block[0x0112] = 6  # lies on its side
    frames = [PIL.Image.new('RGBA', (12, 10), (60 + 40 * number, 80, 90, 255)) for number in range(3)]
    for frame in frames:
        frame.paste((0, 0, 0, 0), (0, 0, 12, 5))  # black under its transparency
    options = {'lossless': True, 'exact': True} if source == '.webp' else {}
    frames[0].save(
        tmp_path / f'a{source}', save_all=True, append_images=frames[1:], duration=50, exif=block.tobytes(), **options
    )
    report = restore_files(tmp_path / f'a{source}', tmp_path / f'b{ending}', Restorer(halve_x2))
    said = [note for _, note in report.notes if 'without' in note]
    assert said == (['without EXIF, which .gif does not hold'] if ending == '.gif' else [])
    with PIL.Image.open(report.written[0]) as result:
        assert result.n_frames == 3
        for number in range(3):
            result.seek(number)
            seen = PIL.ImageOps.exif_transpose(result.convert('RGBA')) if ending != '.gif' else result.convert('RGBA')
            assert seen.size == (20, 24)
            pixels = np.asarray(seen).astype(int)
            seen_alpha = pixels[..., 3] > 128
            assert seen_alpha[:, :9].all()
            assert not seen_alpha[:, 11:].any()
            assert np.abs(pixels[seen_alpha][:, 0] - (30 + 20 * number)).max() <= 5  # up to the edge
