"""What CI runs is there: a file that was renamed would fail an hour later."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize('path', ['.ci/run', '.github/workflows/ci.yml', '.github/workflows/wheels.yml'])
def test_the_files_that_ci_names_exist(root, path):
    text = (root / path).read_text(encoding='utf-8')
    named = re.findall(r'(?:tests|docs|benchmarks)/[\w./]+\.(?:py|jpg|png|md)|(?<![\w/])\.ci/run', text)
    assert named
    assert [name for name in named if not (root / name).exists()] == []
