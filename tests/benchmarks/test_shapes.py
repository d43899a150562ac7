"""The comparison of shapes: the page says what the data says, the preset is the shape that won."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
