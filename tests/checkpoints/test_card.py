"""Model cards: a machine and a person can read them."""

from __future__ import annotations

import hashlib
import json

import yaml

from vmambair_arch import cli
from vmambair_arch.checkpoints.card import card
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.load import digest


def front(text):
    _, head, body = text.split('---\n', 2)
    return yaml.safe_load(head), body


def test_a_card(tmp_path, tiny):
    path = tmp_path / 'light.safetensors'
    about = {'task': 'derain', 'training_data': 'photographs with synthetic rain', 'license': 'Apache-2.0'}
    about |= {'recipe': 'options/mine.yml', 'compute': '2 cores, 3 h', 'limits': 'Fog stays.'}
    save_checkpoint(path, tiny, metrics={'psnr_y/Rain100L': 39.09, 'ssim_y/Rain100L': 0.979}, **about)
    head, body = front(card(path))
    assert head['license'] == 'apache-2.0'
    assert head['pipeline_tag'] == 'image-to-image'
    assert 'derain' in head['tags']
    result = head['model-index'][0]['results'][0]
    assert result['dataset']['name'] == 'Rain100L'
    assert [(one['type'], one['value']) for one in result['metrics']] == [('psnr_y', 39.09), ('ssim_y', 0.979)]
    for expected in (
        'Single-image deraining',
        'synthetic rain',
        '| recipe | options/mine.yml |',
        '| compute | 2 cores, 3 h |',
        'Known: Fog stays.',
        '| psnr_y/Rain100L | 39.09 |',
        digest(tiny.state_dict()),
    ):
        assert expected in body
    assert yaml.safe_load(body.split('```yaml\n')[1].split('```')[0]) == tiny.config


def test_a_file_that_says_nothing(checkpoint):
    head, body = front(card(checkpoint))
    assert head['license'] == 'unknown'
    assert 'model-index' not in head
    assert 'not stated' in body


def test_text_from_a_file_stays_text(tmp_path, tiny):
    path = tmp_path / 'a.safetensors'
    save_checkpoint(
        path, tiny, task='x\n---\nlicense: mit', training_data='<script>|\n# Heading', license='a: b', limits='# x'
    )
    head, body = front(card(path))
    assert head['license'] == 'a: b'
    assert head['tags'][-1] == 'x --- license: mit'
    assert '<script>' not in body
    assert '\n# Heading' not in body
    assert '\n# x' not in body


def test_the_command(tmp_path, checkpoint, capsys):
    assert cli.main(['card', str(checkpoint), '-o', str(tmp_path / 'README.md')]) == 0
    assert (tmp_path / 'README.md').read_text() == card(checkpoint)
    assert cli.main(['card', 'gone.pth', '-o', str(tmp_path / 'x.md')]) == 2
    assert not (tmp_path / 'x.md').exists()


def test_a_readme_is_replaced_only_where_it_is_named(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['card', str(checkpoint)]) == 0
    assert capsys.readouterr().out == 'wrote README.md\n'
    (tmp_path / 'README.md').write_text('of the project')
    assert cli.main(['card', str(checkpoint)]) == 2
    assert 'README.md is there already' in capsys.readouterr().err
    assert (tmp_path / 'README.md').read_text() == 'of the project'
    assert cli.main(['card', str(checkpoint), '-o', 'README.md']) == 0
    assert (tmp_path / 'README.md').read_text() == card(checkpoint)


def test_an_entry_for_openmodeldb(tmp_path, tiny, monkeypatch):
    save_checkpoint(tmp_path / 'rain.safetensors', tiny, task='derain', license='Apache-2.0', limits='Fog stays.')
    monkeypatch.chdir(tmp_path)
    assert cli.main(['card', 'rain.safetensors', '--openmodeldb']) == 0
    entry = json.loads((tmp_path / 'rain.json').read_text())
    assert (entry['architecture'], entry['scale'], entry['inputChannels']) == ('vmambair', 1, 3)
    assert entry['description'] == 'Single-image deraining with VmambaIR. Fog stays.'
    content = (tmp_path / 'rain.safetensors').read_bytes()
    assert entry['resources'][0]['sha256'] == hashlib.sha256(content).hexdigest()
    assert entry['resources'][0]['size'] == len(content)
