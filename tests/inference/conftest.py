"""Small stand-ins for networks, whose right answer is known; and a browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch.nn.functional as F
from torch import nn


class Halve(nn.Module):
    """Halves every value, upsamples by nearest and records the shapes that it saw."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.config = {'scale': scale}
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return F.interpolate(x / 2, scale_factor=self.config['scale'], mode='nearest')


@pytest.fixture
def halve() -> Halve:
    return Halve()


@pytest.fixture
def halve_x2() -> Halve:
    return Halve(2)


def _skip_without(name: str, there: object) -> None:
    """In CI, which sets VMAMBAIR_BROWSER_TESTS, what is not there is an error."""
    if not there and not os.environ.get('VMAMBAIR_BROWSER_TESTS'):
        pytest.skip(f'not installed: {name}')


@pytest.fixture(scope='session')
def gradio() -> None:
    """Skips without it."""
    _skip_without('gradio', importlib.util.find_spec('gradio'))


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    """Chromium, by playwright; skips without them."""
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    _skip_without('playwright', importlib.util.find_spec('playwright'))
    _skip_without('chromium', chromium)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield browser
        browser.close()
