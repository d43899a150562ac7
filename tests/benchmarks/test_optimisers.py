"""The comparison of optimisers: the page says what the data says, runs differ in their optimiser alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import optimisers
from vmambair_arch.models.optimizers import OPTIMIZERS

AVERAGED_BY_THEMSELVES = {'AdamWScheduleFree'}


@pytest.fixture(scope='module')
def results() -> dict[str, Any]:
    return json.loads(optimisers.RESULTS.with_suffix('.json').read_text(encoding='utf-8'))


def test_page_is_up_to_date(results: dict[str, Any]) -> None:
    assert optimisers.RESULTS.with_suffix('.md').read_text(encoding='utf-8') == optimisers.table(results)
    assert set(results['optimisers']) <= set(optimisers.OPTIMISERS)
    assert {row['iterations'] for row in results['optimisers'].values()} == {results['iterations']}


def test_the_recipes_show_the_table(results: dict[str, Any]) -> None:
    recipes = (Path(optimisers.__file__).parents[1] / 'docs/recipes.md').read_text(encoding='utf-8')
    rows = [line for line in optimisers.table(results).splitlines() if line.startswith('|')]
    assert '\n'.join(rows) in recipes
    assert f'--iterations {results["iterations"]}' in recipes


def test_runs_differ_in_their_optimiser_alone(tmp_path: Path) -> None:
    def rest(name: str) -> dict[str, Any]:
        options = optimisers.shortened(name, 50, tmp_path / 'data', tmp_path)
        train = options['train']
        assert train.pop('optim_g') == optimisers.OPTIMISERS[name].options
        if name in AVERAGED_BY_THEMSELVES:
            assert train.pop('scheduler') == {'type': 'MultiStepLR', 'milestones': [], 'gamma': 1}
            assert train.pop('ema_decay') == 0
        else:
            scheduler = train.pop('scheduler')
            assert scheduler.pop('eta_mins') == [pytest.approx(1e-3 * optimisers.OPTIMISERS[name].options['lr'])]
            assert scheduler['periods'] == [50]
            assert train.pop('ema_decay') == 0.999
        del options['name'], options['path']
        return options

    first, *others = map(rest, optimisers.OPTIMISERS)
    assert all(other == first for other in others)
    assert first['train']['total_iter'] == 50
    assert first['train']['warmup_iter'] == 5


def test_every_optimiser_is_one_of_ours() -> None:
    extra = {'AdamWScheduleFree', 'SOAP'}
    assert {row.options['type'] for row in optimisers.OPTIMISERS.values()} <= {*OPTIMIZERS, *extra}


def test_a_finished_optimiser_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(name: str, iterations: int, data: Path, folder: Path) -> dict[str, Any]:
        trained.append((name, iterations))
        return {'iterations': iterations, 'cpu_ms': 1.0, 'loss': 0.1, 'params': 30.0, 'params_ema': 31.0}

    monkeypatch.setattr(optimisers, 'train', train)
    monkeypatch.setattr(optimisers, 'one_thread', lambda: None)
    for folder in ('train/target', 'train/input', 'val/target', 'val/input'):
        (tmp_path / 'data' / folder).mkdir(parents=True)
    words = ['optimisers', str(tmp_path / 'kept'), '--data', str(tmp_path / 'data'), '--only', 'AdamW', 'Lion']
    for iterations in (5, 5, 6):
        monkeypatch.setattr('sys.argv', [*words, '--iterations', str(iterations)])
        assert optimisers.main() == 0
    assert trained == [('AdamW', 5), ('Lion', 5), ('AdamW', 6), ('Lion', 6)]
    assert {path.name for path in (tmp_path / 'kept').iterdir()} == {
        'AdamW_5.json', 'AdamW_6.json', 'Lion_5.json', 'Lion_6.json',
    }  # fmt: skip
