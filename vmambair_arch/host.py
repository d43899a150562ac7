"""What is to be settled before other packages are imported: BasicSR's turn, and how threads wait."""

from __future__ import annotations

import importlib
import importlib.util
import os


def import_basicsr() -> None:
    """Import basicsr where it is installed: a registered module that is imported first must not meet its own import."""
    if importlib.util.find_spec('basicsr') and importlib.util.find_spec('cv2'):
        importlib.import_module('basicsr')


def let_threads_sleep() -> None:
    """Let the threads of torch and of our kernels sleep while they wait for each other, unless the user said otherwise.

    By default they spin for milliseconds. Beside a process that takes one of the cores the spinning thread then often
    holds the very core that the other one needs: ten times the time of one thread alone. OpenMP reads the variable when
    it is loaded, so this must come before torch.
    """
    if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'} & os.environ.keys():
        os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
