"""Which file is meant: a path, an address, or the name of a checkpoint that comes with the package."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, nearest
from .download import download, is_url

WEIGHTS = Path(__file__).resolve().parents[1] / 'weights'
"""Checkpoints that come with the package; the name of one is that of its file without the suffix."""


def bundled() -> dict[str, Path]:
    """The checkpoints that come with the package, by name, which is their task: 'derain', 'sr'."""
    return {path.stem: path for path in sorted(WEIGHTS.glob('*.safetensors'))}


def checkpoint_for(task: str) -> Path:
    """The checkpoint of the package that does a task.

    Raises:
        UserError: there is none for it.
    """
    names = bundled()
    if task not in names:
        known = f'; the package has networks for {", ".join(names)}' if names else '; the package has no networks'
        raise UserError(f"no network for the task '{task}'{nearest(task, list(names))}{known}, or name a checkpoint")
    return names[task]


def find_checkpoint(source: str | Path) -> Path:
    """The file that `source` means.

    Args:
        source: an existing path, an http(s) address (see `download`), or the name of a bundled checkpoint.

    Raises:
        UserError: none of these, or the download failed.
    """
    if is_url(source):
        return download(str(source))
    path, names = Path(source).expanduser(), bundled()
    if path.is_file():
        return path
    if str(source) in names:
        return names[str(source)]
    known = f'; the package has {", ".join(names)}' if names else ''
    raise UserError(f'{source}: no such checkpoint file{nearest(str(source), list(names))}{known}')
