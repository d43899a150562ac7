"""`vmambair check --decode`: damage that headers do not show is found in every image of every data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment import options, write_image, write_options

from vmambair_arch.cli import main
from vmambair_arch.data.prepare.derive import make_lmdb


def damage(path: Path) -> None:
    """Some bytes in the middle of the pixels become others; header and size stay."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = b'\xff' * 40
    path.write_bytes(data)


@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_every_damaged_file_is_named_in_one_report(workplace: Path, capsys: pytest.CaptureFixture, ending: str) -> None:
    for i in range(7):
        for part in ('gt', 'lq'):
            write_image(workplace / f'train/{part}/{i:03d}.{ending}', seed=i)
    if ending != 'png':
        for path in workplace.glob('train/*/*.png'):
            path.unlink()
    bad = [workplace / f'train/gt/{i:03d}.{ending}' for i in range(6)] + [workplace / 'val/lq/001.png']
    for path in bad:
        damage(path)
    write_options(workplace / 'train.yml', options())
    main(['check', '-opt', 'train.yml'])  # takes one sample of each data set, and may meet one of them
    assert '1 fault' in (first := capsys.readouterr().out.splitlines()[0]) or 'no fault' in first
    assert main(['check', '-opt', 'train.yml', '--decode']) == 2
    said = capsys.readouterr().out.splitlines()
    for path in bad:
        place = 'train' if 'train' in path.parts else 'val'
        name = path.relative_to(workplace)
        (line,) = (line for line in said if str(name) in line)
        assert f'datasets: {place}: {name}: ' in line
    assert said[0] == f'train.yml: {len(bad)} faults'


def test_whole_images_are_counted(check: Callable[..., Any]) -> None:
    report = check(DECODE=True)
    assert report.faults == []
    assert [fact.partition(' in ')[0] for fact in report.facts if 'decoded' in fact] == [
        'datasets: train: 6 images decoded', 'datasets: val: 4 images decoded',
    ]  # fmt: skip
    assert not any('decoded' in fact for fact in check().facts)


def test_an_image_of_two_data_sets_is_decoded_once_and_named_twice(
    check: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmambair_arch.preflight import decoding

    seen = []
    read = decoding.read_file
    monkeypatch.setattr(decoding, 'read_file', lambda path: seen.append(path) or read(path))
    damage(workplace / 'val/gt/000.png')
    again = {'datasets__val_2': {**options()['datasets']['val'], 'name': 'Again'}}
    report = check(DECODE=True, **again)
    assert sorted(seen) == sorted(set(seen))
    assert sum('val/gt/000.png' in fault for fault in report.faults) == 2


def test_a_file_whose_header_is_damaged_is_named_once(check: Callable[..., Any], workplace: Path) -> None:
    (workplace / 'train/gt/000.png').write_bytes(b'')
    assert sum('000.png' in fault for fault in check(DECODE=True).faults) == 1


def test_images_in_a_database(check: Callable[..., Any], workplace: Path) -> None:
    for part in ('gt', 'lq'):
        make_lmdb(workplace / f'train/{part}').rename(f'{part}.lmdb')
    changes = {
        'datasets__train__dataroot_gt': 'gt.lmdb', 'datasets__train__dataroot_lq': 'lq.lmdb',
        'datasets__train__io_backend': {'type': 'lmdb'},
    }  # fmt: skip
    assert check(DECODE=True, **changes).faults == []
    damaged = bytearray((workplace / 'lq.lmdb/data.mdb').read_bytes())
    middle = damaged.index(b'IDAT') + 60
    damaged[middle] ^= 0xFF
    (workplace / 'lq.lmdb/data.mdb').write_bytes(damaged)
    (fault,) = check(DECODE=True, **changes).faults
    assert fault.startswith('datasets: train: lq.lmdb:00')
    assert check(**changes).faults == []


def test_a_decoder_that_fails_in_its_own_way_names_the_file(
    check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmambair_arch.preflight import decoding

    def fail(path: str) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, 'read_file', fail)
    faults = check(DECODE=True).faults
    assert len(faults) == 10
    assert all('.png: MemoryError' in fault for fault in faults)
