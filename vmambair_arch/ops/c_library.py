"""The library of C kernels, `_kernels.so`, which setup.py builds from `csrc/`: find it, load it, choose the vectors.

It has no Python and no torch in it, and is loaded with ctypes after torch, so that both share torch's OpenMP threads.

`python -m` in a checkout runs the modules there, and after `pip install .` the library lies with the installed copy: it
is used where it was built from the very sources that lie here. A library of other sources would be called with
arguments that it does not have, so none is loaded: neither that of an older install nor one that was not built again.

The environment variable `VMAMBAIR_SCAN_ISA` (avx512, avx2, neon, portable) forces an instruction set; the default is
the widest that this machine has.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name('_kernels.so')
ENV_ISA = 'VMAMBAIR_SCAN_ISA'
ONE_THREAD = (
    'they were built by a compiler without OpenMP. Fix: install gcc, or the OpenMP library of clang (Debian and '
    'Ubuntu: apt install libomp-dev), then pip install --force-reinstall --no-deps . in the checkout'
)
"""Why kernels may have one thread, and what to do."""


def sources() -> str | None:
    """A hash of the C sources that lie here, as setup.py builds it into the library; None where there are none.

    Names that begin with a dot are what editors and macOS leave beside a file.
    """
    files = sorted(Path(__file__).with_name('csrc').glob('[!.]*.[ch]'))
    try:
        return hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:16] if files else None
    except OSError as error:
        return f'unreadable ({error})'  # of which no library was built


def found() -> list[Path]:
    """The libraries there are: beside this module, then those of installed copies of the package."""
    elsewhere = (Path(entry) / 'vmambair_arch' / 'ops' / LIBRARY.name for entry in sys.path if entry)
    return [path for path in dict.fromkeys((LIBRARY, *elsewhere)) if path.is_file()]


def _open(path: Path, here: str | None) -> tuple[ctypes.CDLL | None, str]:
    """The library of a path, or None and why it is not to be used."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f'the C kernel cannot be loaded ({error})'
    built = getattr(library, 'vmambair_sources', None)
    if built is not None:
        built.restype = ctypes.c_char_p
    if here is not None and (built is None or built().decode() != here):
        return None, f'the C kernel was built from other sources ({path} is not of {Path(__file__).with_name("csrc")})'
    return library, ''


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The first library that can be used, or None and why the first of all cannot."""
    library, why = None, f'the C kernel was not built ({LIBRARY.name} is missing beside {Path(__file__).name})'
    here = sources()
    for number, path in enumerate(found()):
        library, reason = _open(path, here)
        if library is not None:
            break
        why = reason if number == 0 else why
    if library is None:
        return None, why
    library.vmambair_isa_name.argtypes = [ctypes.c_int]
    library.vmambair_isa_name.restype = ctypes.c_char_p
    library.vmambair_isa_select.argtypes = [ctypes.c_char_p]
    library.vmambair_isa_selected.restype = ctypes.c_char_p
    wanted = os.environ.get(ENV_ISA, '')
    if library.vmambair_isa_select(os.fsencode(wanted)):
        return None, f'{ENV_ISA}={wanted.strip()} is not one of {", ".join(_isa_names(library))}'
    if not library.vmambair_has_threads() and torch.get_num_threads() > 1:
        logging.getLogger('vmambair_arch').warning('The C kernels use one thread: %s', ONE_THREAD)
    return library, ''


def why_not() -> str | None:
    """Why the kernels cannot be used here; None where they can."""
    library, why = _load()
    return None if library else why


def library() -> ctypes.CDLL:
    """The library.

    Raises:
        RuntimeError: it cannot be used here.
    """
    library, why = _load()
    if library is None:
        raise RuntimeError(why)
    return library


def _isa_names(library: ctypes.CDLL) -> tuple[str, ...]:
    names: list[str] = []
    while name := library.vmambair_isa_name(len(names)):
        names.append(name.decode())
    return tuple(names)


def path() -> Path:
    """The file of the library in use."""
    return Path(library()._name)


def has_threads() -> bool:
    """Whether the kernels share their work among threads."""
    return bool(library().vmambair_has_threads())


def isa_names() -> tuple[str, ...]:
    """The instruction sets of this machine that the kernels were built for, fastest first; empty without kernels."""
    library, _ = _load()
    return _isa_names(library) if library else ()


def selected_isa() -> str:
    """The instruction set in use."""
    return library().vmambair_isa_selected().decode()


def select_isa(name: str) -> None:
    """Use the instruction set `name` of `isa_names` from now on, in this process.

    Raises:
        ValueError: this machine has none of that name.
    """
    if name not in isa_names():
        raise ValueError(f"instruction set '{name}' is not one of {', '.join(isa_names())}")
    library().vmambair_isa_select(name.encode())
