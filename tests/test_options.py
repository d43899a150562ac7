"""Option files: the reader, and every file of this tree."""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from experiment import write_image
from hypothesis import given
from hypothesis import strategies as st

from vmambair_arch import preflight
from vmambair_arch.errors import UserError
from vmambair_arch.options import load_options, option_file, override, parse_value, written_plainly

OPTIONS = sorted((Path(__file__).resolve().parents[1] / 'options').glob('*.yml'))


@pytest.mark.parametrize('path', OPTIONS, ids=lambda path: path.stem)
def test_every_option_file_parses_and_its_networks_build(path):
    from vmambair_arch.plugin import compat

    compat.apply()
    from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

    opt = load_options(path)
    assert opt['model_type'] in MODEL_REGISTRY
    networks = [dict(value) for key, value in opt.items() if key.startswith('network_')]
    assert networks
    for network in networks:
        with torch.device('meta'):
            net = ARCH_REGISTRY.get(network.pop('type'))(**network)
        assert sum(parameter.numel() for parameter in net.parameters()) > 0


def offline(*args: object, **kwargs: object) -> None:
    raise OSError('offline')


@pytest.mark.parametrize('path', OPTIONS, ids=lambda path: path.stem)
def test_every_option_file_passes_the_check_but_for_its_data(path, monkeypatch, tmp_path):
    from vmambair_arch import preflight
    from vmambair_arch.plugin import compat

    compat.apply()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('urllib.request.urlopen', offline)
    # What this machine has is not the file's fault.
    monkeypatch.setattr('vmambair_arch.preflight.resources.check_memory', lambda *arguments: None)
    arguments = Namespace(opt=path, launcher='none', auto_resume=False, debug=False, force_yml=None)
    faults = preflight.check(arguments).faults
    absent = ('no such folder', 'no such checkpoint file', 'the download failed', 'cannot be read as a list')
    assert [fault for fault in faults if not any(words in fault for words in absent)] == []


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: 1\nb: 2\na: 3\n', r"line 3: key 'a' is there twice"),
        ('t:\n  lr: 1\n  lr: 2\n', r"line 3: key 'lr' is there twice"),
        ('a: [1\n', r'not valid YAML'),
        ('a: !!python/object/apply:os.system [true]\n', r'not valid YAML: .*python/object'),
        ('', r'holds no sections'),
        ('- a\n', r'holds no sections'),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / 'bad.yml'
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_options(path)
    assert 'bad.yml' in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'no option file .*none\.yml'):
        load_options(tmp_path / 'none.yml')


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3), ('-2', -2), ('0.5', 0.5), ('1e-4', 1e-4), ('!!float 2.5', 2.5), ('none', None), ('~', None),
        ('true', True), ('False', False), ('[1, 2]', [1, 2]), ('a/b.png', 'a/b.png'), ('{', '{'),
    ],
)  # fmt: skip
def test_values_of_force_yml(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_override_changes_in_place():
    opt = {'name': 'a', 'train': {'total_iter': 5, 'optim_g': {'lr': 0.1}}}
    override(opt, ['train:total_iter=7', 'train:optim_g:lr=1e-3', 'name=b'])
    assert opt == {'name': 'b', 'train': {'total_iter': 7, 'optim_g': {'lr': 1e-3}}}


BLANK = st.sampled_from(['', ' ', '  ', '\t'])


@given(
    keys=st.lists(st.sampled_from(['train', 'optim_g', 'a key']), min_size=1, max_size=3),
    blanks=st.lists(BLANK, min_size=8, max_size=8),
    value=st.sampled_from(['3', '[1, 2]', 'some words', '', '1e-4', 'none']),
)
def test_blanks_around_keys_mean_nothing_to_the_check_nor_to_basicsr(keys, blanks, value):
    """BasicSR's own loop reads what is handed to it as `override` reads what the user wrote."""
    blank = iter(blanks)
    entry = ':'.join(next(blank) + key + next(blank) for key in keys) + f'={next(blank)}{value}{next(blank)}'
    opt = {}
    place = opt
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    theirs = copy.deepcopy(opt)
    override(opt, [entry])
    # utils/options.py:131 of BasicSR 1.4.2
    text, read = written_plainly(entry).split('=')
    text, read = text.strip(), parse_value(read.strip())
    place = theirs
    *sections, last = text.split(':')
    for section in sections:
        place = place[section]
    place[last] = read
    assert theirs == opt


@pytest.mark.parametrize(
    'entry',
    [
        'train', 'train:a=b=c', 'trian:total_iter=1', 'name:x=1', '=1', 'train:=1', ':total_iter=1', 'train: :a=1',
        'train:"=1', 'train:a\\=1', 'train:a\nb=1',
    ],
)  # fmt: skip
def test_override_refuses(entry):
    with pytest.raises(UserError, match='--force_yml'):
        override({'name': 'a', 'train': {}}, [entry])


def test_merge_keys_work_and_a_key_that_stands_twice_is_still_found(tmp_path):
    file = tmp_path / 'a.yml'
    file.write_text('a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *a, z: 1}\n')
    assert load_options(file) == {'a': {'x': 1}, 'b': {'x': 2}, 'c': {'x': 1, 'z': 1}}
    file.write_text('a: &a {x: 1}\nb:\n  <<: *a\n  y: 1\n  y: 2\n')
    with pytest.raises(UserError, match=r"line 5: key 'y' is there twice"):
        load_options(file)


def test_aliases_that_run_in_circles_or_explode_are_refused_at_once(tmp_path):
    file = tmp_path / 'a.yml'
    file.write_text('a: &a\n  b: *a\n')
    with pytest.raises(UserError, match='an alias .* stands inside of what it means'):
        load_options(file)
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 8)}]' for i in range(1, 12)]
    file.write_text('\n'.join(lines))
    with pytest.raises(UserError, match='more than 100000 values'):
        load_options(file)
    file.write_text('a: ' + '[' * 5000)
    with pytest.raises(UserError, match='nested too deeply'):
        load_options(file)


