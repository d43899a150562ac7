"""The one kind of error that a user caused and a user can fix."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029]')
_TRACEBACK = 'Traceback (most recent call last)'


def one_line(text: str) -> str:
    """A text with names in it that fits on a line and does nothing to a terminal: control characters as their codes."""
    return _CONTROL.sub(lambda match: match[0].encode('unicode_escape').decode(), text)


class UserError(ValueError):
    """Bad input: the message is one line that names the file or key and says what to do.

    The command line prints the message without a traceback and exits with `exit_code`.

    Args:
        message: one line, without a final full stop where it ends in a path or a command. Control characters, which
            names of files may have, are written as their codes.
        exit_code: 2 for bad input (default), 1 where part of the work was done, 3 where training gave up.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        # A worker of a loader hands over its traceback, whose last line is a message that went through here before.
        super().__init__(message if _TRACEBACK in message else one_line(message))
        self.exit_code = exit_code


def nearest(name: str, valid: Sequence[str]) -> str:
    """A hint ` (did you mean 'x'?)` for a mistyped name, empty where nothing is near."""
    import difflib

    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ''


def no_folder(folder: object) -> str:
    """The message about a folder that is not there, with the reason where the locale has no letters for its name."""
    try:
        os.fsencode(str(folder))
    except UnicodeEncodeError as error:
        known = f'the locale knows only {error.encoding}'
        return f'{folder}: no folder can have this name here, because {known}; set PYTHONUTF8=1, or a UTF-8 locale'
    return f'{folder}: no such folder'


@contextmanager
def as_user_error(what: str = '') -> Iterator[None]:
    """Turn a ValueError of `realesrgan_pipeline`, which has one-line messages but no UserError, into one.

    Args:
        what: put before the message.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'{what}: {error}' if what else str(error)) from error


class Stopped(BaseException):
    """SIGTERM or SIGHUP, as an exception that unwinds whatever is going on, so that nothing stays half-written.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def signals_unwind() -> Iterator[list[int]]:
    """Inside, SIGTERM and SIGHUP raise `Stopped`; one that is ignored, as under nohup, stays so. Gives what came."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise Stopped(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in ('SIGTERM', 'SIGHUP'):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


HOW_TO_TRAIN = (
    'pip install torch torchvision numpy cython setuptools wheel, '
    'then in the checkout pip install --no-build-isolation ".[train]"'
)
OF_TRAIN = ('basicsr', 'torchvision', 'timm', 'lpips', 'dists_pytorch', 'skimage', 'matplotlib')
"""Modules that come with the extra `train`; restoring needs none of them."""


def require(what: str, *modules: str) -> None:
    """Ask for modules of `OF_TRAIN` before any work is done.

    Raises:
        UserError: `what` needs some that are not installed; all of them are named, and what to install.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(_without(what, missing))


def _without(what: str, missing: Sequence[str]) -> str:
    names = ' and '.join(repr(name) for name in missing)
    return f'{what} needs {names}, which {"is" if len(missing) == 1 else "are"} not installed; {HOW_TO_TRAIN}'


_PATIENCE = 3


@contextmanager
def signals_held() -> Iterator[None]:
    """Inside, SIGTERM, SIGHUP and Ctrl-C wait, and come at the end. For what torch calls back from C++, as its modes
    of tensors without memory do: an exception there ends the process with SIGABRT, or is swallowed.

    The third does not wait. Outside the main thread, which alone has signals, nothing is held.
    """
    held: list[int] = []
    previous: dict[int, Any] = {}

    def hold(number: int, frame: object) -> None:
        held.append(number)
        if len(held) >= _PATIENCE:
            previous[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for name in ('SIGTERM', 'SIGHUP', 'SIGINT'):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and callable(signal.getsignal(number)):
                previous[number] = signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if held and len(held) < _PATIENCE:
            signal.raise_signal(held[0])


def write_any_letter() -> None:
    """What the locale has no letters for is written as its code: it must not end a run, nor a help text. A stream that
    the caller closed (`>&-`) is one to nowhere."""
    for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding='utf-8'))  # noqa: SIM115, PTH123 for as long as we run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def _flushed() -> int:
    """Write what waits for stdout; 1 where that cannot be, as on a full disk, which is said.

    Raises:
        BrokenPipeError: whoever read it stopped.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        return _unwritten(error, 'stdout:')
    return 0


def _unwritten(error: OSError, what: str) -> int:
    sys.stderr.write(f'vmambair: error: {what} cannot be written ({error.strerror or error})\n')
    _forget_stdout()
    return 1


def _forget_stdout() -> None:
    """What waits for it goes nowhere, or Python complains again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_SHARED = re.compile(r'shared memory\(shm\)|shared memory limit|shared memory object|file </torch_')
