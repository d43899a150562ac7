"""What a checkpoint is: its network, what it says of itself, and what of that is verified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .find import find_checkpoint
from .load import CLAIMS, build_network, digest, read_checkpoint


def describe(source: str | Path) -> dict[str, Any]:
    """What a checkpoint is: its description, completed from its parameters, and their number.

    Raises:
        UserError: not a checkpoint of ours or the authors', or damaged since it was written.
    """
    path = find_checkpoint(source)
    checkpoint = read_checkpoint(path)
    network = build_network(checkpoint, str(path))
    stored = {str(t.dtype).removeprefix('torch.') for t in checkpoint.state_dict.values() if t.is_floating_point()}
    return {
        'file': str(path),
        'bytes': path.stat().st_size,
        'arch': network.arch,
        'scale': network.scale,
        'parameters': sum(parameter.numel() for parameter in network.parameters()),
        'stored_as': ', '.join(sorted(stored)),
        **{key: checkpoint.about.get(key) for key in CLAIMS},
        'sha256': digest(checkpoint.state_dict),
        'verified': 'sha256' in checkpoint.about,
        'weights': checkpoint.said,
        'config': network.config,
    }


def info(source: str | Path) -> Iterator[str]:
    """`describe` in lines for a terminal; text from the file is quoted, so that it cannot play tricks on one."""
    about = describe(source)
    yield f'{about["file"]}: {about["bytes"] / 2**20:.1f} MB'
    size = f'{about["parameters"] / 1e6:.3f} M parameters ({about["stored_as"]})'
    yield f'arch:          {about["arch"]}, {size}, scale {about["scale"]}'
    if about['weights']:
        yield f'weights:       {about["weights"]}'
    for key in CLAIMS:
        if about[key] is not None:
            yield f'{key.replace("_", " ") + ":":<14} {json.dumps(about[key])}'
    said = 'as written' if about['verified'] else 'computed; the file does not say what it was'
    yield f'sha256:        {about["sha256"]} ({said})'
    yield 'config:'
    for key, value in about['config'].items():
        yield f'  {key}: {json.dumps(value)}'
