"""Images in LMDB, in BasicSR's form: a folder `NAME.lmdb` with `data.mdb` and a list of its images, `meta_info.txt`.

LMDB maps the file into memory: where a copy was cut off, reading what is missing ends the process with SIGBUS. So the
file is held against what its first pages say of it before it is opened. Layout: `MDB_meta`, `MDB_page` and `MDB_node`
of LMDB 0.9 (mdb.c), 64 bit, in the order of bytes of the machine.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .name_list import read_names

_MAGIC = 0xBEEFC0DE
_HEADER = 16  # of a page: number, padding, flags, and where its free space begins and ends
_BRANCH = 1  # a page of the tree that leads to others
_BIG = 1  # a value that lies on pages of its own
_NO_PAGE = 2**64 - 1

_opening = threading.Lock()
_open: dict[str, tuple[tuple[int, ...], Any]] = {}  # by folder: the process and file of it, and the open database


def database(root: str) -> Any:
    """The one open environment of a folder in this process: LMDB allows no second, and none that came through a fork.

    Raises:
        ValueError: it is no database, or cut off.
    """
    import lmdb

    with _opening:  # of threads that read ahead
        stamp, opened = _open.get(root, ((), None))
        if stamp == (now := _stamp(root)):
            return opened
        if opened is not None:
            opened.close()
        _open.pop(root, None)
        if fault := fault_of(Path(root) / 'data.mdb'):
            raise ValueError(f'{root}: cannot be opened as LMDB (data.mdb {fault})')
        try:
            opened = lmdb.open(root, readonly=True, lock=False, readahead=False)
        except (lmdb.Error, OSError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise ValueError(f'{root}: cannot be opened as LMDB ({reason})') from error
        _open[root] = now, opened
        return opened


def _stamp(root: str) -> tuple[int, ...]:
    """What is another one after a fork, and where the file was made anew or cut off."""
    try:
        status = (Path(root) / 'data.mdb').stat()
    except OSError:
        return (os.getpid(),)
    return os.getpid(), status.st_dev, status.st_ino, status.st_size


def value(root: str, key: str) -> bytes | None:
    """What a database has under a key; None where it has no such key.

    Raises:
        ValueError: it is no database, cut off, or damaged.
    """
    import lmdb

    try:
        with database(root).begin() as transaction:
            return transaction.get(_bytes(key))
    except (lmdb.Error, UnicodeEncodeError) as error:
        raise ValueError(f'{root}: {key!r} cannot be read ({error})') from error


def keys(root: str) -> list[str]:
    """The keys that `meta_info.txt` names, in its order; the database has them all.

    Raises:
        ValueError: not such a folder, a list that cannot be read, two images of one key, a key without an image, or a
            database that cannot be opened.
    """
    import lmdb

    meta_info = Path(root) / 'meta_info.txt'
    listed = [entry.key for entry in read_names(meta_info, in_order=True)]
    twice = sorted(key for key, times in Counter(listed).items() if times > 1)
    if twice:
        differ = 'their names differ in the suffix only'
        raise ValueError(f'{meta_info}: {_some(twice)} stand for two images each; {differ}')
    try:
        with database(root).begin(buffers=True) as transaction:  # buffers: values are not touched
            missing = [key for key in listed if transaction.get(_bytes(key)) is None]
    except (lmdb.Error, UnicodeEncodeError) as error:
        raise ValueError(f'{root}: is damaged ({error}); make it anew') from error
    if missing:
        named = f'its meta_info.txt names {_some(missing)}'
        raise ValueError(f'{root}: {named}, but the database has no such key; make it anew')
    return listed


def _bytes(key: str) -> bytes:
    return key.encode('utf-8', 'surrogateescape')


def _some(names: list[str]) -> str:
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    return ', '.join(map(repr, names[:5])) + more


# what is there of data.mdb


def fault_of(path: Path) -> str:
    """What is wrong with the length of a `data.mdb`, for the end of a sentence; '' where all its pages are there.

    What is no such file at all is left to LMDB to say.
    """
    try:
        with path.open('rb') as file:
            size = os.fstat(file.fileno()).st_size
            meta = _newest_meta(file, size)
            if isinstance(meta, str):
                return meta
            page, last, root = meta
            # The last pages of a database may never have been written, because they are free: then its tree decides.
            if size < (last + 1) * page:
                wanted = max(_ends(file, size, page, root), default=0)
                if wanted > size:
                    return f'is cut off: {size} bytes, of at least {min(wanted, (last + 1) * page)}; copy it again'
    except FileNotFoundError:
        return 'is missing'
    except OSError as error:
        return f'cannot be read ({error.strerror or error})'
    except struct.error:
        return 'has damaged pages; copy it again'
    return ''


def _newest_meta(file: BinaryIO, size: int) -> tuple[int, int, int] | str:
    """Size of a page, number of the last one, and root of the tree, of the newer of the two descriptions of a file."""
    if size == 0:
        return 'is empty'
    first = file.read(168)
    if len(first) < 168:
        return f'is cut off: {size} bytes; copy it again'
    if struct.unpack_from('=I', first, _HEADER)[0] != _MAGIC:
        return 'is no data file of LMDB'
    page = struct.unpack_from('=I', first, 40)[0]
    if not 256 <= page <= 65536 or page & (page - 1):
        return 'has a damaged first page; copy it again'
    file.seek(page)
    second = file.read(168)
    if len(second) < 168 or size < 2 * page:
        return f'is cut off: {size} bytes, of at least {2 * page}; copy it again'
    # The two take turns: that of the later transaction counts.
    newest = max((first, second), key=lambda meta: struct.unpack_from('=Q', meta, 144)[0])
    root, last = struct.unpack_from('=QQ', newest, 128)
    return page, last, root


def _ends(file: BinaryIO, size: int, page: int, root: int) -> Iterator[int]:
    """Where each page that the tree of the images reaches ends, as far as there are any in the file."""
    left = [] if root == _NO_PAGE else [root]
    seen = set()
    while left:
        number = left.pop()
        if number in seen:
            continue
        seen.add(number)
        yield (number + 1) * page
        if (number + 1) * page > size:
            return
        file.seek(number * page)
        content = file.read(page)
        flags, lower = struct.unpack_from('=HH', content, 10)
        for at in struct.unpack_from(f'={max(lower - _HEADER, 0) // 2}H', content, _HEADER):
            low, high, mark, length = struct.unpack_from('=HHHH', content, at)
            if flags & _BRANCH:
                left.append(low | high << 16 | mark << 32)
            elif mark & _BIG:
                (first,) = struct.unpack_from('=Q', content, at + 8 + length)
                yield first * page + _HEADER + (low | high << 16)
