"""Names that users gave, in pictures and in tables."""

from __future__ import annotations

from collections.abc import Sequence


def plain_text(name: str) -> str:
    """A name for matplotlib, to which $ begins a formula, and which leaves out of a legend what begins with _."""
    readable = name.encode('utf-8', 'replace').decode()  # file names may hold what no font has
    return (' ' if readable.startswith('_') else '') + readable.replace('$', r'\$')


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table, to which | ends a cell and a new line the table."""
    return f'| {" | ".join(map(_cell, cells))} |'


def _cell(text: str) -> str:
    return ' '.join(text.splitlines()).replace('|', r'\|')
