"""`vmambair doctor`: the choice of the scan, why, and whether it is right."""

from __future__ import annotations

import pytest
import torch

from vmambair_arch.cli import main
from vmambair_arch.commands import doctor


def test_a_healthy_machine(capsys):
    assert main(['doctor']) == 0
    said = capsys.readouterr().out
    for words in (
        'Python',
        'torch',
        'BasicSR: imports; 6 of our networks',
        'OpenCV: ',
        "scan on cpu: '",
        'right: differs',
    ):
        assert words in said


def test_a_scan_that_is_asked_for_and_not_there(capsys, monkeypatch):
    monkeypatch.setenv('VMAMBAIR_SCAN', 'mamba')
    assert main(['doctor']) == 1
    assert 'VMAMBAIR_SCAN=mamba cannot be used' in capsys.readouterr().out


def test_a_scan_that_is_wrong(monkeypatch):
    """A backend that computes something else is told from the reference."""
    import torch

    from vmambair_arch import ops

    real = ops.omni_scan

    def wrong(*args, backend=None, **kwargs):
        return real(*args, backend=backend, **kwargs) * (1 if backend == 'reference' else 1.01)

    monkeypatch.setattr(ops, 'omni_scan', wrong)
    line = doctor._try_scan(torch.device('cpu'), 'torch')
    assert not line.well
    assert 'wrong' in line.text


def test_opencv_that_cannot_be_loaded(monkeypatch):
    def load(name: str):
        raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')

    monkeypatch.setattr(doctor.importlib, 'import_module', load)
    line = doctor._examine_opencv()
    assert not line.well
    assert 'apt install libgl1 libglib2.0-0' in line.text


def test_a_scan_that_cannot_run(monkeypatch):
    """Triton without a C compiler imports, and fails at its first call."""
    import torch

    from vmambair_arch import ops

    real = ops.omni_scan

    def broken(*args, backend=None, **kwargs):
        if backend != 'reference':
            raise RuntimeError('Failed to find C compiler.\nPlease specify via CC environment variable.')
        return real(*args, backend=backend, **kwargs)

    monkeypatch.setattr(ops, 'omni_scan', broken)
    line = doctor._try_scan(torch.device('cpu'), 'triton')
    assert not line.well
    assert 'Failed to find C compiler. Please specify' in line.text


def test_a_gpu_has_a_table_of_what_was_tried(monkeypatch):
    """Every backend with its outcome; what fails with the fix, and a bad end of the command."""
    import torch

    from vmambair_arch import ops
    from vmambair_arch.ops.self_check import Verdict

    verdicts = (
        Verdict('triton', 'fails', 'RuntimeError: Failed to find C compiler'),
        Verdict('mamba', 'right', '', 0.5, 1.25, repeatable=False),
        Verdict('torch', 'right', '', 20.0, 60.0),
    )
    mamba = next(backend for backend in ops.BACKENDS if backend.name == 'mamba')
    asked = []

    def choose(device, dtype, *, fresh=False):
        asked.append(fresh)
        return ops.Choice(mamba, 'the first that is right here', (), verdicts)

    def choose_depthwise(device, dtype, *, fresh=False):
        asked.append(fresh)
        found = Verdict('triton', 'wrong', 'gate: y is off by 1.0e-02'), Verdict('torch', 'right', '', 2.0, 6.0)
        return ops.Choice(ops.BACKENDS[-1], 'the first that is right here', (), found)

    monkeypatch.setattr(ops, 'choose', choose)
    monkeypatch.setattr(ops, 'choose_depthwise', choose_depthwise)
    lines = list(doctor.examine_gpu(torch.device('cuda', 1), torch.bfloat16))
    assert asked == [True, True]
    assert [line.text for line in lines] == [
        "scan on cuda:1 in bfloat16: 'mamba', the first that is right here",
        '  triton  fails       RuntimeError: Failed to find C compiler. Fix: install a C compiler (Debian and Ubuntu: '
        'apt install gcc), or name one in the variable CC',
        '  mamba   right       forward     0.50 ms, backward     1.25 ms; two runs differ in the last bits',
        '  torch   right       forward    20.00 ms, backward    60.00 ms',
        "depthwise on cuda:1 in bfloat16: 'torch', the first that is right here",
        '  triton  wrong       gate: y is off by 1.0e-02',
        '  torch   right       forward     2.00 ms, backward     6.00 ms',
    ]
    assert [line.well for line in lines] == [True, False, True, True, True, False, True]


@pytest.mark.parametrize(
    ('cuda', 'hip', 'built'), [('12.8', None, 'torch built for CUDA 12.8'), (None, '6.4', 'torch built for ROCm 6.4')]
)
def test_every_gpu_is_examined_in_every_dtype_and_named_for_what_it_is(monkeypatch, cuda, hip, built):
    examined = []

    def examine_gpu(device, dtype):
        examined.append((str(device), dtype))
        return iter(())

    monkeypatch.setattr(torch.version, 'cuda', cuda)
    monkeypatch.setattr(torch.version, 'hip', hip)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda index: f'Card {index}')
    monkeypatch.setattr(doctor, 'examine_gpu', examine_gpu)
    said = [line.text for line in doctor._examine_scan()]
    assert [line for line in said if line.startswith('GPU')] == [
        f'GPU cuda:{index}: Card {index}, {built}' for index in range(2)
    ]
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    assert examined == [(f'cuda:{index}', dtype) for index in range(2) for dtype in dtypes]
