"""Downloads: cached, resumed, checked. Against a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch import Restorer
from vmambair_arch.checkpoints.convert import convert, save_checkpoint
from vmambair_arch.checkpoints.describe import describe
from vmambair_arch.checkpoints.download import _as_ascii as as_ascii
from vmambair_arch.checkpoints.download import download
from vmambair_arch.checkpoints.find import checkpoint_for, find_checkpoint
from vmambair_arch.checkpoints.load import read_checkpoint
from vmambair_arch.errors import UserError
from vmambair_arch.files import _held as held
from vmambair_arch.files import cache_folder

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path that ends in .safetensors.

    Attributes:
        stop_after: bytes of a body after which the connection breaks; None: never.
        ranges: whether parts can be asked for.
        seen: the Range header and the status of every answer.
        paths: what was asked for.
    """

    content = CONTENT
    etag = '"one"'
    ranges = True
    stop_after: int | None = None

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.seen: list[tuple[str | None, int]] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/models/a.safetensors'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, wanted = self.server, self.headers['Range']
        server.paths.append(self.path)
        if self.headers['If-None-Match'] == server.etag:
            server.seen.append((None, 304))
            self.send_response(304)
            self.end_headers()
            return
        start, status = 0, 200
        if not self.path.endswith('.safetensors'):
            status = 404
        elif wanted and server.ranges and self.headers['If-Range'] == server.etag:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
            status = 206 if start < len(server.content) else 416
        server.seen.append((wanted, status))
        self.send_response(status)
        body = server.content[start:] if status in (200, 206) else b''
        self.send_header('Content-Length', str(len(body)))
        self.send_header('ETag', server.etag)
        if status == 206:
            self.send_header('Content-Range', f'bytes {start}-{len(server.content) - 1}/{len(server.content)}')
        self.end_headers()
        self.wfile.write(body[: server.stop_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path / 'cache'))
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def files():
    beside = ('.etag', '.lock')
    return sorted(path.name for path in cache_folder().rglob('*') if path.is_file() and path.suffix not in beside)


def test_a_download_is_made_once(server, capsys):
    path = download(server.url)
    assert path.read_bytes() == CONTENT
    assert 'a.safetensors' in capsys.readouterr().err
    assert download(server.url) == path
    assert server.seen == [(None, 200), (None, 304)]
    assert files() == ['a.safetensors']


def test_a_file_that_has_changed_on_the_server_is_fetched_anew(server, caplog):
    path = download(server.url)
    server.etag, server.content = '"two"', CONTENT[::-1]
    assert download(server.url) == path
    assert path.read_bytes() == CONTENT[::-1]
    assert download(server.url).read_bytes() == CONTENT[::-1]
    assert server.seen[-1] == (None, 304)
    server.shutdown()
    server.server_close()
    assert download(server.url).read_bytes() == CONTENT[::-1]
    assert 'the copy from before is used' in caplog.text


def test_a_file_with_a_checksum_is_not_asked_for_again(server):
    url = f'{server.url}#sha256={hashlib.sha256(CONTENT).hexdigest()}'
    for _ in range(2):
        download(url)
    assert server.seen == [(None, 200)]


def test_what_does_not_open_is_not_kept(server):
    with pytest.raises(UserError, match=r'\(removed from the cache\)$'):
        Restorer.from_pretrained(server.url)
    assert files() == []


def test_a_broken_download_goes_on(server):
    server.stop_after = 1_000_000
    with pytest.raises(UserError, match='ended early; run it again to go on from there$'):
        download(server.url)
    assert 'a.safetensors' not in files()
    server.stop_after = None
    assert download(server.url).read_bytes() == CONTENT
    assert server.seen == [(None, 200), ('bytes=1000000-', 206)]
    assert files() == ['a.safetensors']


def test_another_file_in_between_starts_over(server):
    server.stop_after = 1_000_000
    with pytest.raises(UserError):
        download(server.url)
    server.stop_after, server.etag, server.content = None, '"two"', CONTENT[::-1]
    assert download(server.url).read_bytes() == CONTENT[::-1]
    assert server.seen[-1] == ('bytes=1000000-', 200)


