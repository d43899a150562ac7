"""Bad input of a benchmark is one line and exit code 2, as that of a command."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from vmambair_arch.errors import guard

FOLDER = Path(__file__).parents[2] / 'benchmarks'
OF_THEIR_OWN = {'gpu', 'gpu_trials', 'training_step', 'tables'}
"""Those that start themselves in other checkouts and processes, and the one that takes nothing."""


def programs() -> list[Path]:
    found = [path for path in sorted(FOLDER.rglob('*.py')) if path.stem not in OF_THEIR_OWN]
    return [path for path in found if '__main__' in path.read_text(encoding='utf-8')]


@pytest.mark.parametrize('path', programs(), ids=lambda path: path.stem)
def test_every_program_is_guarded(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.Call)]
    assert 'guard' in {call.func.id for call in calls if isinstance(call.func, ast.Name)}


@pytest.mark.parametrize(
    ('name', 'arguments', 'named'),
    [
        ('realworld_pairs', ['nowhere', '--out', 'pairs'], 'nowhere'),
        ('realworld', ['--truth', 'Kodak', 'nowhere'], 'nowhere'),
        ('realworld', ['--network', 'mine', 'nowhere.pth'], 'nowhere.pth'),
        ('shipped', ['sr', 'nowhere.pth', '--compute', 'none'], 'nowhere.pth'),
        ('denoise', ['nowhere.pth'], 'nowhere.pth'),
        ('tiles', ['-m', 'nowhere.pth', '--sizes', '--seams', 'x.png'], 'x.png'),
        ('export', ['-m', 'nowhere.pth'], 'nowhere.pth'),
        ('deraining', ['derain', '--pairs', 'nowhere', 'here'], 'nowhere'),
    ],
)
def test_one_line_names_it(name, arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [name, *arguments])
    try:
        code = guard(importlib.import_module(f'benchmarks.{name}').main)
    except SystemExit as end:  # argparse's own
        code = end.code
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2, said
    assert named in said[-1]
    assert sum('error' in line for line in said) == 1
    assert not any('Traceback' in line for line in said)
    assert not list(tmp_path.iterdir())


def ranged() -> list[tuple[str, str, str]]:
    """Every option of a program that takes a number from 0 or 1, with one below that."""
    found = []
    for path in sorted(FOLDER.rglob('*.py')):
        name = '.'.join(path.relative_to(FOLDER.parent).with_suffix('').parts)
        for call in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            kind = next((k.value for k in getattr(call, 'keywords', []) if k.arg == 'type'), None)
            below = {'positive': '0', 'natural': '-1', 'duration': '-1'}.get(getattr(kind, 'id', ''))
            if below:
                found.append((name, call.args[0].value, below))
            else:
                assert getattr(kind, 'id', '') != 'int' or path.stem == 'training_step', f'{path}: {ast.unparse(call)}'
    return [*found, *(('benchmarks.training_step', f'--{name}', '0') for name in ('rounds', 'side', 'steps'))]


@pytest.mark.parametrize(('module', 'option', 'below'), ranged())
@pytest.mark.parametrize('shift', ['', 'x'])
def test_numbers_out_of_range(module, option, below, shift, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [module, f'{option}={below}{shift}'])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main()
    said = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert f'argument {option}: ' in said[-1]
