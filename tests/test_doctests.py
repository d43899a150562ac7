"""The examples in docstrings, run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ('ops', 'archs', 'images', 'inference', 'data', 'losses', 'metrics')


def modules() -> list[str]:
    folders = [ROOT / 'vmambair_arch' / room for room in ROOMS] + [ROOT / 'realesrgan_pipeline']
    files = [path for folder in folders for path in sorted(folder.rglob('*.py'))]
    with_examples = [path for path in files if '>>> ' in path.read_text(encoding='utf-8')]
    return ['.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__') for path in with_examples]


def test_there_are_examples_of_what_people_call_first():
    wanted = {'inference.restorer', 'archs.vmambair_arch', 'metrics.psnr_ssim', 'ops.reference'}
    assert {f'vmambair_arch.{name}' for name in wanted} | {'realesrgan_pipeline.degradation'} <= set(modules())


@pytest.mark.parametrize('name', modules())
def test_the_examples_print_what_they_say(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
