"""The comparison of shapes: the page says what the data says, the preset is the shape that won."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import shapes
from vmambair_arch.archs import PRESETS
from vmambair_arch.options import load_options, option_file


@pytest.fixture(scope='module')
def results() -> dict:
    return json.loads(shapes.RESULTS.with_suffix('.json').read_text(encoding='utf-8'))


def test_page_is_up_to_date(results: dict) -> None:
    assert shapes.RESULTS.with_suffix('.md').read_text(encoding='utf-8') == shapes.table(results)


def test_the_preset_and_the_recipe_have_the_shape_that_won(results: dict) -> None:
    rows = results['shapes']
    assert list(rows) == list(shapes.SHAPES)
    won = shapes.SHAPES[max(rows, key=lambda name: rows[name]['psnr_y'])]
    recipe = load_options(option_file(shapes.BASE))['network_g']
    for name, value in won.items():
        assert PRESETS['light'][name] == recipe[name] == value


def test_runs_differ_in_shape_and_length_alone() -> None:
    first, second = (shapes.shortened(name, 1000 + i, Path('data')) for i, name in enumerate(list(shapes.SHAPES)[:2]))
    for options, iterations in ((first, 1000), (second, 1001)):
        assert options['train'].pop('total_iter') == iterations
        assert options['train']['scheduler'].pop('periods') == [iterations]
        assert options['datasets']['train'].pop('iters') == [iterations]
        del options['name'], options['network_g']
    assert first == second


def _lay_out(data: Path) -> None:
    for folder in ('train/target', 'train/input', 'val/target', 'val/input'):
        (data / folder).mkdir(parents=True)


def _score_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes.Restorer, 'from_pretrained', lambda path: path)
    monkeypatch.setattr(shapes, 'figures', lambda *_: {'psnr_y/validation': 30.0})


def test_a_training_of_another_length_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(path: Path, folder: Path) -> None:
        options = load_options(path)
        trained.append(options['train']['total_iter'])
        checkpoint = folder / 'experiments' / options['name'] / 'models' / 'net_g_latest.pth'
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()

    monkeypatch.setattr(shapes.demo, 'train', train)
    _score_nothing(monkeypatch)
    for iterations in (5, 7, 5):
        shapes.train(shapes.FIRST, iterations, tmp_path, tmp_path / 'data')
    assert trained == [5, 7]


def test_trainings_have_one_thread_as_the_timing_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def train(path: Path, folder: Path) -> None:
        command = [sys.executable, '-c', 'import torch; print(torch.get_num_threads())']
        threads.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())

    _lay_out(tmp_path / 'data')
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    monkeypatch.setattr(torch, 'set_num_threads', lambda _: None)  # of the process that runs the tests
    monkeypatch.setattr(shapes.demo, 'train', train)
    monkeypatch.setattr(shapes, 'step_times', lambda _: dict.fromkeys(shapes.SHAPES, 1.0))
    _score_nothing(monkeypatch)
    arguments = ['shapes', str(tmp_path / 'runs'), '--data', str(tmp_path / 'data'), '--only', '0']
    monkeypatch.setattr(sys, 'argv', arguments)
    assert shapes.main() == 0
    assert threads == ['1']
    assert os.environ['OMP_NUM_THREADS'] == '1'


@pytest.mark.parametrize('missing', ['train/target', 'val/input'])
def test_missing_folders_are_named_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, missing: str
) -> None:
    _lay_out(tmp_path / 'data')
    (tmp_path / 'data' / missing).rmdir()
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setattr(torch, 'set_num_threads', lambda _: None)
    monkeypatch.setattr(shapes, 'step_times', lambda _: pytest.fail('was timed'))
    monkeypatch.setattr(sys, 'argv', ['shapes', str(tmp_path / 'runs'), '--data', str(tmp_path / 'data')])
    assert shapes.main() == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert f'no folder {missing} below it' in said
    assert not (tmp_path / 'runs').exists()
