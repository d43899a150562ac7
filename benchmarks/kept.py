"""Results that take long: made once, and written as data and as a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vmambair_arch.files import replacing

Result = TypeVar('Result')


def once(path: Path, make: Callable[[], Result]) -> Result:
    """What `make` gives, from `path` where it was made before. The file is there when it is whole."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, made)
    result: Result = json.loads(path.read_text(encoding='utf-8'))
    return result


def publish(results: Path, data: object, page: str) -> None:
    """Write `results`.json and `results`.md, and show the page."""
    write(results.with_suffix('.json'), data, indent=2)
    with replacing(results.with_suffix('.md')) as temporary:
        temporary.write_text(page, encoding='utf-8')
    print(page)


def write(path: Path, data: object, indent: int | None = None) -> None:
    """JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=indent) + '\n', encoding='utf-8')
