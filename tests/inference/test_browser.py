"""A network as one HTML file: what is in it, and that a browser restores what it should."""

from __future__ import annotations

import base64
import gzip
import os
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

from vmambair_arch import VmambaIR, cli
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.errors import UserError
from vmambair_arch.inference.browser import RUNTIME, WASM, page, runtime_files
from vmambair_arch.inference.export import export


@pytest.fixture
def runtime(tmp_path):
    """A folder as npm leaves it, with something else in the files."""
    folder = tmp_path / 'node_modules' / 'onnxruntime-web' / 'dist'
    folder.mkdir(parents=True)
    (folder / RUNTIME).write_text('export const script = "</script>"')
    (folder / WASM).write_bytes(bytes(range(256)))
    return tmp_path


def held(text, name):
    match = re.search(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', text)
    return gzip.decompress(base64.b64decode(match[1]))


def test_the_page_holds_the_network_and_the_runtime(runtime):
    text = page(b'network', 'Rain & <b>', runtime)
    assert held(text, 'network') == b'network'
    assert held(text, 'wasm') == bytes(range(256))
    assert b'</script>' in held(text, 'runtime')
    assert '<h1>Rain &amp; &lt;b&gt;</h1>' in text
    assert not re.search(r'\$(title|runtime|wasm|network)\b', text)
    assert 'http' not in re.sub(r'id="(runtime|wasm|network)">[^<]*', '', text)


@pytest.mark.parametrize('inner', ['.', 'node_modules', 'node_modules/onnxruntime-web/dist'])
def test_the_runtime_is_found_where_npm_leaves_it(runtime, inner):
    assert all(file.is_file() for file in runtime_files(runtime / inner))


def test_what_a_page_cannot_be_made_of_is_said_and_nothing_is_written(tmp_path, runtime, capsys):
    pytest.importorskip('onnx')
    torch.manual_seed(0)
    small = {'dim': 8, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 4}
    save_checkpoint(tmp_path / 'a.pth', VmambaIR(**small))
    target = tmp_path / 'out' / 'a.html'
    assert cli.main(['export', str(tmp_path / 'a.pth'), str(target), '--runtime', str(tmp_path / 'none')]) == 2
    assert 'npm install onnxruntime-web' in capsys.readouterr().err
    with pytest.raises(UserError, match='photographs of any size'):
        export(VmambaIR(**small).eval(), target, (32, 32), runtime=runtime)
    with pytest.raises(UserError, match='pictures of 3 channels; this network has 4'):
        export(VmambaIR(4, 3, dual_pixel_task=True, **small).eval(), target, runtime=runtime)
    assert not target.parent.exists()
    assert cli.main(['export', str(tmp_path / 'a.pth'), str(target), '--runtime', str(runtime)]) == 0
    assert held(target.read_text(encoding='utf-8'), 'wasm') == bytes(range(256))


@pytest.mark.slow
def test_a_browser_restores_what_onnxruntime_restores(tmp_path):
    """From the same weights in half precision, with no server and no connection.

    ONNXRUNTIME_WEB names the folder where npm installed onnxruntime-web.
    """
    pytest.importorskip('onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    playwright = pytest.importorskip('playwright.sync_api')
    chromium, folder = shutil.which('chromium'), os.environ.get('ONNXRUNTIME_WEB')
    if not chromium or not folder:
        pytest.skip('needs chromium and ONNXRUNTIME_WEB')
    torch.manual_seed(0)
    network = VmambaIR.from_preset('light', scale=2).eval()
    export(network, tmp_path / 'a.html', runtime=folder)
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), picture[..., ::-1])
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        tab = browser.new_context(offline=True).new_page()
        tab.goto((tmp_path / 'a.html').as_uri())
        tab.set_input_files('#file', tmp_path / 'a.png')
        tab.wait_for_function('/70 x 50 in|not work|cannot/.test(document.getElementById("status").textContent)')
        assert '70 x 50 in' in tab.text_content('#status')
        tab.wait_for_selector('#save:not([hidden])')
        read = (
            'fetch(document.getElementById("save").href).then(r => r.arrayBuffer()).then(b => [...new Uint8Array(b)])'
        )
        saved = np.array(tab.evaluate(read), np.uint8)
        browser.close()
    restored = cv2.imdecode(saved, cv2.IMREAD_COLOR)[..., ::-1].astype(np.int32)
    export(network, tmp_path / 'a.onnx', half=True)
    image = np.float32(picture.transpose(2, 0, 1)[None]) / 255
    (expected,) = onnxruntime.InferenceSession(tmp_path / 'a.onnx').run(None, {'image': image})
    difference = np.abs(restored - (expected[0].transpose(1, 2, 0) * 255).round())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002
