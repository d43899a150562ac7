"""Lists and databases of images: what is written is read back, by our data sets and by BasicSR's, whatever the names.

Every image has a colour of its own, so that one in another's place shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from realesrgan_pipeline.realesrgan_dataset import RealESRGANDataset as Photographs
from vmambair_arch.data.pairs import PairSource
from vmambair_arch.data.prepare.derive import make_lmdb, meta_info
from vmambair_arch.errors import UserError
from vmambair_arch.plugin import compat

compat.apply()

LETTERS = st.characters(blacklist_categories=('Cs', 'Cc', 'Zl', 'Zp'), blacklist_characters='/\0')
STEMS = st.one_of(
    st.text(LETTERS, min_size=1, max_size=12),
    st.text('a. (1,2)%{}-\\\'"', min_size=1, max_size=12),
).filter(lambda stem: stem == stem.strip() and not stem.startswith('.') and not stem.endswith('.'))
NAMES = st.lists(st.tuples(st.sampled_from(['', 'a/', 'b (2)/']), STEMS), min_size=1, max_size=4, unique=True)
ODD = [('', 'photo (1)'), ('', 'photo'), ('', 'a.b (3,4,3) 1'), ('a/', 'photo'), ('b (2)/', 'photo (1)')]
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Colours = dict[str, int]
"""The value of all pixels by the name of the image without suffix."""


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """An empty folder at each call."""
    numbers = iter(range(10_000))

    def make() -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return folder

    return make


def write(folder: Path, names: list[str]) -> Colours:
    """Pictures `gt/NAME.png` and `lq/NAME.png` of one colour each, input and target of the same."""
    colours = {name: 10 * number + 5 for number, name in enumerate(names)}
    for part in ('gt', 'lq'):
        for name, colour in colours.items():
            path = folder / part / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((9, 8, 3), colour, np.uint8)).save(path)
    return colours


# ---------------------------------------------------------------- the readers


def _colour(image: Any) -> int:
    """Of float or uint8 pixels that are all the same."""
    pixels = np.asarray(image)
    assert (pixels == pixels.flat[0]).all()
    return round(float(pixels.flat[0]) * (1 if pixels.dtype == np.uint8 else 255))


def ours(section: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    source = PairSource(section)
    for number, pair in enumerate(source.pairs):
        lq, gt = source.read(number)
        yield pair.gt, _colour(gt), _colour(lq)


def basicsr_pairs(section: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    dataset = PairedImageDataset(section | {'phase': 'val', 'scale': 1})
    for number in range(len(dataset)):
        item = dataset[number]
        yield item['gt_path'], _colour(item['gt']), _colour(item['lq'])


def basicsr_single(section: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    from basicsr.data.single_image_dataset import SingleImageDataset

    dataset = SingleImageDataset(section)
    for number in range(len(dataset)):
        item = dataset[number]
        yield item['lq_path'], _colour(item['lq']), _colour(item['lq'])


def basicsr_real(section: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """RealESRGANDataset's paths, read by its own client: its degradation leaves no colour."""
    from basicsr.data.realesrgan_dataset import RealESRGANDataset
    from basicsr.utils import FileClient, imfrombytes

    meta = {'meta_info': section['meta_info_file']} if 'meta_info_file' in section else {}
    dataset = RealESRGANDataset(defaultdict(lambda: [1], section | meta))
    client = FileClient(section['io_backend'].pop('type'), **section['io_backend'])
    for path in dataset.paths:
        colour = _colour(imfrombytes(client.get(path, 'gt'), float32=True))
        yield path, colour, colour


