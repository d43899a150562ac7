"""What a checkpoint is: its network, what it says of itself, and what of that is verified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .download import name_of
from .find import find_checkpoint
from .load import CLAIMS, build_network, digest, read_checkpoint

DATA_SETS = {
    'photographs': 'two crops each of the unseen photographs of scikit-image, with rain of our own',
    'photographs-without-rain': 'middles of the unseen photographs of scikit-image, which should stay as they are',
    'drawn-lines-without-rain': 'the same with drawn lines and lettering, which should stay',
    'photographs-bicubic-x4': "two crops each of the unseen photographs of scikit-image, reduced by MATLAB's bicubic",
    'photographs-degraded-x4': "middles of the unseen photographs of scikit-image under Real-ESRGAN's degradation",
    'Kodak24-four-degraded-x4': "middles of four Kodak images under three draws each of Real-ESRGAN's degradation",
    'Urban100-four-degraded-x4': "middles of four Urban100 images under three draws each of Real-ESRGAN's degradation",
    'Set5': "inputs by MATLAB's bicubic",
    'Set14': "inputs by MATLAB's bicubic",
    'Rain100L-181-200': 'the last 20 of the 200 training pairs of Rain100L, held out; not its 100 test pairs',
}
"""What the figures of the package's networks were measured on, by the name after the slash."""


def meanings(metrics: object) -> dict[str, str]:
    """What stands behind the data sets of some figures, by name, in their order, where it is known."""
    names = [str(name).partition('/')[2] for name in metrics] if isinstance(metrics, dict) else []
    return {name: DATA_SETS[name] for name in names if name in DATA_SETS}


def describe(source: str | Path) -> dict[str, Any]:
    """What a checkpoint is: its description, completed from its parameters, and their number.

    Raises:
        UserError: not a checkpoint of ours or the authors', or damaged since it was written.
    """
    path = find_checkpoint(source)
    checkpoint = read_checkpoint(path)
    network = build_network(checkpoint, name_of(path))
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
        if key == 'metrics':
            yield from (f'  {name}: {text}' for name, text in meanings(about[key]).items())
    said = 'as written' if about['verified'] else 'computed; the file does not say what it was'
    yield f'sha256:        {about["sha256"]} ({said})'
    yield 'config:'
    for key, value in about['config'].items():
        yield f'  {key}: {json.dumps(value)}'
