"""The comparison of recipes: rows differ in what their name says alone, and see the same number of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import optimisers, recipes


def rest(name: str, folder: Path) -> dict[str, Any]:
    """The options of a row without what its name says."""
    recipe = recipes.RECIPES[name]
    options = recipes.shortened(name, 48, folder / 'data', folder)
    train, section = options['train'], options['datasets']['train']
    length = train.pop('total_iter')
    pixels = length * section.pop('mini_batch_sizes')[0] * section.pop('gt_sizes')[0] ** 2
    assert pixels == 48 * optimisers.PATCHES * optimisers.SIZE**2
    assert section.pop('iters') == [length]
    assert section.pop('total_iter') == length
    assert train.pop('warmup_iter') == length // 10
    assert train['optim_g'].pop('lr') == recipe.rate
    assert train['scheduler'].pop('eta_mins') == [pytest.approx(1e-3 * recipe.rate)]
    assert train['scheduler'].pop('periods') == [length]
    for key, loss in recipe.losses.items():
        assert train.pop(key) == loss
    train.pop('pixel_opt', None)
    del options['name'], options['path']
    return options


def test_rows_differ_in_what_they_say_alone(tmp_path: Path) -> None:
    first, *others = (rest(name, tmp_path) for name in recipes.RECIPES)
    assert all(other == first for other in others)


def test_rows_train_in_folders_of_their_own(tmp_path: Path) -> None:
    roots = {recipes.shortened(name, 8, tmp_path, tmp_path)['path']['experiments_root'] for name in recipes.RECIPES}
    assert len(roots) == len(recipes.RECIPES)


def test_a_finished_row_is_not_trained_again_and_all_are_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train_by(options: dict[str, Any], data: Path) -> dict[str, Any]:
        trained.append(options['name'])
        length = options['train']['total_iter']
        return {'iterations': length, 'cpu_ms': 400.0 * 8 / length, 'loss': 0.1, 'params': 28.0, 'params_ema': 28.5}

    monkeypatch.setattr(optimisers, 'train_by', train_by)
    pair = (np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 10, np.uint8))
    monkeypatch.setattr(optimisers, 'middles', lambda data: [pair])
    monkeypatch.setattr(recipes, 'RESULTS', tmp_path / 'recipes')
    monkeypatch.setattr(recipes, 'one_thread', lambda: None)
    for folder in ('train/target', 'train/input', 'val/target', 'val/input'):
        (tmp_path / 'data' / folder).mkdir(parents=True)
    monkeypatch.setattr(
        'sys.argv', ['recipes', str(tmp_path / 'kept'), '--data', str(tmp_path / 'data'), '--iterations', '8']
    )
    assert recipes.main() == 0
    assert recipes.main() == 0
    assert trained == list(recipes.RECIPES)
    page = (tmp_path / 'recipes.md').read_text(encoding='utf-8')
    assert page in capsys.readouterr().out
    for name in recipes.RECIPES:
        assert f'| {name} | {recipes.steps(recipes.RECIPES[name], 8)} | 1.00 | 28.00 | 28.50 |' in page
