"""Lists of images, one a line, in BasicSR's form `name.png (h,w,c) level`; all but the name may be missing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# From the right, since a name may hold what looks like the rest: `photo (1).png (120,125,3) 1`.
_LINE = re.compile(r'(?P<name>.*?)(?:\s+\((?P<shape>\d+,\s*\d+(?:,\s*\d+)?)\))?(?:\s+(?P<level>\d+))?\s*', re.DOTALL)
_BARE_LEVEL = re.compile(r'.*\.\w+')


@dataclass(frozen=True)
class Listed:
    """One line.

    Attributes:
        name: of the image, relative to its folder, with suffix.
        shape: height, width, channels, where the line says them.
    """

    name: str
    shape: tuple[int, int, int] | None = None

    @property
    def key(self) -> str:
        """The name without its suffix: what the image is called in a database."""
        return PurePosixPath(self.name).with_suffix('').as_posix()


def parse_line(line: str) -> Listed:
    """One line without its end."""
    match = _LINE.fullmatch(line)
    if match is None:
        return Listed(line)
    name, shape = match['name'].strip(), match['shape']
    if match['level'] and not shape and not _BARE_LEVEL.fullmatch(name):
        name = line.strip()  # a number that belongs to the name
    if not shape:
        return Listed(name)
    sizes = [int(part) for part in shape.split(',')]
    return Listed(name, (sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1))


def read_names(path: str | Path) -> list[Listed]:
    """The lines of a list, sorted by name; empty lines at its end, a byte order mark and CRLF are passed over.

    Raises:
        ValueError: it cannot be read, is empty, holds an empty line or a name twice.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        # Names of files may be any bytes; text in UTF-16 and pictures have zeros, which no name has.
        text = data.decode('utf-8-sig', 'strict' if b'\0' in data else 'surrogateescape')
        lines = text.replace('\r\n', '\n').rstrip('\n\r ').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: cannot be read as a list of image names ({error})') from error
    if lines == ['']:
        raise ValueError(f'{path}: names no images')
    listed = [parse_line(line) for line in lines]
    for number, entry in enumerate(listed, 1):
        if not entry.name:
            raise ValueError(f'{path}, line {number} is empty: each line names an image; remove it')
    twice = [name for name, times in Counter(entry.name for entry in listed).items() if times > 1]
    if twice:
        more = f' and {len(twice) - 3} more' if len(twice) > 3 else ''
        raise ValueError(f'{path}: names {", ".join(map(repr, twice[:3]))}{more} twice; keep one line of each')
    return sorted(listed, key=lambda entry: entry.name)
