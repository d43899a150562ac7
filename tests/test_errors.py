"""What the command line makes of errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from vmambair_arch.errors import UserError, guard, nearest, no_folder, one_line


class BadData(Dataset):
    def __init__(self, name: str = 'a.png') -> None:
        self.name = name

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise UserError(f'{self.name}: is not an image')


def raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ('run', 'code', 'said'),
    [
        (lambda: None, 0, ''),
        (lambda: 1, 1, ''),
        (lambda: raises(UserError('no file a.yml')), 2, 'vmambair: error: no file a.yml\n'),
        (lambda: raises(UserError('gave up', exit_code=3)), 3, 'vmambair: error: gave up\n'),
        (lambda: raises(KeyboardInterrupt()), 130, 'vmambair: interrupted\n'),
    ],
)
def test_exit_codes(capsys, run, code, said):
    assert guard(run) == code
    assert capsys.readouterr().err == said


def test_an_error_of_a_loaders_worker_is_one_line(capsys):
    """The worker hands its traceback over as the message."""
    assert guard(lambda: list(DataLoader(BadData(), num_workers=1))) == 2
    assert capsys.readouterr().err == 'vmambair: error: a.png: is not an image\n'


ODD = [('bad\nname.png', r'bad\nname.png'), ('\x1b[2Ja.png', r'\x1b[2Ja.png'), ('a\r.png', r'a\r.png')]


@pytest.mark.parametrize(('name', 'written'), [*ODD, ('a\u2028b', r'a\u2028b'), ('雨 ä\xa0.png', '雨 ä\xa0.png')])
def test_a_name_with_control_characters_is_named_whole(capsys, name, written):
    assert guard(lambda: raises(UserError(f'{name}: is not an image'))) == 2
    assert capsys.readouterr().err == f'vmambair: error: {written}: is not an image\n'


@pytest.mark.parametrize(('name', 'written'), ODD[:2])
def test_and_so_it_is_from_a_worker(capsys, name, written):
    assert guard(lambda: list(DataLoader(BadData(name), num_workers=1))) == 2
    assert capsys.readouterr().err == f'vmambair: error: {written}: is not an image\n'


@given(st.text())
def test_one_line_is_one_line(text):
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line
    assert str(UserError(text)) in (line, text if 'Traceback' in text else line)


@pytest.mark.parametrize('lines', [1, 100000])
def test_a_reader_that_stops_reading_is_no_error(lines):
    """As `vmambair info net.pth | head -3`; a single line is still in the buffer when the command is done."""
    code = f'import sys; from vmambair_arch.errors import guard; sys.exit(guard(lambda: print("line\\n" * {lines})))'
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b''
    assert process.returncode == 141


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        guard(lambda: 1 // 0)


@pytest.mark.parametrize(('name', 'hint'), [('derian', " (did you mean 'derain'?)"), ('zzz', '')])
def test_nearest(name, hint):
    assert nearest(name, ['derain', 'sr_x4']) == hint


def unwinding_badly() -> None:
    """As a server that is stopped while it starts: its own error takes the place of what stopped it."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        raise ConnectionError('connection refused') from None


@pytest.fixture
def default_handler():
    """Other tests of the same process leave handlers of theirs."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures('default_handler')
def test_what_a_library_makes_of_a_signal_is_still_the_signal(capsys):
    assert guard(unwinding_badly) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == 'vmambair: ended by SIGTERM\n'


def test_a_folder_whose_name_the_locale_has_no_letters_for_is_not_said_to_be_missing(monkeypatch):
    assert no_folder('träin') == 'träin: no such folder'

    def encode(name: str) -> bytes:
        return name.encode('ascii', 'surrogateescape')  # as Python does under LC_ALL=C

    monkeypatch.setattr(os, 'fsencode', encode)
    assert no_folder('tr\udcc3in') == 'tr\udcc3in: no such folder'
    assert no_folder('träin') == (
        'träin: no folder can have this name here, because the locale knows only ascii; set PYTHONUTF8=1, or a UTF-8 '
        'locale'
    )
