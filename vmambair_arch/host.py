"""What is to be settled before other packages are imported: BasicSR's turn, how threads wait, memory that is kept."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # malloc.h of the GNU C library
_LARGEST_OF_STEPS = 1 << 25
"""Of an allocation that glibc takes from the heap and not from the system: before 2.35 it accepts no more."""
_LARGEST_OF_PICTURES = 1 << 26
_NEVER = (1 << 31) - 1
SPINS = 1000
"""Turns that a thread of GNU's OpenMP waits before it sleeps."""


def import_basicsr() -> None:
    """Import basicsr where it is installed: a registered module that is imported first must not meet its own import."""
    if importlib.util.find_spec('basicsr') and importlib.util.find_spec('cv2'):
        importlib.import_module('basicsr')


def let_threads_sleep() -> None:
    """Let the threads of torch and of our kernels sleep when they have waited some microseconds for each other, unless
    the user said otherwise.

    By default they spin for milliseconds. Beside a process that takes one of the cores the spinning thread then often
    holds the very core that the other one needs: ten times the time of one thread alone. To sleep at once is nearly as
    bad on an idle machine, for a network of small maps waits a thousand times: `GOMP_SPINCOUNT`, in turns of GNU's
    OpenMP that take 10 to 40 ns each, is between the two (`benchmarks.neighbour`). Other OpenMP libraries do not read
    it and sleep at once. OpenMP reads the variables when it is loaded, so this must come before torch.
    """
    if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'} & os.environ.keys():
        os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
        os.environ['GOMP_SPINCOUNT'] = str(SPINS)


def keep_freed_memory(*, of_pictures: bool = False) -> bool:
    """Let the process keep what it frees, for its next allocations.

    By default glibc hands large pieces back to the system at once, and what comes next waits for the system to clear
    the same pages again: in a process that only trains, 14 000 page faults a step of the preset `light` and 5 to 9 % of
    its time; 600 000 faults for a 720x480 photograph by `derain`. What the process holds afterwards is its peak.

    Args:
        of_pictures: pieces of up to 64 MB, as most maps of a photograph are, from one heap for all threads (those of
            others are too small for them). Pieces that no longer fit where others were leave gaps: 1.2 to 1.3 times
            the memory; with larger ones it would be up to four times. To be called before there are threads. Where the
            user set up the allocator, nothing is changed.

    Returns:
        Whether it could be set: with glibc (most of Linux) only, and only for tensors in the memory of the CPU.
    """
    library = _glibc()
    if library is None:
        return False
    if of_pictures:
        if not hasattr(library, 'mallinfo2') or any(n.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for n in os.environ):
            return False
        settings = {_M_MMAP_THRESHOLD: _LARGEST_OF_PICTURES, _M_ARENA_MAX: 1}
    else:
        settings = {_M_MMAP_THRESHOLD: _LARGEST_OF_STEPS}
    settings |= {_M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 1 << 26}
    # The threshold first: where it is refused, the others would make things worse.
    return all(library.mallopt(name, value) for name, value in settings.items())


def freed_memory() -> int:
    """Bytes that the process has of the system and does not use: what it freed and keeps. 0 where nobody says."""
    library = _glibc()
    if library is None or not hasattr(library, 'mallinfo2'):
        return 0
    library.mallinfo2.restype = _MallInfo
    return int(library.mallinfo2().fordblks)


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost',
        )
    ]  # fmt: skip


def computes_in_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself: AVX512-BF16 or AMX, bf16 on ARM. True where nobody says."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return True
    flags = next((line.split() for line in lines if line.lower().startswith(('flags', 'features'))), None)
    return flags is None or not {'avx512_bf16', 'amx_bf16', 'bf16'}.isdisjoint(flags)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is GNU's: musl and other systems have no `mallopt`."""
    if not sys.platform.startswith('linux'):
        return None
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if hasattr(library, 'mallopt') else None
