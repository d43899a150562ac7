"""What is asked for is done or refused: nothing is passed over, and no file of the user's is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment import write_image

from vmambair_arch.cli import main
from vmambair_arch.evaluation import datasets


def test_a_photograph_is_not_replaced_by_its_degradations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image(Path('a.png'), 64, 64)
    before = Path('a.png').read_bytes()
    assert main(['degrade', 'a.png', '-o', './a.png', '--grid', '2']) == 2
    assert 'a.png: is the photograph itself' in capsys.readouterr().err
    assert Path('a.png').read_bytes() == before
    assert main(['degrade', 'a.png', '--set', 'scale=2']) == 2
    assert '--set scale: write --scale' in capsys.readouterr().err


@pytest.mark.parametrize('beside', [['--truth', 'gt'], ['--lq', 'lq']])
def test_data_sets_are_named_in_one_way(beside, capsys):
    assert main(['evaluate', 'x', '--data', 'a', 'gt', *beside]) == 2
    assert '--data names its own folders' in capsys.readouterr().err


def test_an_address_may_have_an_equals_sign(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, 'find_checkpoint', lambda path: asked.append(path) or Path('p'))
    addresses = ['https://host/one.safetensors#sha256=00', 'https://host/two.pth?download=true']
    methods = datasets.find_methods([*addresses, f'third={addresses[0]}'])
    assert [method.name for method in methods] == ['one', 'two', 'third']
    assert asked == [*addresses, addresses[0]]


def test_an_export_says_what_is_left_to_other_programs(tmp_path, tiny, capsys):
    pytest.importorskip('onnx')
    from vmambair_arch.checkpoints.convert import save_checkpoint

    for fix in ('none', 'wavelet'):
        save_checkpoint(tmp_path / 'a.safetensors', tiny, colour_fix=None if fix == 'none' else fix)
        assert main(['export', str(tmp_path / 'a.safetensors'), str(tmp_path / 'a.pt2'), '--size', '16', '16']) == 0
        assert ('the colours of their inputs' in capsys.readouterr().out) == (fix == 'wavelet')
