"""What CI runs is there: a file that was renamed would fail an hour later."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest


@pytest.mark.parametrize('path', ['.ci/run', '.github/workflows/ci.yml', '.github/workflows/wheels.yml'])
def test_the_files_that_ci_names_exist(root, path):
    text = (root / path).read_text(encoding='utf-8')
    named = re.findall(r'(?:tests|docs|benchmarks)/[\w./]+\.(?:py|jpg|png|md)|(?<![\w/])\.ci/run', text)
    assert named
    assert [name for name in named if not (root / name).exists()] == []


@pytest.mark.parametrize(
    ('changes', 'spread'),
    [
        ({}, True),
        ({'args_source': pytest.Config.ArgsSource.ARGS}, False),
        ({'markexpr': 'slow'}, False),
        ({'keyword': 'jpeg'}, False),
        ({'lf': True}, False),
        ({'usepdb': True}, False),
        ({'capture': 'no'}, False),
        ({'numprocesses': 0}, False),
        ({'dist': 'load'}, False),
        ({'plugins': ()}, False),
        ({'cores': 1}, False),
    ],
    ids=str,
)
def test_the_whole_suite_is_spread_over_the_cores_and_what_is_picked_is_not(
    root, request, monkeypatch, changes, spread
):
    conftest = request.config.pluginmanager.get_plugin(str(root / 'tests' / 'conftest.py'))
    said = {'markexpr': 'not slow', 'keyword': '', 'capture': 'fd', 'numprocesses': None, 'dist': 'no', **changes}
    source = said.pop('args_source', pytest.Config.ArgsSource.TESTPATHS)
    plugins, cores = said.pop('plugins', ('xdist',)), said.pop('cores', 2)
    monkeypatch.setattr(conftest, 'cores', lambda: cores)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    option = SimpleNamespace(**said)
    config = SimpleNamespace(
        option=option, args_source=source, getoption=lambda name, default: getattr(option, name, default),
        pluginmanager=SimpleNamespace(hasplugin=lambda name: name in plugins),
    )  # fmt: skip
    before = option.numprocesses, option.dist
    conftest.pytest_cmdline_main(config)
    assert (option.numprocesses, option.dist) == ((2, 'loadfile') if spread else before)
