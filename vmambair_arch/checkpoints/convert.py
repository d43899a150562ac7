"""Checkpoints that explain themselves: write them, convert others into them.

A file describes itself under the key 'vmambair' (see `load`): in the metadata of safetensors as JSON, in a .pth as a
dict. What the description may hold:

    arch, config      the class and the keyword arguments that rebuild the network
    scale, task       output size over input size; 'derain', 'realsr', …
    training_data     what it was trained on, in words
    metrics           figures by name, such as {'psnr_y/Rain100L': 39.09}
    license           of the weights
    recipe, compute   the option file they were trained by; hardware and hours
    limits            what they are known to do badly
    upright           true where they saw upright pictures only, as of rain, which falls: no quarter turns for these
    colour_fix        'wavelet' or 'adain' where colours drift: what `restore` does about it unless it is told otherwise
    sha256            of the parameters: `digest`

Everything in it is a claim by whoever wrote the file; only `config` (checked against the parameters) and `sha256` are
verified.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..archs.base import Network
from ..errors import UserError
from ..files import check_apart, replacing
from .download import name_of
from .find import find_checkpoint
from .load import CLAIMS, METADATA_KEY, build_network, digest, read_checkpoint

SUFFIXES = ('.safetensors', '.pth')


def save_checkpoint(path: str | Path, network: Network, *, half: bool = False, **about: Any) -> None:
    """Write a network with its description, whole or not at all.

    Args:
        path: .safetensors, or .pth, which BasicSR's `pretrain_network_g` reads.
        half: store the parameters as fp16, in half the space; the network that is read back computes in float32.
        about: any of `CLAIMS`, in JSON's types; None is left out.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f'{path}: a checkpoint is written as {" or ".join(SUFFIXES)}')
    state_dict = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state_dict = {name: t.half() if t.is_floating_point() else t for name, t in state_dict.items()}
    described = {'arch': network.arch, 'config': network.config, 'scale': network.scale}
    described |= {key: value for key, value in about.items() if value is not None}
    described['sha256'] = digest(state_dict)
    # In memory first: torch's own writer takes a full disk for a fault of its own, and what `save_file` of safetensors
    # writes only its owner may read.
    if path.suffix == '.pth':
        buffer = io.BytesIO()
        torch.save({'params': state_dict, METADATA_KEY: described}, buffer)
        content = buffer.getvalue()
    else:
        from safetensors.torch import save

        content = save(state_dict, metadata={'format': 'pt', METADATA_KEY: json.dumps(described)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def convert(source: str | Path, target: str | Path, *, half: bool = False, **about: Any) -> None:
    """Write a checkpoint of anybody's as one that explains itself, or as .pth for BasicSR.

    Args:
        source: anything that `find_checkpoint` finds: ours, BasicSR's, the authors'.
        target: .safetensors or .pth.
        half: as for `save_checkpoint`.
        about: replaces what `source` says of itself; see `save_checkpoint`.

    Raises:
        UserError: `source` cannot be read, is of another network or damaged; `target` cannot be written, or is
            `source`.
    """
    found = find_checkpoint(source)
    check_apart(target, [found])
    checkpoint = read_checkpoint(found)
    network = build_network(checkpoint, name_of(found))
    kept = {key: checkpoint.about.get(key) for key in CLAIMS}
    kept |= {key: value for key, value in about.items() if value is not None}
    save_checkpoint(target, network, half=half, **kept)


def parse_metrics(pairs: Sequence[str]) -> dict[str, float] | None:
    """Figures from a command line, each NAME=VALUE; None where there are none.

    Raises:
        UserError: one without a name or a number, or whose number is not finite.
    """
    metrics = {}
    for pair in pairs:
        name, _, text = pair.partition('=')
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name.strip() or not math.isfinite(value):
            raise UserError(f"metric '{pair}' must be NAME=NUMBER, such as psnr_y/Rain100L=39.09")
        metrics[name.strip()] = value
    return metrics or None
