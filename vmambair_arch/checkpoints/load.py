"""Open a checkpoint, whoever wrote it, and return the network in it."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..archs.base import Network
from ..archs.configuration import build
from ..errors import UserError

METADATA_KEY = 'vmambair'
"""Key under which our files describe themselves: JSON text in safetensors metadata, a dict in a .pth file."""

_NESTED = ('params_ema', 'params', 'state_dict')


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        state_dict: parameters by name on the CPU, without wrappers' prefixes.
        about: what the file says of itself (`arch`, `config`, `scale`, `task`, …); empty for the authors' files.
    """

    state_dict: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .safetensors or .pth file; of several sets of parameters the averaged one (`params_ema`) is taken.

    Pickles are read with `weights_only=True`: nothing in a file is ever executed.

    Raises:
        UserError: no such file, not a checkpoint, damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such checkpoint file')
    with path.open('rb') as file:
        head = file.read(9)
    # A safetensors file opens with the length of its JSON header and the header's brace, whatever its name.
    if path.suffix == '.safetensors' or (len(head) == 9 and head[8:] == b'{'):
        return _read_safetensors(path)
    return _read_pickle(path)


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f'{path}: damaged safetensors file ({error}); fetch or save it again') from None
    try:
        about = json.loads(metadata.get(METADATA_KEY, '{}'))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not isinstance(about.get('config', {}), dict):
        raise UserError(f"{path}: its metadata '{METADATA_KEY}' is no description of a network; fetch or save it again")
    return Checkpoint(state_dict, about)


def read_pickle(path: str | Path) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in the file is executed.

    Raises:
        UserError: no such file, damaged, or it holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise UserError(f'{path}: no such checkpoint file') from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        if isinstance(error, pickle.UnpicklingError) and 'Unsupported operand' not in str(error):
            raise UserError(
                f'{path}: holds more than tensors and plain values, which is not opened for safety; '
                'save only its state dict with torch.save'
            ) from None
        raise UserError(f'{path}: not a checkpoint, or a damaged one') from None


def _read_pickle(path: Path) -> Checkpoint:
    content = read_pickle(path)
    about: dict[str, Any] = {}
    if isinstance(content, Mapping):
        if isinstance(content.get(METADATA_KEY), Mapping):
            about = dict(content[METADATA_KEY])
        content = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f'{path}: holds no state dict (looked for {", ".join(_NESTED)} and bare parameters)')
    prefixes = ('module.', '_orig_mod.')
    state_dict = {}
    for key, value in content.items():
        while key.startswith(prefixes):
            key = key.split('.', 1)[1]
        state_dict[key] = value
    return Checkpoint(state_dict, about)


def load_model(source: str | Path | Mapping[str, Tensor]) -> Network:
    """The network in a checkpoint, in evaluation mode on the CPU.

    The configuration comes from the file where it says it (ours), else from the names and shapes of its parameters
    (the authors' files, and BasicSR's).

    Args:
        source: a .pth or .safetensors file, or a state dict.

    Raises:
        UserError: the file cannot be read, or it is of another network.
    """
    if isinstance(source, Mapping):
        checkpoint, name = Checkpoint(dict(source)), 'state dict'
    else:
        checkpoint, name = read_checkpoint(source), str(source)
    arch, config = checkpoint.about.get('arch'), checkpoint.about.get('config')
    try:
        return build(checkpoint.state_dict, arch, config)
    except ValueError as error:
        raise UserError(f'{name}: {error}') from None
