"""SIGTERM, SIGHUP and Ctrl-C: remembered until an iteration is complete, so that what is saved is whole."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from .distributed import gather

_PATIENCE = 3


class StopRequest:
    """Remembers the first SIGTERM or SIGINT. The third gives up on saving and stops at once.

    The second is not a third: a launcher passes on the Ctrl-C that its ranks got from the terminal as well.

    Attributes:
        signal: its number; 0 while there was none.
        agreed: the number by which all ranks stop after this iteration; 0 while they go on.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.agreed = 0
        self._count = 0
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """From now on; does nothing outside the main thread, where Python takes no signals."""
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        hangup = getattr(signal, 'SIGHUP', signal.SIGTERM)  # Windows has none
        for number in {signal.SIGTERM, signal.SIGINT, hangup}:
            if number == hangup and signal.getsignal(number) == signal.SIG_IGN:  # under nohup
                continue
            self._previous[number] = signal.signal(number, self._remember)

    def agree(self) -> None:
        """All ranks call this together, once one of them was asked to stop: they must save the same iteration."""
        self.agreed = max(gather(self.signal))

    def leave(self) -> None:
        """Put back who listened before, and forget what was heard."""
        self.signal = 0
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.signal = self.signal or number
        if self._count >= _PATIENCE:
            self.leave()
            os.kill(os.getpid(), number)
        else:
            name = signal.Signals(number).name
            # Not through the logger, in whose middle the signal may have arrived.
            os.write(2, f'\n{name}: saving after this iteration, then stopping\n'.encode())


def ignore_stop_signals() -> None:
    """For data loading workers: Ctrl-C reaches them too, and the process that saves still needs their work."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
