"""The page, in a real browser: upload, wait, compare, download; what is not a picture gets a clear message.

Needs gradio, playwright and Chromium, and skips without them unless VMAMBAIR_BROWSER_TESTS is set, as in CI.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from vmambair_arch import Restorer, cli
from vmambair_arch.checkpoints import find as checkpoints
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import Image, decode_image, read_image, write_image
from vmambair_arch.inference import web

needs_gradio = pytest.mark.skipif(importlib.util.find_spec('gradio') is None, reason='not installed: gradio')


@pytest.fixture(scope='module')
def named(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp('web') / 'tiny.safetensors'
    save_checkpoint(path, tiny, task='derain', limits='Fog stays. And more.')
    return path


@pytest.fixture(scope='module')
def server(gradio, named, tmp_path_factory):
    """The address of a running server; at the end, that nothing is left of what went through it."""
    temporary = tmp_path_factory.mktemp('tmp')
    process = subprocess.Popen(
        [sys.executable, '-m', 'vmambair_arch', 'web', '-m', str(named)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'TMPDIR': str(temporary)},
        # A shell's background jobs ignore Ctrl-C, and so would the server that inherits it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        address = re.match(r'(http://127\.0\.0\.1:\d+/)', process.stdout.readline())
        assert address, 'the server did not say its address'
        yield address[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert not list(temporary.glob('vmambair-web-*'))
    finally:
        process.kill()


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={'width': 1280, 'height': 860})
    page.set_default_timeout(60_000)
    page.hosts = set()
    page.on('request', lambda request: page.hosts.add(request.url.split('/')[2].split(':')[0]))
    page.goto(server)
    page.wait_for_selector('#restore')
    yield page
    page.close()


def upload(page, *paths):
    page.set_input_files('#upload input[type=file]', [str(path) for path in paths])
    page.get_by_text(re.compile(r'\d\s+(B|KB|MB)')).first.wait_for()
    page.click('#restore')


def test_upload_compare_download(page, tmp_path, tiny):
    picture = np.random.default_rng(0).uniform(size=(48, 64, 3)).astype(np.float32)
    write_image(tmp_path / 'photo.png', Image(picture))
    upload(page, tmp_path / 'photo.png')

    after = page.locator('#slider img').nth(1)
    after.wait_for()
    page.get_by_text('64 x 48 pixels in').wait_for()
    assert after.evaluate('image => image.naturalWidth') == 64

    def split():
        return float(re.search(r'inset\(.*? ([\d.]+)%\)', after.get_attribute('style'))[1])

    assert split() == pytest.approx(50, abs=2)
    box = page.locator('#slider .slider-wrap').bounding_box()
    handle_x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    page.mouse.move(handle_x, y)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] * 0.8, y, steps=8)
    page.mouse.up()
    assert split() == pytest.approx(80, abs=5)

    with page.expect_download() as download:
        page.click('#download')
    download.value.save_as(tmp_path / 'got.png')
    assert download.value.suggested_filename == 'photo_restored.png'
    Restorer(tiny)(tmp_path / 'photo.png', tmp_path / 'expected.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'got.png').rgb, read_image(tmp_path / 'expected.png').rgb)
    assert page.hosts == {'127.0.0.1'}  # nothing is fetched from elsewhere


def bomb() -> bytes:
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 20000, 10000, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 99)) + chunk(b'IEND', b'')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'just text', 'photo.png: is no PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC or JPEG 2000 image'),
        (bomb(), 'the limit is 33554432 pixels). Shrink it, or start the page with --max-pixels'),
    ],
    ids=['text', 'bomb'],
)
def test_what_is_no_picture(page, tmp_path, content, message):
    (tmp_path / 'photo.png').write_bytes(content)
    upload(page, tmp_path / 'photo.png')
    page.get_by_text(message).first.wait_for()
    assert page.locator('#slider img').count() == 0
    assert str(Path('/tmp')) not in page.get_by_text(message).first.inner_text()


def test_nothing_chosen(page):
    page.click('#restore')
    page.get_by_text('Choose a photograph first.').wait_for()


def test_a_picture_is_shown_before_it_is_restored(page, tmp_path):
    write_image(tmp_path / 'photo.png', Image(np.full((48, 64, 3), 0.5, np.float32)))
    page.set_input_files('#upload input[type=file]', tmp_path / 'photo.png')
    page.get_by_text('photo.png: 64 x 48 pixels').wait_for()
    page.wait_for_function('document.querySelector("#preview img").naturalWidth === 64')  # once it is loaded
    assert page.locator('#slider img').count() == 0


def test_several_pictures_come_back_as_a_zip(page, tmp_path):
    for name in ('a.png', 'b.jpg'):
        write_image(tmp_path / name, Image(np.full((24, 32, 3), 0.5, np.float32)))
    upload(page, tmp_path / 'a.png', tmp_path / 'b.jpg')
    page.get_by_text('2 pictures; the first: 32 x 24 pixels in').wait_for()
    with page.expect_download() as download:
        page.click('#download')
    download.value.save_as(tmp_path / 'got.zip')
    with zipfile.ZipFile(tmp_path / 'got.zip') as archive:
        assert sorted(archive.namelist()) == ['a_restored.png', 'b_restored.jpg']


def test_more_options(page, tmp_path):
    write_image(tmp_path / 'photo.png', Image(np.full((24, 32, 3), 0.5, np.float32)))
    page.click('#more button')
    page.fill('#outscale input', '2')
    upload(page, tmp_path / 'photo.png')
    page.get_by_text('32 x 24 to 64 x 48 pixels in').wait_for()


def test_cancel(page, tmp_path):
    write_image(
        tmp_path / 'photo.png', Image(np.random.default_rng(0).uniform(size=(1500, 1500, 3)).astype(np.float32))
    )
    page.set_input_files('#upload input[type=file]', tmp_path / 'photo.png')
    page.get_by_text('photo.png: 1500 x 1500 pixels').wait_for()
    page.click('#restore')
    page.get_by_text('Restoring photo.png').first.wait_for()
    page.click('#cancel')
    page.get_by_text('Cancelled.').wait_for()
    assert page.locator('#slider img').count() == 0


@pytest.mark.parametrize(('width', 'scheme'), [(400, 'light'), (800, 'dark'), (1400, 'light')])
def test_nothing_sticks_out_at_any_width(browser, server, width, scheme):
    page = browser.new_page(viewport={'width': width, 'height': 900}, color_scheme=scheme)
    page.goto(server)
    page.wait_for_selector('#restore')
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    beside = """() => {
        const [controls, stage] = ['#upload', '#preview'].map(id => document.querySelector(id).getBoundingClientRect())
        return stage.width > 0 && (stage.left >= controls.right) === (window.innerWidth >= 800)
    }"""
    page.wait_for_function(beside, timeout=10_000)  # styles come after the elements
    colour = page.evaluate('getComputedStyle(document.body).backgroundColor')
    brightness = sum(int(value) for value in re.findall(r'\d+', colour)[:3]) / 3
    assert (brightness < 100) == (scheme == 'dark')
    page.close()


def test_examples_are_there_to_try(page):
    pytest.importorskip('skimage')
    page.locator('#examples, .gallery, button', has_text='chelsea.jpg').last.click()
    page.get_by_text(re.compile(r'chelsea\.jpg: \d+ x \d+ pixels')).wait_for()


# the HTTP call


def post(url, body=b'', headers=None):
    request = urllib.request.Request(url, data=body, headers=headers or {}, method='POST')
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_a_picture_in_and_a_picture_out(server, tmp_path, tiny):
    write_image(tmp_path / 'a.webp', Image(np.full((24, 32, 3), 0.5, np.float32)))
    data = (tmp_path / 'a.webp').read_bytes()
    status, body, headers = post(f'{server}restore', data)
    assert (status, headers['Content-Type']) == (200, 'image/webp')
    assert decode_image(body).rgb.shape == (24, 32, 3)
    edge = 'edge'
    form = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.webp"\r\n\r\n'.encode()
        + data
        + f'\r\n--{edge}--\r\n'.encode()
    )
    kind = {'Content-Type': f'multipart/form-data; boundary={edge}'}
    status, body, headers = post(f'{server}restore?format=png&outscale=2&task=derain', form, kind)
    assert (status, headers['Content-Type']) == (200, 'image/png')
    np.testing.assert_allclose(decode_image(body).rgb, Restorer(tiny, outscale=2)(decode_image(data).rgb), atol=0.003)


@pytest.mark.parametrize(
    ('query', 'body', 'status', 'message'),
    [
        ('', b'', 400, 'send a picture'),
        ('', b'no picture', 400, 'the picture: is no PNG'),
        ('', bomb(), 413, 'the picture: too large'),
        ('?task=fog', b'x', 400, "no network for the task 'fog'; there are derain"),
        ('?format=gif', b'x', 400, "format 'gif'"),
        ('?outscale=big', b'x', 400, "'big' is no number"),
        ('?outscale=99', b'x', 400, 'output scale'),
        ('?taks=derain', b'x', 400, "nothing reads 'taks' (did you mean 'task'?)"),
    ],
)
def test_bad_calls_are_answered_in_a_line(server, query, body, status, message):
    got, answer, headers = post(f'{server}restore{query}', body)
    assert (got, headers['Content-Type']) == (status, 'application/json')
    assert message in json.loads(answer)['error']


@pytest.mark.parametrize('path', ['', 'restore'])
def test_pages_of_other_sites_are_refused(server, path):
    assert post(f'{server}{path}', b'x', {'Origin': 'http://evil.example'})[0] == 403
    assert post(f'{server}{path}', b'x', {'Host': 'evil.example'})[0] == 400


def test_a_small_picture_does_not_wait_for_a_large_one(server, tmp_path):
    if (os.cpu_count() or 1) < 2:
        pytest.skip('one core')
    write_image(
        tmp_path / 'large.png', Image(np.random.default_rng(0).uniform(size=(1800, 1800, 3)).astype(np.float32))
    )
    write_image(tmp_path / 'small.png', Image(np.full((16, 16, 3), 0.5, np.float32)))
    with ThreadPoolExecutor() as pool:
        large = pool.submit(post, f'{server}restore', (tmp_path / 'large.png').read_bytes())
        small = post(f'{server}restore', (tmp_path / 'small.png').read_bytes())
        assert small[0] == 200
        assert not large.done()
        assert large.result()[0] == 200


# without a browser


def test_titles(named, monkeypatch, tmp_path):
    offers = {'Single-image deraining (tiny)': web.Offer(named, 'Fog stays', 'derain')}
    assert web.offers([str(named)]) == offers
    monkeypatch.setattr(checkpoints, 'WEIGHTS', named.parent)
    assert web.offers([]) == offers
    monkeypatch.setattr(checkpoints, 'WEIGHTS', tmp_path)
    with pytest.raises(UserError, match='no checkpoint of its own'):
        web.offers([])


PART = b'--e\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
FORM = 'multipart/form-data; boundary=e'


def called(kind, body, query=''):
    """Status, answer and how many bytes were taken, as a server calls it: pieces whose sum no header says."""
    pytest.importorskip('starlette')
    pytest.importorskip('python_multipart')
    from vmambair_arch.inference.web_call import route

    call = route(lambda task, outscale: Restorer(torch.nn.Identity()), threading.Semaphore(), 10**6, 2000)
    pieces = [body[at : at + 500] for at in range(0, len(body), 500)] or [b'']
    taken, sent = [], []

    async def receive():
        taken.append(pieces[len(taken)])
        return {'type': 'http.request', 'body': taken[-1], 'more_body': len(taken) < len(pieces)}

    async def send(part):
        sent.append(part)

    scope = {'type': 'http', 'method': 'POST', 'path': '/restore', 'query_string': query.encode(), 'root_path': ''}
    scope['headers'] = [(b'content-type', kind.encode())]
    with ThreadPoolExecutor(1) as apart:  # from the loop that a browser's tests leave in this thread
        apart.submit(lambda: asyncio.run(call.app(scope, receive, send))).result()
    return sent[0]['status'], json.loads(sent[1]['body']), sum(map(len, taken))


@pytest.mark.parametrize(
    ('kind', 'body', 'status', 'message'),
    [
        (FORM, PART + bytes(3000) + b'\r\n--e--\r\n', 413, 'larger than 2000 bytes'),
        ('image/png', bytes(3000), 413, 'larger than 2000 bytes'),
        (FORM, PART + b'x\r\n' + PART + b'y\r\n--e--\r\n', 400, 'Too many files'),
        ('multipart/form-data', PART + b'x\r\n--e--\r\n', 400, 'boundary'),
        (FORM, PART + b'x\r\n--e--\r\n', 400, 'a.png: is no PNG'),
    ],
)
def test_what_comes_in_pieces_is_counted_and_answered_in_a_line(kind, body, status, message):
    got, answer, taken = called(kind, body)
    assert got == status
    assert message in answer['error']
    assert taken <= 2500


def test_networks_of_one_file_name_are_told_apart(tmp_path, tiny):
    files = [tmp_path / name / 'models/net_g_latest.pth' for name in ('a', 'b')]
    for file in files:
        save_checkpoint(file, tiny, task='derain')
    found = web.offers([str(file) for file in files])
    assert [offer.path for offer in found.values()] == files
    assert list(found) == [
        'Single-image deraining (net_g_latest)',
        'Single-image deraining (models/net_g_latest)',
    ]
    kitchen = web.Kitchen(found, web.Settings())
    assert kitchen.by_name('derain', None) is kitchen.by_name(None, None)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('suffix', ['.png', '.webp'])
def test_an_upload_is_restored_with_previews_of_one_size(halve_x2, tmp_path, channels, suffix):
    colours = np.full((10, 14, 3), 0.8, np.float32)
    alpha = np.ones((10, 14), np.float32) if channels in (2, 4) else None
    path = tmp_path / f'a{suffix}'
    write_image(path, Image(colours, alpha, grey=channels < 3), quality=100)
    seen = []
    before, after, file, line = web.restore_upload(path, Restorer(halve_x2), lambda *args: seen.append(args))
    assert before.shape == after.shape == (20, 28, 3)
    assert before.dtype == after.dtype == np.uint8
    assert abs(before.mean() - 0.8 * 255) < 2
    assert abs(after.mean() - 0.4 * 255) < 2
    assert file == tmp_path / f'a_restored{suffix}'
    assert read_image(file).rgb.shape == (20, 28, 3)
    assert line.startswith('14 x 10 to 28 x 20 pixels in')
    assert seen == [(1, 1)]


def test_large_previews_are_shrunk(halve, tmp_path, monkeypatch):
    monkeypatch.setattr(web, 'PREVIEW', 20)
    write_image(tmp_path / 'a.png', Image(np.full((30, 60, 3), 0.8, np.float32)))
    before, after, file, _ = web.restore_upload(tmp_path / 'a.png', Restorer(halve), lambda *args: None)
    assert before.shape == after.shape == (10, 20, 3)
    assert read_image(file).rgb.shape == (30, 60, 3)


def test_the_command_says_what_is_missing(named, capsys):
    assert cli.main(['web', '-m', 'gone.pth']) == 2
    assert 'gone.pth' in capsys.readouterr().err
    if importlib.util.find_spec('gradio') is None:
        assert cli.main(['web', '-m', str(named)]) == 2
        assert "pip install 'gradio>=6'" in capsys.readouterr().err


FIELD = b'\r\n--e\r\nContent-Disposition: form-data; name="%s"\r\n\r\nderain\r\n--e--\r\n'
END = b'\r\n--e--\r\n'


@pytest.mark.parametrize(
    ('query', 'body', 'message'),
    [
        ('taks=sr&fromat=png', b'x', "nothing reads 'taks' (did you mean 'task'?)"),
        ('task=derain&fromat=png', b'x', "nothing reads 'fromat' (did you mean 'format'?)"),
        ('Quality=3', b'x', "nothing reads 'Quality' (did you mean 'quality'?)"),
        ('out_scale=2', b'x', "nothing reads 'out_scale' (did you mean 'outscale'?)"),
        ('tile=2', b'x', "nothing reads 'tile'"),
        ('=', b'x', "nothing reads ''"),
        ('taks=sr', b'', "nothing reads 'taks' (did you mean 'task'?)"),
        ('task=derain&task=sr', b'x', "'task' is given twice"),
        ('taks=sr', PART + b'x' + END, "nothing reads 'taks' (did you mean 'task'?)"),
        ('', PART.replace(b'"file"', b'"fil"') + b'x' + END, "nothing reads 'fil' (did you mean 'file'?)"),
        ('', PART + b'x' + FIELD % b'task', "nothing reads 'task' here; put it into the address: /restore?task=…"),
        ('', PART + b'x' + FIELD % b'device', "nothing reads 'device'"),
        ('', PART + b'x' + FIELD % b'file', "'file' is given twice"),
    ],
)
def test_what_nothing_reads_is_refused_and_not_ignored(query, body, message):
    kind = FORM if body.startswith(b'--e') else 'image/png'
    assert called(kind, body, query)[:2] == (400, {'error': message})


@needs_gradio
def test_visitors_who_wait_learn_their_place_in_the_queue(named, tmp_path, monkeypatch):
    """One is worked on; the next two are told that they are first and second in line, and move up."""
    from gradio_client import Client, handle_file

    write_image(tmp_path / 'photo.png', Image(np.full((16, 16, 3), 0.5, np.float32)))
    restore, turns, begun = web.restore_upload, threading.Semaphore(0), threading.Semaphore(0)

    def slowly(*args):
        begun.release()
        assert turns.acquire(timeout=60)
        return restore(*args)

    monkeypatch.setattr(web, 'restore_upload', slowly)
    monkeypatch.setattr(web, 'places_here', lambda: 1)

    def eventually(ranks):
        deadline = time.monotonic() + 30
        while (found := [job.status().rank for job in jobs]) != ranks:
            assert time.monotonic() < deadline, f'{found}, not {ranks}'
            time.sleep(0.05)

    with web.serve([str(named)]) as address:
        title = next(iter(web.offers([str(named)])))
        jobs = []
        for place in range(3):
            visitor = Client(address, verbose=False)
            jobs.append(visitor.submit([handle_file(str(tmp_path / 'photo.png'))], title, None, None, api_name='/run'))
            if place == 0:
                assert begun.acquire(timeout=60)
            else:
                eventually([None, *range(place)])
        turns.release()
        assert begun.acquire(timeout=60)
        eventually([None, None, 0])
        turns.release(2)
        assert all('16 x 16 pixels in' in job.result(timeout=60)[-1] for job in jobs)


def photographs(folder, *names):
    """Small pictures, each of its own; one whose name begins with `bad` is none."""
    from gradio_client import handle_file

    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        if path.name.startswith('bad'):
            path.write_bytes(b'no picture')
        else:
            write_image(path, Image(np.full((16, 16, 3), 0.1 * (number + 1), np.float32)))
    return [handle_file(str(path)) for path in paths]


def made():
    """What lies in the server's folder beside the uploads and the previews."""
    found = [path for path in Path(os.environ['GRADIO_TEMP_DIR']).rglob('*') if path.is_file()]
    return sorted(path.name for path in found if 'restored' in path.name)


