"""One thing wrong in an option file is a line that names it: a share of `python -m benchmarks.mutations`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.mutations import KINDS, PATHS, as_yaml, drawn, judge, mutate, places
from vmambair_arch.plugin import compat

compat.apply()
SOME = ('train_derain.yml', 'train_realsr_gan.yml', 'test_sr.yml')


def test_no_change_of_a_value_ends_in_a_traceback_or_in_the_words_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    counts = mutate(36, 2, tmp_path, told.append, names=SOME)
    assert told == []
    assert set(counts) == {'refused', 'passed'}


def test_each_kind_of_change_is_drawn() -> None:
    options = {'name': 'a', 'path': {'resume_state': None}, 'datasets': {'train': {'dataroot_gt': 'gt'}}}
    draw = random.Random(0)
    drawings = {kind: [drawn(options, kind, draw) for _ in range(200)] for kind in KINDS}
    assert {value for _, value in drawings['paths']} == set(PATHS)
    assert ('datasets', 'train', 'meta_info_file') in {place for place, _ in drawings['paths']}
    assert {place for place, _ in drawings['twice']} == set(places(options))


def test_a_key_that_is_there_twice_is_so_in_the_text() -> None:
    options = {'train': {'optim_g': {'lr': 1, 'type': 'Adam'}}, 'name': 'a'}
    assert as_yaml(options) == yaml.safe_dump(options, sort_keys=False)
    text = as_yaml(options, ('train', 'optim_g', 'lr'))
    assert text.count('lr:') == 2
    assert as_yaml(options, ('name',)).splitlines()[-2:] == ['name: a', 'name: null']


@pytest.mark.parametrize(
    ('faults', 'verdict'),
    [
        ([], ''),
        (['train: optim_g: lr must be a number above 0, not -1'], ''),
        (['something old'], ''),
        (['something is wrong'], 'unnamed'),
        (["train: lr: 'float' object is not iterable (TypeError)"], 'python'),
        (["train: lr: cannot be read ([Errno 21] Is a directory: '.')"], 'python'),
    ],
)
def test_what_counts_as_a_poor_line(faults: list[str], verdict: str) -> None:
    place: Any = ('train', 'optim_g', 'lr')
    assert judge(['something old'], faults, place, 'lr') == verdict
