"""The whole chain, from check to compare, in locales that are not UTF-8: option files, notes and names with umlauts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from experiment import ROOT, options

from vmambair_arch.cli import COMMANDS

CHAIN = """
import json, sys
sys.argv[0] = 'vmambair'
from vmambair_arch.cli import main
said = []
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    print(words[0], code, file=sys.stderr, flush=True)
    if code:
        sys.exit(code)
"""
PLAIN = {'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
LOCALES = {'C': 'ascii', 'ISO-8859-1': 'latin-1', 'CP1252': 'cp1252'}
"""Python's names of their encodings."""


def chain(words: list[list[str]], cwd: Path, locale: dict[str, str]) -> tuple[int, str]:
    """Commands one after the other in one process, as far as they end well; exit code and all output."""
    encoding = LOCALES[locale['LC_ALL'].partition('.')[2] or 'C']
    environment = {
        **os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', **locale,
    }  # fmt: skip
    environment.pop('PYTHONIOENCODING', None)
    done = subprocess.run(
        [sys.executable, '-c', CHAIN, json.dumps(words)],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(encoding, 'backslashreplace')


@pytest.fixture(scope='session')
def locale_of(tmp_path_factory: pytest.TempPathFactory):
    """The environment of a locale by its encoding; made by `localedef` where the machine has none."""

    def find(encoding: str) -> dict[str, str]:
        if encoding == 'C':
            return {**PLAIN, 'LC_ALL': 'C'}
        there = subprocess.run(['locale', '-a'], capture_output=True, text=True, check=False).stdout.split()
        wanted = encoding.replace('-', '').lower()
        for name in there:
            if name.partition('.')[2].replace('-', '').lower() == wanted:
                return {**PLAIN, 'LC_ALL': name}
        if shutil.which('localedef') is None:
            pytest.skip(f'no locale of {encoding}, and no localedef to make one')
        folder = tmp_path_factory.mktemp('locales')
        name = f'de_DE.{encoding}'
        made = subprocess.run(
            ['localedef', '-f', encoding, '-i', 'de_DE', str(folder / name)], capture_output=True, check=False
        )
        if made.returncode > 1 or not (folder / name).is_dir():
            pytest.skip(f'localedef cannot make a locale of {encoding}')
        return {**PLAIN, 'LC_ALL': name, 'LOCPATH': str(folder)}

    return find


def write_data(place: bytes, letters: dict[str, bytes]) -> None:
    """Pairs in `place`, whose folders and images have the bytes that the locale gives their names."""
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8), (24, 24))
    data = cv2.imencode('.png', picture)[1].tobytes()
    for part in (b'train', b'val'):
        for kind in (b'gt', b'lq'):
            folder = os.path.join(place, part + letters['ü'], kind)  # noqa: PTH118 bytes
            os.makedirs(folder)  # noqa: PTH103
            for name in (b'a', b'gr' + letters['ö'] + letters['ß'] + b'er'):
                with open(os.path.join(folder, name + b'.png'), 'wb') as file:  # noqa: PTH118, PTH123
                    file.write(data)


def commands(umlaut: str) -> list[list[str]]:
    name = f'n{umlaut}cht'
    network = f'experiments/{name}/models/net_g_2.pth'
    return [
        ['check', '-opt', f'l{umlaut}uf.yml', '--decode'],
        ['train', '-opt', f'l{umlaut}uf.yml'],
        ['train', '-opt', 'weiter.yml', '--auto_resume'],
        ['test', '-opt', 'test.yml'],
        ['evaluate', f'm{umlaut}={network}', '--truth', f'val{umlaut}/gt', '--lq', f'val{umlaut}/lq',
         '-o', f'results/t{umlaut}'],
        ['restore', f'val{umlaut}/lq', '-o', f'restored{umlaut}', '-m', network, '--suffix', umlaut],
        ['plot', f'experiments/{name}'],
        ['compare', f'experiments/{name}', f'experiments/{name}2', '-o', f'c{umlaut}.png'],
    ]  # fmt: skip