"""What torch says where there is no room for the batches of workers: a worker, or the loader of one that was killed."""


def _lacks_shared_memory(error: BaseException) -> bool:
    """Whether an error is of /dev/shm: a batch that does not fit, or the locks of the workers themselves."""
    if isinstance(error, RuntimeError):
        return _SHARED.search(str(error)) is not None
    names = (frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith('multiprocessing.') for name in names)


def _without_room(error: BaseException) -> int:
    sys.stderr.write(
        'vmambair: error: /dev/shm, through which the workers of a loader hand over their batches, is full; give it '
        'more room (docker run --shm-size=1g), or lower num_worker_per_gpu or batch_size_per_gpu\n'
    )
    hook = sys.unraisablehook
    try:  # a loader that was never complete complains again as it goes
        sys.unraisablehook = lambda unraisable: None
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook
    return 1


def guard(run: Callable[[], int | None]) -> int:
    """Call `run` for a command line and return the exit code: its own (None is 0), that of a UserError, 130 for Ctrl-C,
    143 for SIGTERM, 129 for SIGHUP, 141 where whoever read the output, as `head`, stopped.

    A UserError is one line on stderr, as is a full /dev/shm (1), also where a worker process of a loader wrapped its
    traceback around it.
    """
    write_any_letter()
    try:
        with signals_unwind() as received:
            try:
                code = run() or 0
            except Exception as error:
                if received and not isinstance(error, UserError):  # what a library made of the end of its own work
                    raise Stopped(received[0]) from error
                raise
        return _flushed() or code
    except Stopped as stopped:
        sys.stderr.write(f'vmambair: ended by {signal.Signals(stopped.number).name}\n')
        return 128 + stopped.number
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            _forget_stdout()
            return 141  # what shells report for SIGPIPE
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):  # of a stream, not a file
            if error.errno == errno.ENOSPC and _lacks_shared_memory(error):
                return _without_room(error)
            return _unwritten(error, 'stdout, or what else was written,')
        raise
    except RuntimeError as error:
        if not _lacks_shared_memory(error):
            raise
        return _without_room(error)
    except UserError as error:
        line = str(error).strip().rpartition('\n')[2].rpartition('UserError: ')[2]
        sys.stderr.write(f'vmambair: error: {line}\n')
        try:
            sys.stdout.flush()
        except OSError:  # which is what was said, or comes of it
            _forget_stdout()
        return error.exit_code
    except ModuleNotFoundError as error:
        module = (error.name or '').partition('.')[0]
        if module not in OF_TRAIN:
            raise
        sys.stderr.write(f'vmambair: error: {_without("this", [module])}\n')
        return 2
    except UnicodeEncodeError as error:
        if error.encoding == 'utf-8':  # not the locale's doing
            raise
        sys.stderr.write(
            f'vmambair: error: {error.object!r} cannot be the name of a file here, because the locale knows only '
            f'{error.encoding}; set PYTHONUTF8=1, or a UTF-8 locale\n'
        )
        return 2
    except KeyboardInterrupt:
        # One that came through an exec of text, as of a dataclass, is noted by Python, which ends itself by SIGINT for
        # it instead of returning our code; the next exec forgets it.
        exec('')
        sys.stderr.write('vmambair: interrupted\n')
        return 130