def ours_real(section: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    meta = {'meta_info': section.pop('meta_info_file')} if 'meta_info_file' in section else {}
    dataset = Photographs(section | meta)
    for folder in dataset.photographs.folders:
        for number, name in enumerate(folder.names):
            colour = _colour(dataset.photographs.read(number))
            yield str(folder.root / name) if not folder.lmdb else name, colour, colour


READERS = {
    'PairedProgressiveDataset': ours,
    'RealESRGANPipelineDataset': ours_real,
    'PairedImageDataset': basicsr_pairs,
    'SingleImageDataset': basicsr_single,
    'RealESRGANDataset': basicsr_real,
}


def section_of(folder: Path, **more: Any) -> dict[str, Any]:
    lmdb_folders = more.get('io_backend', {}).get('type') == 'lmdb'
    roots = {f'dataroot_{part}': str(folder / f'{part}{".lmdb" * lmdb_folders}') for part in ('gt', 'lq')}
    return {'io_backend': {'type': 'disk'}, **roots, **more}


# ---------------------------------------------------------------- written and read back


@pytest.mark.parametrize('reader', READERS)
@QUICK
@given(names=NAMES)
@example(names=ODD)
@example(names=[('a/', '001'), ('b (2)/', '001')])
def test_a_list_that_prepare_writes_is_read_back(fresh, reader, names):
    folder = fresh()
    colours = write(folder, [f'{below}{stem}' for below, stem in names])
    folders = sorted({folder / 'gt' / below for below, _ in names})
    assert meta_info(folder / 'gt', folders, folder / 'list.txt') == len(names)
    read = list(READERS[reader](section_of(folder, meta_info_file=str(folder / 'list.txt'))))
    found = {}
    for path, gt, lq in read:
        root = 'lq' if reader == 'SingleImageDataset' else 'gt'
        assert gt == lq
        found[Path(path).relative_to(folder / root).as_posix().removesuffix('.png')] = gt
    assert found == colours
    assert len(read) == len(names)


@pytest.mark.parametrize('reader', READERS)
@QUICK
@given(stems=st.lists(STEMS, min_size=1, max_size=4, unique=True))
@example(stems=['photo (1)', 'photo', 'a.b', 'a', 'ß (9,8,3) 1', '写真'])
def test_a_database_that_prepare_writes_is_read_back(fresh, reader, stems):
    folder = fresh()
    colours = write(folder, stems)
    for part in ('gt', 'lq'):
        make_lmdb(folder / part)
    read = list(READERS[reader](section_of(folder, io_backend={'type': 'lmdb'})))
    assert {key: gt for key, gt, _ in read} == colours
    assert all(gt == lq for _, gt, lq in read)
    assert len(read) == len(stems)
    assert make_lmdb(folder / 'gt') == folder / 'gt.lmdb'  # a second time it is known to be done


@pytest.mark.parametrize('name', [' blank', 'two\nlines', 'old\rmac', '\u3000wide'])
def test_a_name_that_no_list_can_hold_is_refused_by_the_writer(fresh, name):
    folder = fresh()
    write(folder, [name, 'plain'])
    for attempt in (
        lambda: meta_info(folder / 'gt', [folder / 'gt'], folder / 'list.txt'),
        lambda: make_lmdb(folder / 'gt'),
    ):
        with pytest.raises(UserError, match='cannot stand in a list of images') as refused:
            attempt()
        assert '\n' not in str(refused.value)
    assert sorted(path.name for path in folder.iterdir()) == ['gt', 'lq']


def test_names_that_are_one_without_their_ending_are_refused(fresh):
    folder = fresh()
    write(folder, ['ax4', 'a'])
    with pytest.raises(UserError, match=r"a\.png and ax4\.png have one name without 'x4'|ax4\.png and a\.png have one"):
        make_lmdb(folder / 'gt', 'x4')


def test_basicsr_finds_the_inputs_of_a_list_where_it_looks_for_them(fresh):
    """All of them in `dataroot_lq` itself, whatever the folders of the targets."""
    folder = fresh()
    write(folder, ['a/001', 'b/002'])
    (folder / 'lq/a/001.png').rename(folder / 'lq/001.png')
    (folder / 'lq/b/002.png').rename(folder / 'lq/002.png')
    (folder / 'list.txt').write_text('b/002.png\na/001.png\n')
    read = list(basicsr_pairs(section_of(folder, meta_info_file=str(folder / 'list.txt'))))
    assert [(Path(path).name, gt, lq) for path, gt, lq in read] == [('002.png', 15, 15), ('001.png', 5, 5)]
    write(folder, ['b/001'])
    (folder / 'lq/b/001.png').unlink()
    (folder / 'list.txt').write_text('b/001.png\na/001.png\n')
    with pytest.raises(UserError, match=r'list\.txt: .*a/001\.png and .*b/001\.png have one input'):
        list(basicsr_pairs(section_of(folder, meta_info_file=str(folder / 'list.txt'))))


# ---------------------------------------------------------------- lists that people write

TAKEN = {
    'plain': 'photo (1).png\nb.png\n',
    'shapes and levels': 'photo (1).png (9,8,3) 1\nb.png (9,8,3) 1\n',
    'grey shapes': 'photo (1).png (9,8)\nb.png (9, 8, 1)\n',
    'byte order mark': '\ufeffphoto (1).png\nb.png',
    'CRLF': 'photo (1).png (9,8,3)\r\nb.png\r\n\r\n',
}
REFUSED = {
    'twice': ('b.png\nphoto (1).png\nb.png (9,8,3)\n', "names 'b.png' twice"),
    'a comma': ('b.png,\nphoto (1).png\n', r"names 'b\.png,'"),
    'a backslash': ('b.png\nsub\\photo.png\n', r"names 'sub\\\\photo\.png'"),
    'a mark inside': ('b.png\n\ufeffphoto (1).png\n', r"names '\\ufeffphoto \(1\)\.png'"),
    'an empty line': ('b.png\n\nphoto (1).png\n', 'line 2 is empty'),
    'nothing': ('\n', 'names no images'),
    'not there': ('b.png\nc.png\n', r"names 'c\.png', which .* does not have"),
    'UTF-16': ('b.png\n'.encode('utf-16'), 'cannot be read as a list'),
}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('form', TAKEN)
def test_a_list_is_taken_in_every_form(fresh, reader, form):
    folder = fresh()
    write(folder, ['photo (1)', 'b', 'photo'])
    (folder / 'list.txt').write_bytes(TAKEN[form].encode())
    read = list(READERS[reader](section_of(folder, meta_info_file=str(folder / 'list.txt'))))
    assert {Path(path).name: gt for path, gt, _ in read} == {'photo (1).png': 5, 'b.png': 15}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('form', REFUSED)
def test_a_list_is_refused_alike_by_every_data_set(fresh, reader, form):
    folder = fresh()
    write(folder, ['photo (1)', 'b'])
    content, expected = REFUSED[form]
    (folder / 'list.txt').write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=expected) as refused:
        list(READERS[reader](section_of(folder, meta_info_file=str(folder / 'list.txt'))))
    assert '\n' not in str(refused.value)
    assert 'list.txt' in str(refused.value)


