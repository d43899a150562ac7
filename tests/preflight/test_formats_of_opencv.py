"""Formats and suffixes that BasicSR's data sets read and the package's own do not: the check takes what runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from vmambair_arch import Restorer, VmambaIR
from vmambair_arch.errors import UserError

ALONE = ['.ppm', '.pgm', '.pam', '.ras', '.hdr']
"""Suffixes of formats that OpenCV reads and the package does not."""
ODD = ['.PPM', '.dib', '.jfif', '.jp2', '.avif', '.gif', '.image', '']
"""Of pictures that are read by what is in them."""


def write(folder: Path, suffix: str) -> None:
    """Pairs with another suffix in the place of those of `workplace`."""
    for path in sorted(folder.glob('*/*/*.png')):
        target, pixels = path.with_suffix(suffix), cv2.imread(str(path))
        if suffix in ALONE or suffix == '.PPM':
            cv2.imwrite(str(target), pixels[..., 0] if suffix == '.pgm' else pixels)
        else:
            kind = {'.dib': 'BMP', '.jfif': 'JPEG', '.jp2': 'JPEG2000', '.avif': 'AVIF', '.gif': 'GIF'}
            PIL.Image.fromarray(pixels[..., ::-1]).save(target, kind.get(suffix, 'PNG'))
        path.unlink()


@pytest.mark.parametrize('suffix', [*ALONE, *ODD])
def test_pairs_of_basicsr_have_any_suffix_that_it_reads(
    check: Callable[..., Any], workplace: Path, suffix: str
) -> None:
    """The check takes samples of them through BasicSR's data set."""
    write(workplace, suffix)
    for more in ({}, {'DECODE': True}):
        report = check(**more)
        assert report.faults == []
        assert any(fact.startswith('train: 3 pairs; 6 headers') for fact in report.facts)
    assert any('are grey' in warning for warning in report.warnings) == (suffix == '.pgm')
    assert any('more than 8 bits' in warning for warning in report.warnings) == (suffix == '.hdr')


@pytest.mark.parametrize('suffix', ['.ppm', '.gif'])
def test_single_images_and_lists_have_them_too(check: Callable[..., Any], workplace: Path, suffix: str) -> None:
    write(workplace, suffix)
    single = {'name': 'S', 'type': 'SingleImageDataset', 'dataroot_lq': 'val/lq', 'io_backend': {'type': 'disk'}}
    report = check(val__metrics=..., datasets__val=single)
    assert report.faults == []
    assert any(fact.startswith('val: 2 images; 2 headers') for fact in report.facts)
    lines = [f'{name}{suffix}, {name}{suffix}\n' for name in ('000', '001', '002')]
    (workplace / 'pairs.txt').write_text(''.join(lines))
    real = {'datasets__train__type': 'RealESRGANPairedDataset', 'datasets__train__meta_info': 'pairs.txt'}
    report = check(**real)
    assert report.faults == []
    assert any(fact.startswith('train: 6 images; 6 headers') for fact in report.facts)


@pytest.mark.parametrize('suffix', ['.ppm', '.avif', '.gif'])
def test_sizes_are_compared_whatever_the_suffix(check: Callable[..., Any], workplace: Path, suffix: str) -> None:
    write(workplace, suffix)
    path = workplace / f'train/lq/001{suffix}'
    pixels = np.zeros((20, 24, 3), np.uint8)
    cv2.imwrite(str(path), pixels) if suffix == '.ppm' else PIL.Image.fromarray(pixels).save(path)
    (fault,) = check().faults
    assert '24x24' in fault
    assert '24x20' in fault


@pytest.mark.parametrize('suffix', [*ALONE, '.avif', '.image'])
def test_a_file_that_is_cut_off_is_refused_by_name(check: Callable[..., Any], workplace: Path, suffix: str) -> None:
    write(workplace, suffix)
    path = workplace / f'val/lq/001{suffix}'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for kept in (False, True):  # headers that were read before
        (fault,) = check().faults
        assert fault.startswith(f'datasets: val: val/lq: 001{suffix} is no image, or a damaged one'), kept


@pytest.mark.parametrize(
    'content', [b'taken in June', b'', b'P6', b'P6\n9 9\n255\n', b'v/1\x01' + bytes(90)], ids=range(5)
)
def test_what_is_no_image_is_refused_among_those_that_are(
    check: Callable[..., Any], workplace: Path, content: bytes
) -> None:
    (workplace / 'train/gt/notes.ppm').write_bytes(content)
    (fault,) = check().faults
    assert fault.startswith('datasets: train: train/gt: notes.ppm is no image, or a damaged one')


@pytest.mark.parametrize('kind', ['PairedProgressiveDataset', 'PairedValidationDataset'])
def test_data_sets_of_the_package_say_what_they_look_for(check: Callable[..., Any], workplace: Path, kind: str) -> None:
    write(workplace, '.ppm')
    phase = 'train' if 'Progressive' in kind else 'val'
    changes = {f'datasets__{phase}__type': kind, 'model_type': 'VmambaIRModel'}
    faults = check(**changes).faults
    assert [fault.partition(' (looked for .png')[0] for fault in faults] == [
        f'datasets: {phase}: {phase}/{part}: no images in this folder' for part in ('gt', 'lq')
    ]
    for path in workplace.glob('*/*/*.ppm'):
        path.rename(path.with_suffix('.png'))
    first = check(**changes).faults[0]
    assert '000.png is a PNM picture (.ppm, .pgm, .pbm); save it as PNG first' in first


def test_a_picture_that_is_restored_says_what_it_is(workplace: Path) -> None:
    write(workplace, '.ppm')
    network = VmambaIR(dim=4, num_blocks=(1, 0, 0, 0), num_refinement_blocks=0, d_state=1)
    with pytest.raises(UserError, match=r'000\.ppm: is a PNM picture .*save it as PNG first'):
        Restorer(network, device='cpu')('val/lq/000.ppm', 'a.png')
