"""A network as one HTML file: what is in it, and that a browser restores what it should."""

from __future__ import annotations

import base64
import gzip
import os
import re

import cv2
import numpy as np
import pytest
import torch

from vmambair_arch import VmambaIR, cli
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.errors import UserError
from vmambair_arch.inference.browser import RUNTIME, WASM, page, runtime_files
from vmambair_arch.inference.export import export

STAND_IN = """
export const env = { wasm: {} };
export class Tensor { constructor(type, data, dims) { Object.assign(this, { data, dims }) } }
export const InferenceSession = { create: async () => ({ run: async ({ image: { data, dims: [, , h, w] } }) => {
  await new Promise(done => setTimeout(done, w * h === 4096 ? 0 : WAIT));   // the page's own trial is no picture
  FAULT
  const restored = new Float32Array(3 * h * w * SCALE * SCALE);
  for (let c = 0; c < 3; c++) restored.fill(data[c * h * w], c * h * w * SCALE ** 2, (c + 1) * h * w * SCALE ** 2);
  return { restored: { dims: [1, 3, h * SCALE, w * SCALE], data: restored } };
} }) };
"""
"""onnxruntime-web, for a network that paints all of a picture in the colour of its first pixel, and takes WAIT ms."""
RED, BLUE = (255, 0, 0), (0, 0, 255)


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


class Tab:
    """A page whose network is `STAND_IN`, in a browser without a connection."""

    def __init__(self, browser, runtime, wait=0, scale=1, fault=''):
        script = STAND_IN.replace('WAIT', str(wait)).replace('SCALE', str(scale)).replace('FAULT', fault)
        (runtime / 'node_modules/onnxruntime-web/dist' / RUNTIME).write_text(script)
        (runtime / 'a.html').write_text(page(b'network', 'Test', runtime), encoding='utf-8')
        self.tab = browser.new_context(offline=True).new_page()
        self.tab.set_default_timeout(60_000)
        self.faults = []
        self.tab.on('pageerror', lambda error: self.faults.append(error))
        self.tab.goto((runtime / 'a.html').as_uri())
        self.folder = runtime

    def picture(self, name, colour, size=(30, 40)):
        cv2.imwrite(str(self.folder / name), np.full((*size, 3), colour, np.uint8)[..., ::-1])
        return self.folder / name

    def choose(self, name, *args):
        self.tab.set_input_files('#file', self.picture(name, *args))

    def drop(self, name, *args):
        data = base64.b64encode(self.picture(name, *args).read_bytes()).decode()
        line = """async ([name, data]) => {
          const blob = await (await fetch('data:image/png;base64,' + data)).blob(), held = new DataTransfer();
          held.items.add(new File([blob], name));
          dispatchEvent(new DragEvent('drop', { dataTransfer: held, cancelable: true }));
        }"""
        self.tab.evaluate(line, [name, data])

    def hold(self):
        """Keep from now on what is asked of the network, until `release`."""
        self.tab.evaluate("""async () => {
          await ready;
          const post = worker.postMessage.bind(worker), gate = new Promise(done => { window.release = done });
          worker.postMessage = message => { gate.then(() => post(message)) };
        }""")

    def release(self):
        self.tab.evaluate('release()')

    def says(self, words):
        """Wait until the page does, with its work done."""
        self.tab.wait_for_function(f'!busy && /{words}/.test(document.getElementById("status").textContent)')

    def restored(self):
        """What would be saved: its name, and its picture in RGB. The page has to say what it did meanwhile."""
        self.tab.wait_for_function('!busy')
        self.tab.wait_for_selector('#save:not([hidden])')
        self.tab.wait_for_timeout(300)  # longer than the clock on the page needs to write over it
        assert re.fullmatch(r'\d+ x \d+ in \d+\.\d s\. Drag .*', self.tab.text_content('#status'))
        read = (
            'fetch(document.getElementById("save").href).then(r => r.arrayBuffer()).then(b => [...new Uint8Array(b)])'
        )
        saved = cv2.imdecode(np.array(self.tab.evaluate(read), np.uint8), cv2.IMREAD_COLOR)
        assert not self.faults
        return self.tab.get_attribute('#save', 'download'), saved[..., ::-1]


@pytest.fixture
def tab(browser, runtime):
    tabs = []

    def make(**stand_in):
        tabs.append(Tab(browser, runtime, **stand_in))
        return tabs[-1]

    yield make
    for made in tabs:
        made.tab.context.close()


@pytest.mark.parametrize('size', [(1, 1), (300, 400)])
@pytest.mark.parametrize('wait', [0, 250])
def test_the_page_says_what_it_did_when_it_has_done_it(tab, wait, size):
    tab = tab(wait=wait, scale=2)
    tab.choose('red.png', RED, size)
    name, picture = tab.restored()
    assert name == 'red_restored.png'
    assert picture.shape == (2 * size[0], 2 * size[1], 3)
    assert (picture == RED).all()


