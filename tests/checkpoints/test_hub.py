"""The Hub: against a server on this machine that speaks the calls that are needed, and against folders."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from vmambair_arch import Restorer, VmambaIR, cli, load_model
from vmambair_arch.checkpoints import hub
from vmambair_arch.checkpoints.find import find_checkpoint
from vmambair_arch.errors import UserError

huggingface_hub = pytest.importorskip('huggingface_hub')
COMMIT = 'a' * 40


class Server(http.server.ThreadingHTTPServer):
    """A Hub with repositories of files.

    Attributes:
        repositories: files by name of each repository.
    """

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition('?')[0].strip('/').split('/')
        self.server.asked.append(f'{self.command} {self.path}')
        if path[:2] == ['api', 'models']:
            repo = '/'.join(path[2:4])
            if repo not in self.server.repositories:
                return self.say(404, {'error': 'Repository not found'}, {'X-Error-Code': 'RepoNotFound'})
            files = self.server.repositories[repo]
            if len(path) > 4 and path[4] == 'tree':
                return self.say(
                    200, [{'type': 'file', 'path': n, 'size': len(c), 'oid': 'b' * 40} for n, c in files.items()]
                )
            return self.say(200, {'id': repo, 'sha': COMMIT, 'siblings': [{'rfilename': name} for name in files]})
        repo, file = '/'.join(path[:2]), '/'.join(path[4:])
        if repo not in self.server.repositories:
            return self.say(404, {}, {'X-Error-Code': 'RepoNotFound'})
        content = self.server.repositories[repo].get(file)
        if content is None:
            return self.say(404, {}, {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': COMMIT})
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.say(200, content, {'ETag': etag, 'X-Repo-Commit': COMMIT})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        path = self.path.partition('?')[0].strip('/').split('/')
        if path == ['api', 'repos', 'create']:
            asked = json.loads(body)
            repo = f'{asked.get("organization") or "me"}/{asked["name"]}'
            self.server.repositories.setdefault(repo, {})
            return self.say(200, {'url': f'http://127.0.0.1/{repo}', 'id': repo, 'name': repo})
        if path == ['api', 'validate-yaml']:
            return self.say(200, {'errors': [], 'warnings': []})
        repo = '/'.join(path[2:4])
        if path[4] == 'preupload':
            files = [
                {'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for f in json.loads(body)['files']
            ]
            return self.say(200, {'files': files})
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry['key'] == 'file':
                self.server.repositories[repo][entry['value']['path']] = base64.b64decode(entry['value']['content'])
        return self.say(
            200, {'commitUrl': f'http://127.0.0.1/{repo}/commit/{COMMIT}', 'commitOid': COMMIT, 'pullRequestUrl': None}
        )

    def say(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {'Content-Length': str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{server.server_port}')
        monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
        monkeypatch.setattr(huggingface_hub.file_download.constants, 'HF_HUB_DISABLE_XET', True, raising=False)
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path, tiny):
    return hub.save_pretrained(tiny, tmp_path / 'saved', task='derain', license='Apache-2.0')


def test_a_folder_as_the_hub_has_it(folder, tiny):
    assert sorted(path.name for path in folder.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert json.loads((folder / 'config.json').read_text())['dim'] == tiny.config['dim']
    card = huggingface_hub.ModelCard.load(folder / 'README.md')
    assert card.data.license == 'apache-2.0'
    assert card.data.pipeline_tag == 'image-to-image'
    source = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_model(folder)(source), tiny(source))
        torch.testing.assert_close(VmambaIR.from_pretrained(folder)(source), tiny(source))


def test_networks_save_themselves(tmp_path, tiny):
    tiny.save_pretrained(tmp_path / 'a', task='derain')
    assert find_checkpoint(tmp_path / 'a') == tmp_path / 'a/model.safetensors'


@pytest.mark.parametrize('name', ['user/repo', 'user/repo:model.safetensors', 'user/repo@main:model.safetensors'])
def test_a_restorer_from_the_hub(server, folder, tiny, name):
    server.repositories['user/repo'] = {path.name: path.read_bytes() for path in folder.iterdir()}
    picture = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(Restorer.from_pretrained(name)(picture), Restorer(tiny)(picture), atol=1e-6)


def test_without_a_connection_the_cache_is_used(server, folder):
    server.repositories['user/repo'] = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = find_checkpoint('user/repo')
    server.shutdown()
    server.server_close()
    assert find_checkpoint('user/repo') == first
    with pytest.raises(UserError, match='^user/other: '):
        find_checkpoint('user/other')


def test_errors_are_a_line(server, folder):
    server.repositories['user/empty'] = {'notes.txt': b''}
    server.repositories['user/two'] = {'a.pth': b'x', 'b.pth': b'x'}
    server.repositories['user/bad'] = {'a.safetensors': b'no checkpoint'}
    for name, message in [
        ('user/gone', 'user/gone: no such repository on the Hub, or it is private: hf auth login'),
        ('user/empty', 'user/empty: has no checkpoint in it'),
        ('user/two', 'user/two: has 2 checkpoints; name one, such as user/two:a.pth'),
        ('user/empty:a.pth', 'user/empty:a.pth: no such file in the repository'),
        ('user/bad', 'a.safetensors: damaged'),
    ]:
        with pytest.raises(UserError, match=message) as error:
            load_model(name)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['list.txt/below', 'list.txt/below:a.pth', './list.txt/below/a.pth'])
def test_what_lies_below_a_file_is_not_looked_for_on_the_hub(server, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'list.txt').write_text('a')
    server.repositories['list.txt/below'] = {'a.pth': b'x'}
    with pytest.raises(UserError, match='no such checkpoint file'):
        find_checkpoint(name)


def test_a_folder_that_cannot_be_read_is_a_line(tmp_path, monkeypatch):
    def locked(self):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'iterdir', locked)
    with pytest.raises(UserError, match=r'cannot be read \(Permission denied\)'):
        find_checkpoint(tmp_path)


def test_uploading(server, tiny):
    address = tiny.push_to_hub('me/rain', token='hf_x', task='derain', metrics={'psnr_y/Rain100L': 39.1})
    assert COMMIT in address
    assert sorted(server.repositories['me/rain']) == ['README.md', 'config.json', 'model.safetensors']
    source = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_model('me/rain')(source), tiny(source))
    assert b'Rain100L' in server.repositories['me/rain']['README.md']


def test_the_message_names_all_that_can_be_named(capsys):
    assert cli.main(['info', 'gone.pth']) == 2
    err = capsys.readouterr().err
    for part in ('a file', 'a folder', 'https://', "'user/repo' on the Hub", 'one of the package: derain'):
        assert part in err


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match='pip install huggingface_hub'):
        find_checkpoint('user/repo')


@pytest.mark.parametrize(
    ('name', 'parsed'),
    [
        ('user/repo', ('user/repo', None, None)),
        ('user/repo:sub/a.pth', ('user/repo', None, 'sub/a.pth')),
        ('user/repo@v1.0', ('user/repo', 'v1.0', None)),
        ('a.pth', None),
        ('../a', None),
        ('/absolute/a', None),
        ('one/two/three', None),
    ],
)
def test_names(name, parsed):
    assert hub.parse_hub_id(name) == parsed
