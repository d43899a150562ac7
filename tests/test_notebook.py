"""The notebook in docs: executed, without errors, and its cells still run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vmambair_arch  # noqa: F401 fixes basicsr


@pytest.fixture
def cells(root: Path) -> list[dict[str, Any]]:
    notebook = json.loads((root / 'docs' / 'quickstart.ipynb').read_text(encoding='utf-8'))
    return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


def test_it_was_executed_in_order_and_shows_pictures(cells: list[dict[str, Any]]) -> None:
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell['outputs']]
    assert not [output for output in outputs if output['output_type'] == 'error']
    assert sum('image/png' in output.get('data', {}) for output in outputs) >= 3


def test_its_cells_run(cells: list[dict[str, Any]], root: Path, tmp_path: Path) -> None:
    pytest.importorskip('basicsr')
    script = '\n\n'.join(''.join(cell['source']) for cell in cells)
    environment = os.environ | {'MPLBACKEND': 'Agg', 'PYTHONPATH': str(root)}
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
