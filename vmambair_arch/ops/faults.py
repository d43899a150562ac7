"""What an exception of torch, of a kernel or of its compiler means: memory, size, a device that is lost, and the fix.

Told by the words, for the classes have other names in every other version.
"""

from __future__ import annotations

_MEMORY = ('out of memory', 'allocate memory', 'not enough memory', 'alloc_failed')
_SIZE = ('canuse32bitindexmath', 'int_max', '32-bit index', 'cudnn_status_not_supported', 'integer out of range')
_LOST = (
    'illegal memory access', 'illegal address', 'illegalad', 'device-side assert', 'unspecified launch failure',
    'misaligned address', 'illegal instruction', 'invalid program counter', 'uncorrectable ecc', 'gpu is lost',
    'memory access fault',
)  # fmt: skip
_FIXES = (
    (('python.h',), 'install the headers of Python (Debian and Ubuntu: apt install python3-dev)'),
    (
        ('c compiler', 'gcc', 'clang', "'cc'"),
        'install a C compiler (Debian and Ubuntu: apt install gcc), or name one in the variable CC',
    ),
    (('no space left', 'disk quota'), 'free disk space, or set TRITON_CACHE_DIR to a folder on another disk'),
    (
        ('permission denied', 'read-only file system', 'could not determine home'),
        'set TRITON_CACHE_DIR to a folder that can be written',
    ),
    (
        ('selective_scan_cuda',),
        'MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir mamba-ssm',
    ),
    (('unsupported toolchain', 'driver version is insufficient', 'ptx jit'), 'update the driver of the GPU'),
    (('no kernel image',), 'install a torch that was built for this GPU'),
)


def one_line(error: BaseException | str, most: int = 200) -> str:
    """An exception, or what a process said last, on one line."""
    said = error if isinstance(error, str) else f'{type(error).__name__}: {error}'
    said = ' '.join(said.split())
    return said if len(said) <= most else f'{said[: most - 1]}…'


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python says that memory ran out, on any device."""
    return isinstance(error, MemoryError) or _says(str(error), _MEMORY)


def is_too_large(error: BaseException) -> bool:
    """Whether a tensor has more elements than an operator can count (32 bits): a smaller tile helps, as for memory."""
    return _says(str(error), _SIZE)


def is_lost(error: BaseException | str) -> bool:
    """Whether the device is of no use to this process any more: every later call fails as well."""
    return _says(str(error), _LOST)


def fix(error: BaseException | str) -> str | None:
    """What a user can do about a kernel that cannot be compiled, loaded or launched; None where nobody knows."""
    said = str(error) if isinstance(error, str) else f'{type(error).__name__}: {error}'
    return next((line for words, line in _FIXES if _says(said, words)), None)


def _says(said: str, words: tuple[str, ...]) -> bool:
    said = said.lower()
    return any(word in said for word in words)