@pytest.fixture
def visit(named, monkeypatch):
    """Starts a client of a server with one place."""
    gradio_client = pytest.importorskip('gradio_client')
    monkeypatch.setattr(web, 'places_here', lambda: 1)
    with web.serve([str(named)], port=0) as address:
        yield lambda: gradio_client.Client(address, verbose=False)


TITLE = 'Single-image deraining (tiny)'


@needs_gradio
@pytest.mark.parametrize(
    ('names', 'lines', 'inside'),
    [
        (['bad.png', 'a.png', 'b.jpg'], ['2 pictures; the first:', 'Not restored: bad.png: is no PNG'], 2),
        (['a.png', 'bad.png', 'x/a.png', 'bad2.png'], ['2 pictures', 'restored: bad.png', 'restored: bad2.png'], 2),
        (['a.png', 'bad.png'], ['16 x 16 pixels in', 'Not restored: bad.png: is no PNG'], 1),
        (['a.png'], ['16 x 16 pixels in'], 1),
        (['bad.png', 'bad2.png'], None, 0),
    ],
)
def test_a_picture_that_is_none_does_not_cost_the_others(visit, tmp_path, names, lines, inside):
    from gradio_client.exceptions import AppError

    visitor = visit()
    if lines is None:
        with pytest.raises(AppError, match='bad.png: is no PNG.*; bad2.png: is no PNG'):
            visitor.predict(photographs(tmp_path, *names), TITLE, None, None, api_name='/run')
        assert made() == []
        return
    *_, button, said = visitor.predict(photographs(tmp_path, *names), TITLE, None, None, api_name='/run')
    assert all(line in said for line in lines)
    file = button['value'] if isinstance(button, dict) else button
    if inside == 1:
        assert read_image(file).rgb.shape == (16, 16, 3)
        assert made() == ['a_restored.png']
        return
    with zipfile.ZipFile(file) as archive:
        assert len(set(archive.namelist())) == inside
    assert made() == ['restored.zip']


