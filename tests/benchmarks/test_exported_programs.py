"""What `benchmarks.export` runs: what is asked for and is there, each with the library that it needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import export
from vmambair_arch import OSSNet
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.ops import c_library

KINDS = ('plain', 'half', 'kernel')


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measure, and the results by name at 9x9, and the file kinds that were written."""
    for package in ('onnx', 'onnxruntime'):
        pytest.importorskip(package)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / 'a.pth', OSSNet(dim=8, num_blocks=1, d_state=4))
    monkeypatch.setattr(export, 'RESULTS', tmp_path / 'export.json')

    def measure(*arguments: str) -> tuple[set[str], set[str]]:
        line = ['export', '--model', str(tmp_path / 'a.pth'), '--sizes', '9', '--rounds', '2', *arguments]
        monkeypatch.setattr(sys, 'argv', line)
        threads = torch.get_num_threads()
        try:
            export.main()
        finally:
            torch.set_num_threads(threads)
        results = json.loads((tmp_path / 'export.json').read_text())
        return set(results['sizes']['9']), set(results['files'])

    return measure


@pytest.mark.parametrize('kind', KINDS)
def test_only_what_is_asked_for_is_made_and_earlier_results_stay(kind, measured):
    if kind == 'kernel' and (why := c_library.why_not()):
        pytest.skip(why)
    assert measured('--only', f'onnxruntime, {kind}') == ({'torch', f'onnxruntime, {kind}'}, {kind})
    assert measured('--only', 'half') == ({'torch', f'onnxruntime, {kind}', 'onnxruntime, half'}, {kind, 'half'})


def test_openvino_needs_the_plain_file(measured):
    pytest.importorskip('openvino')
    assert measured('--only', 'f32') == ({'torch', 'openvino, f32'}, {'plain'})


def test_without_a_library_the_others_run(measured, monkeypatch, capsys):
    c_library.why_not()  # what was loaded stays loaded
    monkeypatch.setattr(c_library, 'why_not', lambda: 'no compiler')
    monkeypatch.setattr(c_library, 'path', lambda: pytest.fail('there is none'))
    assert measured('--only', 'onnxruntime') == (
        {'torch', 'onnxruntime, plain', 'onnxruntime, half'},
        {'plain', 'half'},
    )
    assert 'onnxruntime, kernel: left out (no compiler)' in capsys.readouterr().out
    assert measured('--only', 'kernel')[1] == {'plain', 'half'}


def test_a_library_that_lies_elsewhere_is_the_one_that_is_used(measured, monkeypatch):
    if why := c_library.why_not():
        pytest.skip(why)
    monkeypatch.setattr(c_library, 'LIBRARY', Path('nowhere/_kernels.so'))
    assert measured('--only', 'kernel') == ({'torch', 'onnxruntime, kernel'}, {'kernel'})


@pytest.mark.parametrize('package', ['onnxruntime', 'openvino'])
def test_a_package_that_is_missing_is_said(package, measured, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert measured('--only', package)[0] == {'torch'}
    assert f'{package}, ' in capsys.readouterr().out
