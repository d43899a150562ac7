"""One thing wrong in an option file is a line that names it: a share of `python -m benchmarks.mutations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutations import judge, mutate
from vmambair_arch.plugin import compat

compat.apply()
SOME = ('train_derain.yml', 'train_realsr_gan.yml', 'test_sr.yml')


def test_no_change_of_a_value_ends_in_a_traceback_or_in_the_words_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    counts = mutate(30, 2, tmp_path, told.append, names=SOME)
    assert told == []
    assert set(counts) == {'refused', 'passed'}


@pytest.mark.parametrize(
    ('faults', 'verdict'),
    [
        ([], ''),
        (['train: optim_g: lr must be a number above 0, not -1'], ''),
        (['something old'], ''),
        (['something is wrong'], 'unnamed'),
        (["train: lr: 'float' object is not iterable (TypeError)"], 'python'),
    ],
)
def test_what_counts_as_a_poor_line(faults: list[str], verdict: str) -> None:
    place: Any = ('train', 'optim_g', 'lr')
    assert judge(['something old'], faults, place, 'lr') == verdict
