"""Who may import whom: CONTRIBUTING's table, held against every import of the packages."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = 'vmambair_arch'
GROUND = {'errors', 'files', 'options', 'host'}
"""Loose modules below every room but ops."""
DOORS = {'__init__', '__main__', 'cli', 'train', 'test'}
"""Loose modules above every room."""

ORDER = (
    ('ops',),
    ('archs',),
    ('checkpoints', 'images', 'ranks'),
    ('inference', 'data', 'metrics'),
    ('losses',),
    ('models',),
    ('preflight', 'evaluation'),
    ('plugin',),
    ('commands',),
)
"""Rooms from the ground up; a room imports rooms of earlier rows, and of its own row only what `BESIDE` lists."""

BESIDE: dict[str, set[str]] = {}

PACKAGES = {
    'vmambair_arch/ops': {'torch', 'triton', 'mamba_ssm'},
    'vmambair_arch/archs': {'torch'},
    'realesrgan_pipeline': {'torch', 'numpy', 'PIL', 'lmdb', 'av', 'realesrgan_pipeline'},
}
"""All that a folder may import beside the standard library and this package."""

WITHOUT_BASICSR = ('ops', 'archs', 'checkpoints', 'images', 'ranks', 'inference')
"""What restores photographs works where BasicSR is not installed."""


def level(room: str) -> int:
    return next(number for number, row in enumerate(ORDER) if room in row)


@cache
def imports(root: Path, folder: str) -> list[tuple[Path, str]]:
    """File and dotted name of every import below a folder, relative ones written out."""
    return list(_imports(root, folder))


def _imports(root: Path, folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((root / folder).rglob('*.py')):
        package = path.relative_to(root).parent.parts
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                yield from ((path.relative_to(root), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                module = '.'.join((*base, *([node.module] if node.module else [])))
                # `from .. import x` may name a module as well as what is in one.
                yield from ((path.relative_to(root), f'{module}.{alias.name}') for alias in node.names)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module'):
                # An arrow hidden in a string is an arrow.
                hidden = (str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant))
                yield from ((path.relative_to(root), name) for name in hidden)


def rooms(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / PACKAGE).glob('*/__init__.py'))


def test_every_folder_is_a_room_with_a_row(root):
    assert rooms(root) == sorted(room for row in ORDER for room in row)


def test_only_doors_and_ground_are_loose(root):
    assert {path.stem for path in (root / PACKAGE).glob('*.py')} == GROUND | DOORS


@pytest.mark.parametrize('room', [room for row in ORDER for room in row])
def test_a_room_imports_no_room_above_or_beside_it(root, room):
    allowed = {other for row in ORDER[: level(room)] for other in row} | {room} | BESIDE.get(room, set())
    allowed |= GROUND if room != 'ops' else set()
    if room == 'commands':
        allowed |= DOORS - {'cli'} | {'__version__'}
    found = imports(root, f'{PACKAGE}/{room}')
    assert found
    broken = []
    for path, name in found:
        first, _, rest = name.partition('.')
        if first == PACKAGE and rest and rest.partition('.')[0] not in allowed:
            broken.append(f'{path}: {name}')
    assert broken == []


@pytest.mark.parametrize('folder', PACKAGES)
def test_a_room_imports_only_packages_that_it_may(root, folder):
    allowed = PACKAGES[folder] | set(sys.stdlib_module_names) | ({PACKAGE} if folder.startswith(PACKAGE) else set())
    found = imports(root, folder)
    assert [f'{path}: {name}' for path, name in found if name.partition('.')[0] not in allowed] == []


@pytest.mark.parametrize('room', WITHOUT_BASICSR)
def test_restoring_needs_no_basicsr(root, room):
    found = imports(root, f'{PACKAGE}/{room}')
    assert [f'{path}: {name}' for path, name in found if name.partition('.')[0] == 'basicsr'] == []


def test_the_table_in_contributing_lists_the_rooms_in_this_order(root):
    lines = (root / 'CONTRIBUTING.md').read_text(encoding='utf-8').splitlines()
    listed = [line.split('`')[1].removeprefix(f'{PACKAGE}/') for line in lines if line.startswith(f'| `{PACKAGE}/')]
    assert listed == [room for row in ORDER for room in row]


def test_names_of_test_files_are_unique():
    """Two of one name cannot be collected together: these folders are no packages."""
    names = Counter(path.name for path in Path(__file__).parent.rglob('test_*.py'))
    assert [name for name, times in names.items() if times > 1] == []
