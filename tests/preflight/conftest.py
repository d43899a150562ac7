"""A folder with a tiny experiment, and the check of its option file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment import options, write_options, write_pairs

from vmambair_arch.plugin import compat

compat.apply()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: 3 training and 2 validation pairs of 24 x 24 pixels, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    write_pairs(tmp_path / 'train', 3)
    write_pairs(tmp_path / 'val', 2)
    return tmp_path


@pytest.fixture
def check(workplace: Path) -> Callable[..., Any]:
    """The report on `experiment.options` with changes; arguments of the command line in capitals."""
    from vmambair_arch import preflight

    def check(training: bool | None = None, **changes: Any) -> preflight.Report:
        arguments = {'launcher': 'none', 'auto_resume': False, 'debug': False, 'force_yml': None}
        arguments |= {key.lower(): changes.pop(key) for key in list(changes) if key.isupper()}
        path = write_options(workplace / 'train.yml', options(**changes))
        return preflight.check(Namespace(opt=path.name, **arguments), training)

    return check