def test_a_server_without_ranges(server):
    server.ranges, server.stop_after = False, 1_000_000
    with pytest.raises(UserError):
        download(server.url)
    server.stop_after = None
    assert download(server.url).read_bytes() == CONTENT


def test_a_complete_part_is_not_trusted(server):
    """All bytes had come, but the program ended before it could say so."""
    path = download(server.url)
    path.rename(path.with_name('a.safetensors.partial'))
    path.with_name('a.safetensors.mark').write_text(server.etag)
    assert download(server.url).read_bytes() == CONTENT
    assert [status for _, status in server.seen] == [200, 416, 200]


def test_checksums(server):
    right = hashlib.sha256(CONTENT).hexdigest()
    assert download(f'{server.url}#sha256={right}').read_bytes() == CONTENT
    wrong = 'f' * 64
    with pytest.raises(UserError, match=f'its sha256 is {right}, not {wrong}'):
        download(f'{server.url}#sha256={wrong}')
    assert files() == []
    with pytest.raises(UserError, match='64 hexadecimal digits'):
        download(f'{server.url}#sha256=123')


def test_a_newer_version_is_fetched_where_its_checksum_is_named(server):
    old, new = (hashlib.sha256(content).hexdigest() for content in (CONTENT, CONTENT[::-1]))
    for named in ('', f'#sha256={old}'):
        assert download(server.url + named).read_bytes() == CONTENT
    server.etag, server.content = '"two"', CONTENT[::-1]
    for named in (f'#sha256={old}', f'#sha256={new}', f'#sha256={new}', ''):
        if named.endswith(old):
            assert download(server.url + named).read_bytes() == CONTENT
        else:
            assert download(server.url + named).read_bytes() == CONTENT[::-1]
    assert [status for _, status in server.seen] == [200, 200, 304]
    with pytest.raises(UserError, match=f'its sha256 is {new}, not {old}; the file was removed'):
        download(f'{server.url}#sha256={old}')
    assert files() == []


def test_an_older_version_stays_where_the_newer_cannot_be_fetched(server):
    path = download(server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match='cannot be fetched'):
        download(f'{server.url}#sha256={"f" * 64}')
    assert path.read_bytes() == CONTENT


def test_errors_are_named(server):
    with pytest.raises(UserError, match=r'/gone: the server answered 404'):
        download(server.url.replace('a.safetensors', 'gone'))
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r'cannot be fetched \(.*\); check the address and the connection$'):
        download(server.url)


def test_going_on_is_advised_where_there_is_a_part_to_go_on_from(server):
    server.stop_after = 1_000_000
    with pytest.raises(UserError):
        download(server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r'cannot be fetched \(.*\); run it again to go on from there$'):
        download(server.url)


def test_a_cache_that_cannot_be_made_is_not_the_connections_fault(server, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path / 'file'))
    with pytest.raises(UserError, match=r'cannot be fetched \(.*file.*\)$'):
        download(server.url)


@pytest.mark.parametrize(
    ('written', 'asked'),
    [
        ('my file', 'my%20file'),
        ('größe', 'gr%C3%B6%C3%9Fe'),
        ('gr%C3%B6%20', 'gr%C3%B6%20'),
        ('模型@1.0+x', '%E6%A8%A1%E5%9E%8B@1.0+x'),
        ('a"<>|^`{}\x7f', 'a%22%3C%3E%7C%5E%60%7B%7D%7F'),
        ("a!$&'()*,;=:~", "a!$&'()*,;=:~"),
        ('get?name=ö a&b=/c%20', 'get?name=%C3%B6%20a&b=/c%20'),
    ],
)
def test_addresses_are_written_as_a_browser_takes_them(server, written, asked):
    url = server.url.replace('models/a', written)
    for _ in range(2):
        assert download(url).read_bytes() == CONTENT
    assert server.paths == [f'/{asked}.safetensors'] * 2
    assert [status for _, status in server.seen] == [200, 304]


@pytest.mark.parametrize(
    ('host', 'asked'),
    [
        ('münchen.example', 'xn--mnchen-3ya.example'),
        ('MÜNCHEN.example:81', 'xn--mnchen-3ya.example:81'),
        ('münchen:81', 'xn--mnchen-3ya:81'),
    ],
)
def test_hosts_beyond_ascii(host, asked):
    assert as_ascii(f'https://{host}/a') == f'https://{asked}/a'