@pytest.mark.parametrize('first', ['choose', 'drop'])
@pytest.mark.parametrize('second', ['choose', 'drop'])
def test_another_size_is_of_the_picture_that_came_last(tab, first, second):
    tab = tab()
    getattr(tab, first)('red.png', RED)
    assert tab.restored()[0] == 'red_restored.png'
    getattr(tab, second)('b.l.u.e.png', BLUE, (400, 600))
    assert tab.restored()[1].shape == (320, 480, 3)
    assert tab.tab.evaluate('document.getElementById("file").files[0].name') == 'b.l.u.e.png'
    tab.tab.select_option('#side', '720')
    name, picture = tab.restored()
    assert (name, picture.shape) == ('b.l.u.e_restored.png', (400, 600, 3))
    assert (picture == BLUE).all()
    tab.choose('red.png', RED)  # an input that still named it would not take that for a change
    assert tab.restored()[0] == 'red_restored.png'


@pytest.mark.parametrize('way', ['choose', 'drop', 'size'])
def test_what_is_asked_for_meanwhile_waits_for_its_turn(tab, way):
    tab = tab()
    tab.hold()
    tab.choose('red.png', RED, (400, 600))
    if way == 'size':
        tab.tab.select_option('#side', '720')
    else:
        tab.choose('green.png', (0, 255, 0))
        getattr(tab, way)('blue.png', BLUE)
    assert tab.tab.evaluate('busy')
    tab.release()
    name, picture = tab.restored()
    assert name == ('red_restored.png' if way == 'size' else 'blue_restored.png')
    assert picture.shape == ((400, 600, 3) if way == 'size' else (30, 40, 3))


def test_what_a_browser_cannot_hold_is_refused_before_the_work(tab):
    tab = tab(scale=4, fault='if (w > 480) throw new Error("it was not")')
    tab.tab.select_option('#side', '100000')
    tab.choose('wide.png', BLUE, (2, 17_000))
    tab.says('not work: 68000 x 8 is too large for this browser; choose a smaller side')
    tab.tab.select_option('#side', '480')
    assert tab.restored()[1].shape == (4, 1920, 3)


def test_a_result_that_cannot_be_written_is_said(tab):
    tab = tab()
    tab.tab.evaluate('() => { HTMLCanvasElement.prototype.toBlob = done => done(null) }')
    tab.choose('red.png', RED)
    tab.says('not work: 40 x 30 is too large for this browser')


@pytest.mark.parametrize(
    ('fault', 'said'),
    [
        ('if (w !== 64) throw new Error("no memory")', 'not work: Error: no memory'),
        # Beside the work, which then goes on for ever.
        (
            'if (w !== 64) await new Promise(() => setTimeout(() => { throw new Error("no more") }))',
            'not work: Uncaught Error: no more; reload',
        ),
    ],
)
def test_a_network_that_fails_is_said_and_the_page_lives(tab, fault, said):
    tab = tab(fault=fault)
    for name in ('red.png', 'blue.png'):
        tab.choose(name, RED)
        tab.says(said)
        tab.tab.evaluate('document.getElementById("status").textContent = ""')


def test_a_file_that_is_no_picture_is_said(tab):
    tab = tab()
    tab.tab.set_input_files('#file', tab.folder / 'a.html')
    tab.says('no picture')
    tab.choose('red.png', RED)
    assert tab.restored()[0] == 'red_restored.png'


@pytest.mark.slow
def test_a_browser_restores_what_onnxruntime_restores(browser, tmp_path):
    """From the same weights in half precision, with no server and no connection.

    ONNXRUNTIME_WEB names the folder where npm installed onnxruntime-web.
    """
    pytest.importorskip('onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    folder = os.environ.get('ONNXRUNTIME_WEB')
    if not folder:
        pytest.skip('needs ONNXRUNTIME_WEB')
    torch.manual_seed(0)
    network = VmambaIR.from_preset('light', scale=2).eval()
    export(network, tmp_path / 'a.html', runtime=folder)
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), picture[..., ::-1])
    tab = browser.new_context(offline=True).new_page()
    tab.goto((tmp_path / 'a.html').as_uri())
    tab.set_input_files('#file', tmp_path / 'a.png')
    tab.wait_for_function('!busy && !/Choose/.test(document.getElementById("status").textContent)')
    assert '70 x 50 in' in tab.text_content('#status')
    tab.wait_for_selector('#save:not([hidden])')
    read = 'fetch(document.getElementById("save").href).then(r => r.arrayBuffer()).then(b => [...new Uint8Array(b)])'
    saved = np.array(tab.evaluate(read), np.uint8)
    tab.context.close()
    restored = cv2.imdecode(saved, cv2.IMREAD_COLOR)[..., ::-1].astype(np.int32)
    export(network, tmp_path / 'a.onnx', half=True)
    image = np.float32(picture.transpose(2, 0, 1)[None]) / 255
    (expected,) = onnxruntime.InferenceSession(tmp_path / 'a.onnx').run(None, {'image': image})
    difference = np.abs(restored - (expected[0].transpose(1, 2, 0) * 255).round())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002
