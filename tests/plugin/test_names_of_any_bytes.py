"""Names of files are bytes, and a locale may know no letters: what reads, trains and writes goes on all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from experiment import options, run, write_options, write_pairs

from realesrgan_pipeline.name_list import read_names
from vmambair_arch.data.prepare.derive import meta_info

NAME = b'regen_\xfc.png'  # in Latin-1, as in old archives
PLAIN = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


def pairs(folder: Path) -> None:
    write_pairs(folder, 2)
    for kind in ('gt', 'lq'):
        (folder / kind / '001.png').rename(folder / kind / os.fsdecode(NAME))


@pytest.mark.parametrize('locale', [{}, PLAIN], ids=['as it is', 'C'])
def test_a_run_in_a_folder_and_on_files_whose_names_are_no_text(tmp_path: Path, locale: dict[str, str]) -> None:
    place = tmp_path / 'größer'
    for part in ('train', 'val'):
        pairs(place / part)
    sets: dict[str, object] = {'train': 'PairedProgressiveDataset', 'val': 'PairedValidationDataset'}
    changes = {f'datasets__{part}__type': kind for part, kind in sets.items()}
    changes |= {'model_type': 'VmambaIRModel', 'name': 'night', 'val__save_img': True, 'train__total_iter': 2}
    changes |= {'logger__save_checkpoint_freq': 2, 'datasets__train__num_worker_per_gpu': 1}
    write_options(place / 'run.yml', options(**changes))
    done = run('-m', 'vmambair_arch.train', '-opt', 'run.yml', cwd=place, **locale)
    assert done.returncode == 0, done.stderr
    experiment = place / 'experiments' / 'night'
    assert {os.fsencode(folder.name) for folder in (experiment / 'visualization').iterdir()} == {b'000', NAME[:-4]}
    assert (experiment / 'models' / 'net_g_latest.pth').is_file()


def test_a_name_that_the_locale_cannot_write_is_a_line(tmp_path: Path) -> None:
    for part in ('train', 'val'):
        write_pairs(tmp_path / part, 2)
    write_options(tmp_path / 'run.yml', options(name='nächtlich'))
    done = run('-m', 'vmambair_arch.train', '-opt', 'run.yml', cwd=tmp_path, **PLAIN)
    assert done.returncode == 2
    assert 'chtlich' in done.stderr.splitlines()[-1]
    assert 'set PYTHONUTF8=1' in done.stderr.splitlines()[-1]


def test_a_list_holds_the_bytes_of_names(tmp_path: Path) -> None:
    pairs(tmp_path)
    assert meta_info(tmp_path, [tmp_path / 'gt'], tmp_path / 'list.txt') == 2
    assert NAME in (tmp_path / 'list.txt').read_bytes()
    assert [entry.name for entry in read_names(tmp_path / 'list.txt')] == ['gt/000.png', os.fsdecode(b'gt/' + NAME)]
