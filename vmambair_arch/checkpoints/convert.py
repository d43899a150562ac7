"""Checkpoints that explain themselves: find them, write them, convert them, say what they are.

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
    sha256            of the parameters: `digest`

Everything in it is a claim by whoever wrote the file; only `config` (checked against the parameters) and `sha256` are
verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..archs.base import Network
from ..archs.configuration import build
from ..errors import UserError, nearest
from ..files import replacing
from .download import download, is_url
from .load import METADATA_KEY, Checkpoint, read_checkpoint

WEIGHTS = Path(__file__).resolve().parents[1] / 'weights'
"""Checkpoints that come with the package; the name of one is that of its file without the suffix."""

SUFFIXES = ('.safetensors', '.pth')
CLAIMS = ('task', 'training_data', 'metrics', 'license', 'recipe', 'compute', 'limits', 'upright')
"""What a description may say besides what can be verified."""


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
    path, names = Path(source), bundled()
    if path.is_file():
        return path
    if str(source) in names:
        return names[str(source)]
    known = f'; the package has {", ".join(names)}' if names else ''
    raise UserError(f'{source}: no such checkpoint file{nearest(str(source), list(names))}{known}')


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every parameter in the order of their names, as 64 hex digits."""
    total = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        total.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


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
    with replacing(path) as temporary:
        if path.suffix == '.pth':
            torch.save({'params': state_dict, METADATA_KEY: described}, temporary)
        else:
            from safetensors.torch import save

            # Not `save_file`, whose files only their owner may read.
            metadata = {'format': 'pt', METADATA_KEY: json.dumps(described)}
            temporary.write_bytes(save(state_dict, metadata=metadata))


def open_network(source: str | Path) -> Network:
    """The network in a checkpoint, in evaluation mode on the CPU, its parameters those that were written.

    Args:
        source: anything that `find_checkpoint` finds.

    Raises:
        UserError: it cannot be read, is of another network, or its parameters are not those of its own sha256.
    """
    path = find_checkpoint(source)
    return _network(path, read_checkpoint(path))


def convert(source: str | Path, target: str | Path, *, half: bool = False, **about: Any) -> None:
    """Write a checkpoint of anybody's as one that explains itself, or as .pth for BasicSR.

    Args:
        source: anything that `find_checkpoint` finds: ours, BasicSR's, the authors'.
        target: .safetensors or .pth.
        half: as for `save_checkpoint`.
        about: replaces what `source` says of itself; see `save_checkpoint`.

    Raises:
        UserError: `source` cannot be read, is of another network or damaged; `target` cannot be written.
    """
    found = find_checkpoint(source)
    checkpoint = read_checkpoint(found)
    network = _network(found, checkpoint)
    kept = {key: checkpoint.about.get(key) for key in CLAIMS}
    kept |= {key: value for key, value in about.items() if value is not None}
    save_checkpoint(target, network, half=half, **kept)


def parse_metrics(pairs: Sequence[str]) -> dict[str, float] | None:
    """Figures from a command line, each NAME=VALUE; None where there are none.

    Raises:
        UserError: one without a number.
    """
    metrics = {}
    for pair in pairs:
        name, _, value = pair.partition('=')
        try:
            metrics[name] = float(value)
        except ValueError:
            raise UserError(f"metric '{pair}' must be NAME=NUMBER, such as psnr_y/Rain100L=39.09") from None
    return metrics or None


def describe(source: str | Path) -> dict[str, Any]:
    """What a checkpoint is: its description, completed from its parameters, and their number.

    Raises:
        UserError: not a checkpoint of ours or the authors', or damaged since it was written.
    """
    path = find_checkpoint(source)
    checkpoint = read_checkpoint(path)
    network = _network(path, checkpoint)
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
        'config': network.config,
    }


def info(source: str | Path) -> Iterator[str]:
    """`describe` in lines for a terminal; text from the file is quoted, so that it cannot play tricks on one."""
    about = describe(source)
    yield f'{about["file"]}: {about["bytes"] / 2**20:.1f} MB'
    size = f'{about["parameters"] / 1e6:.3f} M parameters ({about["stored_as"]})'
    yield f'arch:          {about["arch"]}, {size}, scale {about["scale"]}'
    for key in CLAIMS:
        if about[key] is not None:
            yield f'{key.replace("_", " ") + ":":<14} {json.dumps(about[key])}'
    said = 'as written' if about['verified'] else 'computed; the file does not say what it was'
    yield f'sha256:        {about["sha256"]} ({said})'
    yield 'config:'
    for key, value in about['config'].items():
        yield f'  {key}: {json.dumps(value)}'


def _network(path: Path, checkpoint: Checkpoint) -> Network:
    """The network of a checkpoint whose parameters are what it says."""
    about = checkpoint.about
    try:
        network = build(checkpoint.state_dict, about.get('arch'), about.get('config'))
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    if 'sha256' in about and about['sha256'] != digest(checkpoint.state_dict):
        raise UserError(f'{path}: the parameters are not those that its sha256 was taken of; fetch or save it again')
    network.upright = about.get('upright') is True
    return network