@settings(max_examples=300, deadline=None)
@given(rest=st.text(st.sampled_from('/:@?#[]%ö ab1.\n\ud800') | st.characters(), max_size=20))
def test_any_address_is_written_in_ascii_or_refused(rest):
    try:
        written = as_ascii(f'https://{rest}')
    except UserError:
        return
    assert written.isascii()
    assert as_ascii(written) == written


@pytest.mark.parametrize(
    'rest', ['', '/a.pth', ':80/a.pth', '[::1/a.pth', 'a:x/a.pth', 'a:99999/a.pth', f'{"ö" * 70}/a.pth', 'ö..b/a.pth']
)
def test_what_is_no_address_is_said(rest, server):
    with pytest.raises(UserError, match='is not an address; it should be https://, a host and the path of a file$'):
        find_checkpoint(f'https://{rest}')


@pytest.mark.parametrize('who', ['me:secret@', 'secret@', 'me:sec/secret@', 'me:@secret@', 'me:secret@x:y'])
@pytest.mark.parametrize('fragment', ['', '#sha256=12'])
def test_a_password_is_not_shown(server, who, fragment):
    for use in (find_checkpoint, read_checkpoint, Restorer.from_pretrained):
        with pytest.raises(UserError, match='//.*: ') as error:
            use(server.url.replace('//', f'//{who}') + fragment)
        assert 'secret' not in str(error.value)
    assert not server.seen


PAGES = (b'<!DOCTYPE html><title>Log in', b'\n  <html>', b'\xef\xbb\xbf<html>', b'<?xml version="1.0"?>')


@pytest.mark.parametrize('content', PAGES)
@pytest.mark.parametrize('use', [download, find_checkpoint, read_checkpoint, describe, Restorer.from_pretrained])
def test_a_web_page_is_named_as_such(server, content, use):
    server.content = content
    with pytest.raises(UserError) as error:
        use(server.url)
    assert str(error.value) == f'{server.url}: is a web page, not a checkpoint; use the address of the raw file'
    assert files() == []


@pytest.mark.parametrize('fragment', ['', '#sha256=' + 'f' * 64])
def test_a_web_page_replaces_no_copy(server, fragment):
    path = download(server.url)
    server.etag, server.content = '"two"', PAGES[0]
    with pytest.raises(UserError, match='is a web page'):
        download(server.url + fragment)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('content', [b'<' + bytes(7) + b'{' + bytes(100), b'', b'PK', b'\x80\x02<html>'])
def test_what_only_begins_like_a_web_page_is_none(server, content):
    """The length of a safetensors header may be the code of '<'."""
    server.content = content
    assert download(server.url).read_bytes() == content


@pytest.mark.parametrize('content', [b'nothing', b'PK', bytes(9), CONTENT])
@pytest.mark.parametrize('suffix', ['.safetensors', '?x=.safetensors'])
@pytest.mark.parametrize('use', [read_checkpoint, describe, lambda url: convert(url, 'b.pth')])
def test_what_does_not_open_is_named_by_its_address(server, content, suffix, use):
    server.content, url = content, server.url.replace('.safetensors', suffix)
    with pytest.raises(UserError) as error:
        use(url)
    said = str(error.value)
    assert said.startswith(f'{url}: ')
    assert said.endswith(' (removed from the cache)')
    assert str(cache_folder()) not in said


@pytest.mark.parametrize('use', [describe, Restorer.from_pretrained, lambda url: convert(url, 'b.pth')])
def test_what_is_of_another_network_is_named_by_its_address(server, tmp_path, use):
    torch.save({'a.weight': torch.zeros(3)}, tmp_path / 'a.pth')
    server.content, url = (tmp_path / 'a.pth').read_bytes(), server.url.replace('a.safe', 'a.pth?safe=.safe')
    with pytest.raises(UserError, match='these are not the parameters') as error:
        use(url)
    assert str(error.value).startswith(f'{url}: ')