@pytest.mark.parametrize(
    'encoding', ['ISO-8859-1', *(pytest.param(name, marks=pytest.mark.slow) for name in ('C', 'CP1252'))]
)
def test_the_whole_chain(tmp_path: Path, locale_of, encoding: str) -> None:
    """Under C names are ASCII, as it has no other letters; the texts within files have umlauts all the same."""
    environment = locale_of(encoding)
    ascii_only = encoding == 'C'
    letters = {letter: b'u' if ascii_only else letter.encode(LOCALES[encoding]) for letter in 'äöüß'}
    umlaut = 'u' if ascii_only else 'ü'
    place = os.fsencode(tmp_path)
    write_data(place, letters)
    opt = options(
        model_type='VmambaIRModel', train__total_iter=2, logger__save_checkpoint_freq=1, val__val_freq=1,
        datasets__train__type='PairedProgressiveDataset', datasets__val__type='PairedValidationDataset',
        datasets__train__dataroot_gt=f'train{umlaut}/gt', datasets__train__dataroot_lq=f'train{umlaut}/lq',
        datasets__val__dataroot_gt=f'val{umlaut}/gt', datasets__val__dataroot_lq=f'val{umlaut}/lq',
        datasets__val__name=f'Pr{umlaut}fung', val__save_img=True,
        val__metrics={'schärfe': {'type': 'calculate_psnr', 'crop_border': 0}},
    )  # fmt: skip
    name = f'n{umlaut}cht'
    test = options(
        train=..., logger=..., datasets__train=..., val__val_freq=..., val__save_img=True, val__suffix=f'{umlaut}',
        name=name, model_type='VmambaIRModel', datasets__val__type='PairedValidationDataset',
        datasets__val__dataroot_gt=f'val{umlaut}/gt', datasets__val__dataroot_lq=f'val{umlaut}/lq',
        path={'pretrain_network_g': f'experiments/{name}/models/net_g_2.pth'},
    )  # fmt: skip
    test['datasets'] = {'test': test['datasets'].pop('val')}
    files = {
        f'l{umlaut}uf.yml': {**opt, 'name': name},
        'weiter.yml': {**opt, 'name': name, 'train': {**opt['train'], 'total_iter': 3}},
        'zwei.yml': {**opt, 'name': f'{name}2'},
        'test.yml': test,
    }
    for file, content in files.items():
        text = '# größer — ☔ für Übungen\n' + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        path = os.path.join(place, file.replace('ü', '\udcfc').encode('ascii', 'surrogateescape'))  # noqa: PTH118
        with open(path, 'w', encoding='utf-8') as written:  # noqa: PTH123
            written.write(text)
    words = commands(umlaut)
    words.insert(2, ['train', '-opt', 'zwei.yml'])
    code, said = chain(words, tmp_path, environment)
    assert code == 0, said
    assert 'Traceback' not in said
    assert 'schärfe' in said.replace(r'sch\xe4rfe', 'schärfe')  # as far as the locale has the letter

    letter = letters['ü']
    name = b'n' + letter + b'cht'
    restored = {b'a' + letter + b'.png', b'gr' + letters['ö'] + letters['ß'] + b'er' + letter + b'.png'}
    assert restored <= set(os.listdir(os.path.join(place, b'restored' + letter)))  # noqa: PTH118, PTH208
    for written in (
        (b'c' + letter + b'.png',),
        (b'results', b't' + letter, b'table.md'),
        (b'experiments', name, b'curves.png'),
        (b'experiments', name, b'models', b'net_g_3.pth'),
    ):
        assert os.path.getsize(os.path.join(place, *written)) > 0, written  # noqa: PTH118, PTH202
    with open(os.path.join(place, b'experiments', name, b'weiter.yml'), encoding='utf-8') as copied:  # noqa: PTH118, PTH123
        assert '# größer — ☔ für Übungen' in copied.read()


def test_the_help_of_every_command_in_a_locale_without_its_letters(tmp_path: Path) -> None:
    words = [[name, '--help'] for name in COMMANDS] + [['--help'], ['--version']]
    code, said = chain(words, tmp_path, {**PLAIN, 'LC_ALL': 'C'})
    assert code == 0, said
    assert r'cuda:1, \u2026' in said