class Steps:
    """Stands in for `restore_upload`: each call waits for a turn, and what may happen before it does."""

    def __init__(self, monkeypatch):
        self.real, self.calls = web.restore_upload, []
        self.begun, self.turns = threading.Semaphore(0), threading.Semaphore(0)
        self.during = lambda number, progress: None
        monkeypatch.setattr(web, 'restore_upload', self)

    def __call__(self, upload, restorer, progress, *args):
        self.calls.append(upload)
        self.begun.release()
        assert self.turns.acquire(timeout=60)
        self.during(len(self.calls), progress)
        return self.real(upload, restorer, progress, *args)


@needs_gradio
def test_cancel_counts_for_who_waits_and_for_nobody_else(visit, tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    first, second = visit(), visit()
    second.predict(api_name='/cancel')  # of nothing: what is asked for later is not meant
    jobs = []
    for visitor in (first, second):
        jobs.append(visitor.submit(photographs(tmp_path, 'a.png'), TITLE, None, None, api_name='/run'))
        if visitor is first:
            assert steps.begun.acquire(timeout=60)
    while jobs[1].status().rank is None:  # in the queue, then
        time.sleep(0.02)
    second.predict(api_name='/cancel')
    again = second.submit(photographs(tmp_path, 'a.png'), TITLE, None, None, api_name='/run')
    steps.turns.release(3)
    assert '16 x 16 pixels in' in jobs[0].result(timeout=60)[-1]
    assert jobs[1].result(timeout=60)[-1] == 'Cancelled.'
    assert '16 x 16 pixels in' in again.result(timeout=60)[-1]
    assert len(steps.calls) == 2


@needs_gradio
@pytest.mark.parametrize('finished', [0, 1, 2])
def test_cancel_gives_what_is_finished(visit, tmp_path, monkeypatch, finished):
    steps = Steps(monkeypatch)
    visitor = visit()
    names = ['a.png', 'b.png', 'c.png']
    job = visitor.submit(photographs(tmp_path, *names), TITLE, None, None, api_name='/run')
    for number in range(finished + 1):
        assert steps.begun.acquire(timeout=60)
        if number < finished:
            steps.turns.release()
    visitor.predict(api_name='/cancel')
    steps.turns.release(3)
    *_, said = job.result(timeout=60)
    assert ('Cancelled after' in said) == (finished > 0)
    assert (f'Cancelled after {finished} of 3.' if finished else 'Cancelled.') in said
    assert made() == [[], ['a_restored.png'], ['restored.zip']][finished]


@needs_gradio
def test_uploads_that_are_needed_yet_are_never_old(visit, tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    uploads, ages = [], []

    def during(number, progress):
        folder = Path(os.environ['GRADIO_TEMP_DIR'])
        files = sorted(folder.rglob('[abc].png'), key=lambda path: path.name)
        uploads.append(len(files))
        for file in files:
            os.utime(file, (0, 0))
        progress(1, 2)
        ages.append([file.stat().st_mtime > 0 for file in files])

    steps.during = during
    steps.turns.release(3)
    visit().predict(photographs(tmp_path, 'a.png', 'b.png', 'c.png'), TITLE, None, None, api_name='/run')
    assert uploads == [3, 3, 3]
    assert ages == [[True, True, True], [False, True, True], [False, False, True]]


def test_an_upload_that_is_gone_is_to_be_chosen_again(halve, tmp_path):
    with pytest.raises(UserError, match=r'^gone\.png: was deleted after 60 minutes; choose it again$'):
        web.restore_upload(tmp_path / 'gone.png', Restorer(halve), lambda *args: None)


def test_who_waits_for_a_place_may_stop(monkeypatch):
    monkeypatch.setattr(web, 'LOOK', 0.001)
    kitchen = web.Kitchen({}, web.Settings(), threading.Semaphore(0))
    looks = []

    def check():
        looks.append(1)
        if len(looks) == 3:
            raise web.StoppedError

    with pytest.raises(web.StoppedError), kitchen.place(check):
        raise AssertionError('there was none')
    kitchen.places.release()
    with kitchen.place(check):
        assert not kitchen.places.acquire(blocking=False)
    assert kitchen.places.acquire(blocking=False)  # it is given back
