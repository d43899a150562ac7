"""Find checkpoints: files, the ones that come with the package, downloads."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, nearest

WEIGHTS = Path(__file__).resolve().parents[1] / 'weights'
"""Checkpoints that come with the package; the name of one is that of its file without the suffix."""


def bundled() -> dict[str, Path]:
    """The checkpoints that come with the package, by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob('*.safetensors'))}


def find_checkpoint(source: str | Path) -> Path:
    """The file that `source` means: an existing path, or the name of a bundled checkpoint.

    Raises:
        UserError: neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    names = bundled()
    if str(source) in names:
        return names[str(source)]
    known = f'; names: {", ".join(names)}' if names else ''
    raise UserError(f'{source}: no such checkpoint file{nearest(str(source), list(names))}{known}')
