"""What the command line makes of errors."""

from __future__ import annotations

import errno
import importlib
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from vmambair_arch.errors import OF_TRAIN, UserError, guard, nearest, no_folder, one_line, require, signals_held


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


@pytest.mark.parametrize('module', OF_TRAIN)
def test_a_module_of_training_that_is_not_there_is_one_line(capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert guard(lambda: importlib.import_module(f'{module}.anything') and None) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"vmambair: error: this needs '{module}', which is not installed; pip install ")
    assert said.count('\n') == 1
    with pytest.raises(UserError, match=f"^a plot needs '{module}', which is not installed; pip"):
        require('a plot', 'sys', module)


def test_what_is_missing_is_named_at_once(monkeypatch):
    for module in ('basicsr', 'skimage'):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="^the demo needs 'basicsr' and 'skimage', which are not installed; pip"):
        require('the demo', 'basicsr', 'sys', 'skimage')
    require('the demo', 'sys')


def test_a_module_of_somebody_elses_that_is_missing_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError):
        guard(lambda: importlib.import_module('no_such_module_of_mine') and None)


@pytest.mark.parametrize(
    'command',
    [
        ['evaluate', 'x=derain', '--truth', 'gone'],
        ['profile', 'light', '-o', 'p'],
        ['demo'],
        ['demo', '--shipped'],
        ['demo', 'sr'],
    ],
)
def test_commands_ask_before_the_work(capsys, monkeypatch, tmp_path, command):
    from vmambair_arch import cli

    monkeypatch.chdir(tmp_path)
    for module in ('matplotlib', 'skimage'):
        monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert 'pip install' in said[-1] or 'gone' in said[-1]
    assert not list(tmp_path.iterdir())


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


class Heard(BaseException):
    """Of no library's business, as `Stopped` and KeyboardInterrupt are."""


def hear(number: int, frame: object) -> None:
    raise Heard(number)


STOPPING = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


@pytest.fixture(params=STOPPING, ids=lambda number: number.name)
def heard(request):
    """The number of a signal that raises `Heard` meanwhile."""
    before = signal.signal(request.param, hear)
    yield request.param
    signal.signal(request.param, before)


def held(number: int, times: int, done: list[int]) -> None:
    """Send a signal so often while it is held, and note each time that it did not come."""
    with signals_held():
        for i in range(times):
            os.kill(os.getpid(), number)
            done.append(i)


@pytest.mark.parametrize(('times', 'waited'), [(1, [0]), (2, [0, 1]), (3, [0, 1])])
def test_held_signals_come_once_and_at_the_end_but_for_the_third(heard, times, waited):
    done = []
    with pytest.raises(Heard) as caught:
        held(heard, times, done)
    assert (done, caught.value.args) == (waited, (heard,))
    assert signal.getsignal(heard) is hear


@pytest.mark.parametrize('handler', [signal.SIG_DFL, signal.SIG_IGN])
@pytest.mark.parametrize('number', STOPPING, ids=lambda number: number.name)
def test_signals_that_raise_nothing_are_not_held(number, handler):
    before = signal.signal(number, handler)
    try:
        with signals_held():
            assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)


def test_an_error_comes_before_no_signal_and_outside_the_main_thread_nothing_is_held(heard):
    with pytest.raises(KeyError), signals_held():
        raise KeyError
    assert signal.getsignal(heard) is hear
    inside = []

    def run() -> None:
        with signals_held():
            inside.append(signal.getsignal(heard))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [hear]


@pytest.mark.parametrize('text', ['raise KeyboardInterrupt', 'import x_that_is_interrupted'])
def test_ctrl_c_in_an_exec_of_text_ends_with_its_code(tmp_path, text):
    """Python noted it, and ended itself by SIGINT instead: -2 for who started it, where 130 is documented."""
    (tmp_path / 'x_that_is_interrupted.py').write_text('raise KeyboardInterrupt')
    program = f'import sys\nfrom vmambair_arch.errors import guard\nsys.exit(guard(lambda: exec({text!r})))'
    (tmp_path / 'program.py').write_text(program)
    done = subprocess.run([sys.executable, '-m', 'program'], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, 'vmambair: interrupted\n')


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


# ---------------------------------------------------------------- workers without shared memory

NO_SHM = 'unable to allocate shared memory(shm) for file </torch_11_4_0>: No space left on device (28)'


class Full(Dataset):
    """As torch in a worker, where /dev/shm has no room for its batch."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise RuntimeError(NO_SHM)


def no_locks(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    'run',
    [
        lambda: raises(RuntimeError(NO_SHM)),
        lambda: raises(RuntimeError(f'Caught RuntimeError in DataLoader worker process 0.\nTraceback ...\n{NO_SHM}')),
        lambda: raises(
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                'are out of shared memory. Please try to raise your shared memory limit.'
            )
        ),
        lambda: list(DataLoader(Full(), num_workers=1)),
        lambda: list(DataLoader(Full())),
    ],
)
def test_batches_that_shared_memory_has_no_room_for_are_one_line(capsys, run):
    assert guard(run) == 1
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert said.startswith('vmambair: error: /dev/shm, ')
    assert '--shm-size' in said
    assert 'num_worker_per_gpu' in said


def test_locks_that_shared_memory_has_no_room_for_are_one_line(capsys, monkeypatch):
    """Not the line of a stream that cannot be written; nor does the loader that was never complete add its own."""
    complaints: list[object] = []
    monkeypatch.setattr(sys, 'unraisablehook', complaints.append)
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, '_make_name', staticmethod(no_locks))
    assert guard(lambda: list(DataLoader(Full(), num_workers=1))) == 1
    said = capsys.readouterr().err
    assert said.startswith('vmambair: error: /dev/shm, ')
    assert said.count('\n') == 1
    assert complaints == []


@pytest.mark.parametrize('text', ['CUDA out of memory', 'mat1 and mat2 shapes cannot be multiplied', 'shm'])
def test_other_errors_of_torch_stay_what_they_are(text):
    with pytest.raises(RuntimeError, match=text):
        guard(lambda: raises(RuntimeError(text)))


def test_a_full_disk_is_not_taken_for_shared_memory(capsys, monkeypatch):
    monkeypatch.setattr('vmambair_arch.errors._forget_stdout', lambda: None)
    assert guard(no_locks) == 1
    assert 'stdout, or what else was written, cannot be written' in capsys.readouterr().err
