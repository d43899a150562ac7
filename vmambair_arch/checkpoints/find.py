"""Which file is meant: a path, an address, or the name of a checkpoint that comes with the package."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, nearest
from .download import download, is_url
from .hub import choose_file, hub_file, parse_hub_id

FILES = ('.pth', '.safetensors', '.pt', '.ckpt')
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
        source: an existing file, a folder with one in it, an http(s) address (see `download`), the name of a bundled
            checkpoint, or 'user/repo' or 'user/repo:file' on the Hub (see `hub`).

    Raises:
        UserError: none of these, or the download failed.
    """
    if is_url(source):
        return download(str(source))
    path, names = Path(source).expanduser(), bundled()
    try:
        if path.is_file():
            return path
        if path.is_dir():
            files = [str(file.relative_to(path)) for file in path.iterdir() if file.is_file()]
            if str(source) not in names or any(file.endswith(FILES) for file in files):
                return path / choose_file(files, str(source), '/')
    except OSError as error:
        raise UserError(f'{source}: cannot be read ({error.strerror or error})') from None
    if str(source) in names:
        return names[str(source)]
    # 'weights/gone.pth' has the form of a repository, and is a file that is missing; so is what lies below a file.
    below = any(parent.is_file() for parent in path.parents)
    if not below and (named := parse_hub_id(source)) and (named[2] or not named[0].endswith(FILES)):
        return hub_file(*named)
    known = ', '.join(names) or 'there are none'
    raise UserError(
        f'{source}: no such checkpoint file{nearest(str(source), list(names))}; name a file, a folder, an https:// '
        f"address, 'user/repo' on the Hub, or one of the package: {known}"
    )
