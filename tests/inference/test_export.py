"""Exported networks give what torch gives, at any size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vmambair_arch import OSSNet, VmambaIR, cli
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.errors import UserError
from vmambair_arch.inference.export import SMALLEST, export

SIZES = ((SMALLEST, SMALLEST), (27, 40), (64, 33))


def check_onnx(network, path):
    onnxruntime = pytest.importorskip('onnxruntime')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for size in SIZES:
        image = torch.rand(1, 3, *size)
        (restored,) = session.run(['restored'], {'image': image.numpy()})
        with torch.no_grad():
            expected = network(image).clamp(0, 1).numpy()
        assert restored.shape == expected.shape
        assert np.abs(restored - expected).max() < 1e-4
    return session


@pytest.fixture
def onnx():
    pytest.importorskip('onnxscript')
    return pytest.importorskip('onnx')


def test_onnx_of_any_size(tmp_path, onnx, capsys):
    torch.manual_seed(0)
    network = OSSNet(dim=16, num_blocks=1, d_state=2).eval()  # wide enough for the fused kernels
    save_checkpoint(tmp_path / 'a.pth', network)
    assert cli.main(['export', str(tmp_path / 'a.pth'), str(tmp_path / 'a.onnx')]) == 0
    session = check_onnx(network, tmp_path / 'a.onnx')
    about = json.loads(session.get_modelmeta().custom_metadata_map['vmambair'])
    assert about['arch'] == 'OSSNet'
    assert about['config'] == network.config
    nodes = [node.op_type for node in onnx.load(tmp_path / 'a.onnx').graph.node]
    assert nodes.count('Scan') == 2  # the plane and the channels: loops are not unrolled
    with pytest.raises(Exception, match='invalid dimensions'):
        session.run(None, {'image': np.zeros((1, 1, 16, 16), np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize(
    'config',
    [
        {'scale': 1, 'channel_width': 2},
        {'scale': 2, 'channel_width': 1, 'd_state': 16},
        {'scale': 3, 'plane_directions': 1, 'channel_directions': 0, 'effn': False},
        {'scale': 4, 'channel_width': 4, 'channel_pool': False, 'pointwise': 'linear'},
    ],
)
def test_onnx_of_every_form(tmp_path, onnx, config):
    torch.manual_seed(0)
    network = VmambaIR(
        **{'dim': 8, 'num_blocks': [1, 1, 0, 1], 'num_refinement_blocks': 1, 'd_state': 4, **config}
    ).eval()
    export(network, tmp_path / 'a.onnx')
    check_onnx(network, tmp_path / 'a.onnx')


@pytest.mark.slow
def test_programs_of_torch_export(tmp_path):
    torch.manual_seed(0)
    network = VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4, scale=2).eval()
    export(network, tmp_path / 'a.pt2')
    program = torch.export.load(tmp_path / 'a.pt2').module()
    for size in SIZES:
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(image), network(image).clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_aot_inductor(tmp_path, checkpoint, tiny):
    target = tmp_path / 'a.pt2'
    assert cli.main(['export', str(checkpoint), str(target), '--size', '40', '24']) == 0
    package = torch._inductor.aoti_compile_and_package(torch.export.load(target), package_path=str(tmp_path / 'b.pt2'))
    image = torch.rand(1, 3, 24, 40)
    with torch.no_grad():
        expected = tiny(image).clamp(0, 1)
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(image), expected, atol=1e-4, rtol=0)


def test_bad_targets(tmp_path, tiny, capsys, checkpoint):
    with pytest.raises(UserError, match=r'a.tflite: a network is exported as .onnx or .pt2'):
        export(tiny, tmp_path / 'a.tflite')
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.xyz')]) == 2
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.onnx'), '--size', '8', '100']) == 2
    assert 'sides of 9 to 16384 pixels, got 8x100' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_nothing(tmp_path, tiny, monkeypatch):
    from vmambair_arch.inference import export as module

    def fail(network, size):
        assert len(list(tmp_path.iterdir())) == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'export_program', fail)
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path / 'a.pt2')
    assert not list(tmp_path.iterdir())


def test_the_scan_is_given_back(tiny, monkeypatch):
    """After an export, failed or not, networks run on the kernels again."""
    from vmambair_arch.archs import oss_block
    from vmambair_arch.inference import export as module

    before = oss_block.omni_scan
    monkeypatch.setattr(module.torch.export, 'export', lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.export_program(tiny)
    assert oss_block.omni_scan is before
