"""The JSON schema of option files: what it accepts, refuses and explains; the file in `options` is the same."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from vmambair_arch import cli
from vmambair_arch.options import load_options, override

OPTIONS = sorted((Path(__file__).resolve().parents[2] / 'options').glob('*.yml'))
HEADINGS = ('general settings', 'dataset and data loader settings', 'network structures', 'path', 'validation settings')
WORKED_OUT = {'gan', 'gt', 'pixel', 'perceptual'}
"""Names that a model looks up in dicts of its own; they cannot be told from keys."""


@pytest.fixture(scope='module')
def knowledge():
    from vmambair_arch.plugin import compat

    compat.apply()
    from vmambair_arch.preflight import schema

    return schema.Knowledge()


@pytest.fixture(scope='module')
def text(knowledge):
    from vmambair_arch.preflight import schema

    return schema.text()


@pytest.fixture(scope='module')
def validator(text):
    jsonschema.Draft7Validator.check_schema(json.loads(text))
    return jsonschema.Draft7Validator(json.loads(text))


def test_the_file_in_options_is_up_to_date(text, root):
    fresh = 'stale: run `vmambair check --schema > options/schema.json`'
    assert (root / 'options' / 'schema.json').read_text(encoding='utf-8') == text, fresh


@pytest.mark.parametrize('path', OPTIONS, ids=lambda path: path.stem)
def test_every_option_file_validates(path, validator):
    assert [error.message for error in validator.iter_errors(load_options(path))] == []


@pytest.mark.parametrize('path', OPTIONS, ids=lambda path: path.stem)
def test_every_option_file_names_the_schema_and_has_the_headings_of_basicsr(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    assert lines[0] == '# yaml-language-server: $schema=schema.json'
    assert [heading for heading in HEADINGS if f'# {heading}' not in lines] == []


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        ('train:total_itr=5', 'total_itr'),
        ('nmae=x', 'nmae'),
        ('scale=two', "'two' is not of type 'integer'"),
        ('model_type=VmambairModel', 'is not one of'),
        ('network_g:type=VmambaIr', 'is not one of'),
        ('network_g:num_block=3', 'num_block'),
        ('network_g:channel_fusion=minus', "'minus' is not one of ['mul', 'add']"),
        ('train:pixel_opt:loss_wait=1', 'loss_wait'),
        ('train:scheduler:period=3', 'period'),
        ('train:ema_decay=1', '1 is not valid under any of the given schemas'),
        ('datasets:train:gtsize=3', 'gtsize'),
        ('datasets:train:use_hflip=maybe', "'maybe' is not of type 'boolean'"),
        ('val:metrics:psnr:crop_boarder=3', 'crop_boarder'),
        ('logger:print_frequency=3', 'print_frequency'),
    ],
)
def test_what_the_check_would_refuse_is_marked(change, complaint, validator, root):
    options = load_options(root / 'options' / 'train_derain.yml')
    override(options, [change])
    messages = [error.message for error in validator.iter_errors(options)]
    assert any(complaint in message for message in messages), messages


def test_somebody_elses_model_may_read_any_key(validator, root):
    options = load_options(root / 'options' / 'train_derain.yml') | {'model_type': 'SwinIRModel', 'window': 8}
    assert [error.message for error in validator.iter_errors(options)] == []


def test_every_key_is_explained(knowledge):
    from vmambair_arch.preflight import schema

    silent = [
        (*section, key)
        for section in schema.SECTIONS[:-1]
        for key in knowledge.all_keys(section) - WORKED_OUT
        if not knowledge.text((*section, key))
    ]
    silent += [
        ('datasets', kind, key)
        for kind in knowledge.datasets
        for key in knowledge.dataset_keys(kind)
        if not knowledge.text(('datasets', '*', key))
    ]
    assert silent == [], 'explain these in the docstring of the class that reads them, or in schema.MEANINGS'


def test_the_command_prints_it_with_no_option_file(capsys, text):
    assert cli.main(['check', '--schema']) == 0
    assert capsys.readouterr().out == text