@pytest.mark.parametrize('name', ['..%2f..%2f..%2fevil', '..', '%2e%2e%5cevil', 'a/../../b', 'x' * 300])
def test_addresses_cannot_leave_the_cache(server, name):
    path = download(server.url.replace('models/a', name))
    assert path.resolve().is_relative_to(cache_folder().resolve())
    assert path.parent.parent == cache_folder()


def test_ctrl_c_keeps_what_has_come(server, monkeypatch):
    from vmambair_arch.checkpoints import download as module

    class Bar(module.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n > 1_000_000:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, 'tqdm', Bar)
        with pytest.raises(KeyboardInterrupt):
            download(server.url)
    assert download(server.url).read_bytes() == CONTENT
    assert server.seen[-1][1] == 206


def test_a_restorer_from_an_address(server, tmp_path, tiny):
    save_checkpoint(tmp_path / 'a.safetensors', tiny)
    server.content = (tmp_path / 'a.safetensors').read_bytes()
    source = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(Restorer.from_pretrained(server.url)(source), Restorer(tiny)(source))
    assert find_checkpoint(server.url) == download(server.url)


@pytest.mark.parametrize('apart', [0.0, 0.3])
def test_processes_that_want_one_file_fetch_it_once(server, apart):
    line = f'from vmambair_arch.checkpoints.download import download; print(download({server.url!r}))'
    started = []
    for _ in range(3):
        started.append(subprocess.Popen([sys.executable, '-c', line], stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        time.sleep(apart)
    for process in started:
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert Path(out.decode().strip()).read_bytes() == CONTENT
    assert [status for _, status in server.seen].count(200) == 1


def test_whoever_asked_for_what_does_not_open_it_is_not_kept(server):
    with pytest.raises(UserError, match=r'\(removed from the cache\)$'):
        describe(server.url)
    assert files() == []


def test_a_file_of_the_user_s_that_does_not_open_stays(tmp_path):
    (tmp_path / 'a.safetensors').write_bytes(CONTENT)
    with pytest.raises(UserError, match='damaged'):
        describe(tmp_path / 'a.safetensors')
    assert (tmp_path / 'a.safetensors').exists()


def test_a_good_file_of_the_cache_stays_whatever_is_asked_of_it(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv('VMAMBAIR_CACHE', str(tmp_path))
    for folder in ('mine', '0123456789abcdef'):
        save_checkpoint(tmp_path / folder / 'net.pth', tiny)
        with pytest.raises(UserError, match="holds no parameters under 'nokey'"):
            read_checkpoint(tmp_path / folder / 'net.pth', 'nokey')
        assert (tmp_path / folder / 'net.pth').exists()
    (tmp_path / 'mine/net.pth').write_bytes(CONTENT)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / 'mine/net.pth')
    assert (tmp_path / 'mine/net.pth').exists()


def test_threads_that_want_one_file_fetch_it_once(server):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(download, [server.url] * 4))
    assert {path.read_bytes() == CONTENT for path in paths} == {True}
    assert [status for _, status in server.seen].count(200) == 1
    assert not held


def test_whoever_waits_says_for_whom(server, monkeypatch, caplog):
    holders = iter(['process 7 on here', 'process 7 on here', ''])
    monkeypatch.setattr('vmambair_arch.checkpoints.download.lock', lambda path: next(holders))
    download(server.url)
    said = [record.getMessage() for record in caplog.records]
    assert said == ['a.safetensors: waiting for process 7 on here, which fetches it']


def test_a_folder_of_several_checkpoints_says_how_to_name_one(tmp_path, tiny):
    for name in ('net_g_1.pth', 'net_g_2.pth'):
        save_checkpoint(tmp_path / 'models' / name, tiny)
    for folder in (tmp_path / 'models', f'{tmp_path}/models/'):
        with pytest.raises(UserError, match=r'name one, such as .*models/net_g_1\.pth$') as error:
            find_checkpoint(folder)
        assert find_checkpoint(str(error.value).rpartition('such as ')[2]).name == 'net_g_1.pth'


def test_a_folder_of_the_name_of_a_network_in_the_package(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'derain').mkdir()
    assert find_checkpoint('derain') == checkpoint_for('derain')
    save_checkpoint(tmp_path / 'derain/net_g_1.pth', tiny)
    assert find_checkpoint('derain') == Path('derain/net_g_1.pth')
