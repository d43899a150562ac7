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


def format_line(name: str, shape: tuple[int, int, int], level: int | None = None) -> str:
    """A line with its end, as `read_names` reads it.

    Raises:
        ValueError: the name would be read as another one: it begins with a blank, or has the end of a line in it.
    """
    line = f'{name} ({",".join(map(str, shape))})' + ('' if level is None else f' {level}')
    if '\n' in name or '\r' in name or parse_line(line) != Listed(name, shape):
        raise ValueError(f'{name!r} cannot stand in a list of images, one a line; rename the file')
    return f'{line}\n'


def read_names(path: str | Path, in_order: bool = False) -> list[Listed]:
    """The lines of a list, sorted by name or `in_order` as they stand there.

    Empty lines at its end, a byte order mark and CRLF are passed over.

    Raises:
        ValueError: it cannot be read, is empty, holds an empty line or a name twice.
    """
    lines = read_lines(path)
    listed = [parse_line(line) for line in lines]
    for number, entry in enumerate(listed, 1):
        if not entry.name:
            raise ValueError(f'{path}, line {number} is empty: each line names an image; remove it')
    _refuse_twice(path, [entry.name for entry in listed])
    return listed if in_order else sorted(listed, key=lambda entry: entry.name)


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """The lines `input target` of a list of pairs, sorted by input; a tab between them where names have blanks.

    A slash in front of a name, as in SPA-Data's `real_world.txt`, counts for nothing: names are relative to the folders
    of inputs and targets. Many inputs may share a target.

    Raises:
        ValueError: it cannot be read, is empty, holds a line without two names, or an input twice.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        names = [name.strip().lstrip('/') for name in (line.split('\t') if '\t' in line else line.split())]
        if len(names) != 2 or not all(names):
            raise ValueError(
                f'{path}, line {number}: {line!r} is no pair: each line names an input and its target, with a tab '
                'between them where names have blanks'
            )
        pairs.append((names[0], names[1]))
    _refuse_twice(path, [name for name, _ in pairs])
    return sorted(pairs)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a list without their ends, its byte order mark, and empty lines at its end.

    Raises:
        ValueError: it cannot be read, or is empty.
    """
    try:
        data = Path(path).read_bytes()
        # Names of files may be any bytes; text in UTF-16 and pictures have zeros, which no name has.
        text = data.decode('utf-8-sig', 'strict' if b'\0' in data else 'surrogateescape')
        lines = text.replace('\r\n', '\n').rstrip('\n\r ').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ValueError(f'{path}: cannot be read as a list of image names ({reason})') from error
    if lines == ['']:
        raise ValueError(f'{path}: names no images')
    return lines


def _refuse_twice(path: str | Path, names: list[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        more = f' and {len(twice) - 3} more' if len(twice) > 3 else ''
        raise ValueError(f'{path}: names {", ".join(map(repr, twice[:3]))}{more} twice; keep one line of each')