def test_a_list_of_real_pairs(fresh):
    from basicsr.data.realesrgan_paired_dataset import RealESRGANPairedDataset

    folder = fresh()
    write(folder, ['photo (1)', 'a/b'])

    def read(content: str) -> list[tuple[str, str]]:
        (folder / 'list.txt').write_bytes(content.encode())
        section = section_of(folder, meta_info=str(folder / 'list.txt'), phase='val', scale=1)
        dataset = RealESRGANPairedDataset(section)
        return [(item['gt_path'], item['lq_path']) for item in (dataset[number] for number in range(len(dataset)))]

    gt, lq = folder / 'gt', folder / 'lq'
    expected = [(str(gt / 'photo (1).png'), str(lq / 'photo (1).png')), (str(gt / 'a/b.png'), str(lq / 'a/b.png'))]
    assert read('\ufeffphoto (1).png, photo (1).png\r\na/b.png, a/b.png\r\n') == expected
    for content, message in (
        ('a/b.png\n', r"line 1: 'a/b\.png' is no pair"),
        ('a/b.png, a/b.png, a/b.png\n', 'line 1: .* is no pair'),
        ('a/b.png, c.png\n', r"names '.*lq/c\.png', which are not there"),
        ('a/b.png, a/b.png\nphoto (1).png, a/b.png\n', r"names '.*lq/a/b\.png' twice"),
    ):
        with pytest.raises(UserError, match=message):
            read(content)