@pytest.mark.parametrize('content', ['\ufeffname: größer\n'.encode(), 'name: größer\r\n'.encode()])
def test_an_option_file_is_utf8_with_or_without_its_mark(tmp_path, content):
    (tmp_path / 'a.yml').write_bytes(content)
    assert load_options(tmp_path / 'a.yml') == {'name': 'größer'}
    (tmp_path / 'a.yml').write_bytes('name: größer\n'.encode('latin-1'))
    with pytest.raises(UserError, match='is no UTF-8 text'):
        load_options(tmp_path / 'a.yml')


@pytest.mark.parametrize('name', ['options/train_derain.yml', 'train_my_rain.yml', 'elsewhere/demo_sr.yml'])
def test_a_missing_option_file_that_the_package_has_is_named(tmp_path, monkeypatch, name):
    """A checkout is not where an installed package is used."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_options(name)
    there = str(error.value).partition('; ')[2].partition(' is of that name')[0]
    assert Path(there).name == Path(name).name
    assert load_options(there)['model_type']


def test_photographs_of_ones_own_are_all_that_a_first_training_needs(tmp_path, monkeypatch):
    """The option file of docs/train.md, with its validation as well once the signs are taken away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('photographs/a.png', 'photographs/deeper/b.png', 'kept_back/c.png'):
        write_image(tmp_path / name, 40, 52)
    text = option_file('train_my_rain.yml').read_text(encoding='utf-8')
    validated = text.replace('\n  # val:', '\n  val:').replace('\n  #   ', '\n    ')
    for number, content in enumerate((text, validated)):
        (tmp_path / f'{number}.yml').write_text(content, encoding='utf-8')
        arguments = Namespace(
            opt=f'{number}.yml', launcher='none', auto_resume=False, debug=False, force_yml=['train:total_iter=2000']
        )
        assert ('val' in load_options(f'{number}.yml')['datasets']) == bool(number)
        assert preflight.check(arguments).faults == []
