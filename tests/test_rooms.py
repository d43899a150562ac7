"""Who may import whom: the rules that let the scan and the networks be lifted into another program."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = {
    'vmambair_arch/ops': {'torch', 'triton', 'mamba_ssm', 'vmambair_arch.ops'},
    'vmambair_arch/archs': {'torch', 'vmambair_arch.archs', 'vmambair_arch.ops', 'vmambair_arch.errors'},
    'realesrgan_pipeline': {'torch', 'numpy', 'PIL', 'lmdb', 'realesrgan_pipeline'},
}
"""All that a folder may import beside the standard library."""

FORBIDDEN = {
    'vmambair_arch/inference': {'basicsr', 'vmambair_arch.models', 'vmambair_arch.data', 'vmambair_arch.cli'},
    'vmambair_arch': {'vmambair_arch.cli'},
}
"""What a folder may not import."""


def imports(root: Path, folder: str) -> Iterator[tuple[Path, str]]:
    """File and dotted name of every import below a folder, relative ones written out."""
    for path in sorted((root / folder).rglob('*.py')):
        package = path.relative_to(root).parent.parts
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                module = '.'.join((*base, *([node.module] if node.module else [])))
                # `from .. import x` may name a module as well as what is in one.
                yield from ((path, f'{module}.{alias.name}') for alias in node.names)


def inside(name: str, packages: set[str]) -> bool:
    return any(f'{name}.'.startswith(f'{package}.') for package in packages)


@pytest.mark.parametrize('folder', ROOMS)
def test_a_room_imports_what_it_may(root, folder):
    found = [
        (path, name) for path, name in imports(root, folder) if name.partition('.')[0] not in sys.stdlib_module_names
    ]
    assert found
    assert [f'{path}: {name}' for path, name in found if not inside(name, ROOMS[folder])] == []


@pytest.mark.parametrize('folder', FORBIDDEN)
def test_a_room_leaves_alone_what_it_must(root, folder):
    broken = [f'{p}: {n}' for p, n in imports(root, folder) if p.name != '__main__.py' and inside(n, FORBIDDEN[folder])]
    assert broken == []
