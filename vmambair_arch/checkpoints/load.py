"""Open a checkpoint, whoever wrote it: the one reader of weights.

Training, testing, resuming, restoring, evaluating, converting and the check all read through `read_checkpoint`, and
load into a network that is there through `fill`. Of several sets of parameters in a file the averaged one is taken,
`SETS` in their order, unless the option file names another (`param_key_g`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..archs.base import Network
from ..archs.configuration import build
from ..errors import UserError
from .download import forget, is_copy, name_of
from .find import find_checkpoint

METADATA_KEY = 'vmambair'
"""Key under which our files describe themselves: JSON text in safetensors metadata, a dict in a .pth file."""

CLAIMS = ('task', 'training_data', 'metrics', 'license', 'recipe', 'compute', 'limits', 'upright', 'colour_fix')
"""What a description may say besides what can be verified."""

SETS = ('params_ema', 'params', 'state_dict')
"""Where a file holds its parameters, the first of them that there is; otherwise the file is the state dict."""

LEAST_LOADED = 0.1
"""Share of a network's numbers that a checkpoint must fill, also where not all need to fit."""

_WRAPPERS = ('module.', '_orig_mod.')  # DistributedDataParallel's and torch.compile's
logger = logging.getLogger('vmambair_arch')


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        state_dict: parameters by name on the CPU, without wrappers' prefixes.
        about: what the file says of itself (`arch`, `config`, `scale`, `task`, …); empty for the authors' files.
        said: which of several sets of parameters this is, in words; empty where there was one.
        set: which set of parameters this is, in words, also where there was one; empty for a bare state dict.
    """

    state_dict: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    said: str = ''
    set: str = ''


def read_checkpoint(source: str | Path, key: str | None = None) -> Checkpoint:
    """Read a checkpoint; nothing in a file is ever executed.

    Args:
        source: anything that `find_checkpoint` finds: a path, an address, the name of a bundled one.
        key: the set of parameters that an option file asks for by `param_key_*`; None: the first of `SETS`. A file
            that has another set alone gives that, as with BasicSR.

    Raises:
        UserError: no such file, not a checkpoint, damaged, not the parameters that its own sha256 was taken of.
    """
    path = find_checkpoint(source)
    try:
        return _read(path, key)
    except UserError as error:
        what = f'{name_of(path)}: {str(error).removeprefix(f"{path}: ")}'
        if is_copy(path) and _damaged(path):
            forget(path)
            what = f'{what} (removed from the cache)'
        raise UserError(what) from None


def _damaged(path: Path) -> bool:
    """Whether a file cannot be read at all, whichever parameters are asked for."""
    try:
        _read(path, None)
    except UserError:
        return True
    return False


def _read(path: Path, key: str | None) -> Checkpoint:
    with path.open('rb') as file:
        head = file.read(9)
    # A safetensors file opens with the length of its JSON header and the header's brace, whatever its name.
    if path.suffix == '.safetensors' or (len(head) == 9 and head[8:] == b'{'):
        checkpoint = _read_safetensors(path)
    else:
        checkpoint = _unwrapped(read_pickle(path), key, str(path))
    if 'sha256' in checkpoint.about and checkpoint.about['sha256'] != digest(checkpoint.state_dict):
        raise UserError(f'{path}: the parameters are not those that its sha256 was taken of; fetch or save it again')
    return checkpoint


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every parameter in the order of their names, as 64 hex digits."""
    total = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        total.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


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
        raise UserError(f"{path}: its metadata '{METADATA_KEY}' does not describe a network; fetch or save it again")
    return Checkpoint(_bare(state_dict), about)


def read_pickle(path: str | Path) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in the file is executed.

    Raises:
        UserError: no such file, damaged (a single bit that is not as it was written), or it holds more than tensors
            and plain values.
    """
    try:
        check_zip(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise UserError(f'{path}: no such checkpoint file') from None
    except pickle.UnpicklingError as error:
        if 'Unsupported operand' in str(error):
            raise UserError(f'{path}: not a checkpoint, or a damaged one') from None
        raise UserError(
            f'{path}: holds more than tensors and plain values, which is not opened for safety; '
            'save only its state dict with torch.save'
        ) from None
    except Exception:  # torch raises nearly anything on a damaged file
        raise UserError(f'{path}: not a checkpoint, or a damaged one') from None


def check_zip(path: str | Path) -> None:
    """Raise `zipfile.BadZipFile` where the checksums of a zip do not fit, which torch does not test.

    A file that is not a zip, as torch wrote them before 1.6, has no checksums.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise zipfile.BadZipFile(f'{path}: {error}') from error
    if damaged is not None:
        raise zipfile.BadZipFile(f'{path}: {damaged}')


def _unwrapped(content: Any, key: str | None, name: str) -> Checkpoint:
    """The parameters in what a file, or somebody, holds: bare, or one of several sets."""
    about: dict[str, Any] = {}
    said = parameter_set = ''
    if isinstance(content, Mapping):
        if isinstance(content.get(METADATA_KEY), Mapping):
            about = dict(content[METADATA_KEY])
        there = [k for k in dict.fromkeys((*SETS, *([key] if key else ()))) if _is_set(content.get(k))]
        if key is not None and key not in SETS and key not in there:
            has = ', '.join(there) or 'none of this kind'
            raise UserError(f"{name}: holds no parameters under '{key}' (param_key), but {has}")
        if there:
            chosen = key if key in there else there[0]
            parameter_set = f'{chosen} (averaged)' if chosen == 'params_ema' else str(chosen)
            if len(there) > 1:
                said = f'{parameter_set}; {", ".join(k for k in there if k != chosen)} is there too'
            content = content[chosen]
    if not _is_set(content):
        raise UserError(f'{name}: holds no state dict (looked for {", ".join(SETS)} and bare parameters)')
    return Checkpoint(_bare(content), about, said, said or parameter_set)


def _is_set(content: object) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _bare(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by their names in the network, whatever wrapped it when they were saved."""
    bare = {}
    for key, value in state_dict.items():
        while key.startswith(_WRAPPERS):
            key = key.split('.', 1)[1]
        bare[key.replace('._orig_mod.', '.')] = value
    return bare


def load_model(source: str | Path | Mapping[str, Any]) -> Network:
    """The network in a checkpoint, in evaluation mode on the CPU, its parameters those that were written.

    The configuration comes from the file where it says it (ours), else from the names and shapes of its parameters
    (the authors' files, and BasicSR's).

    Args:
        source: anything that `find_checkpoint` finds, or a state dict, or what a file of BasicSR's holds.

    Raises:
        UserError: the file cannot be read, is of another network, or not the parameters that its sha256 was taken of.
    """
    if isinstance(source, Mapping):
        return build_network(_unwrapped(source, None, 'state dict'), 'state dict')
    checkpoint = read_checkpoint(source)
    if checkpoint.said:
        logger.info('%s: %s', source, checkpoint.said)
    return build_network(checkpoint, str(source))


def build_network(checkpoint: Checkpoint, name: str) -> Network:
    """The network of a checkpoint that was read; `name` stands in messages.

    Raises:
        UserError: the parameters are of another network than the description says, or of none of this package.
    """
    about = checkpoint.about
    try:
        network = build(checkpoint.state_dict, about.get('arch'), about.get('config'))
    except ValueError as error:
        raise UserError(f'{name}: {error}') from None
    network.upright = about.get('upright') is True
    network.colour_fix = about.get('colour_fix') or 'none'
    network.parameter_set = checkpoint.set
    return network


# into a network that is there


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a network, whose tensors may be without memory.

    Attributes:
        missing, unknown, differing: names of parameters.
        loaded: share of the network's numbers that the state dict has.
    """

    missing: Sequence[str]
    unknown: Sequence[str]
    differing: Sequence[str]
    loaded: float

    def fault(self, strict: bool) -> str:
        """Why this must not be loaded, in words; empty where it may."""
        if strict and self.left_out:
            return f'is of another network: {self.left_out}'
        if self.loaded < LEAST_LOADED:
            return (
                f'is of another network: strict_load is false, but it fills only {self.loaded:.1%} of this one'
                f'{"; " + self.left_out if self.left_out else ""}'
            )
        return ''

    @property
    def left_out(self) -> str:
        """What does not fit, with counts."""
        kinds = ((self.missing, 'are missing'), (self.unknown, 'are unknown'), (self.differing, 'have another shape'))
        return '; '.join(f'{len(names)} parameters {what} ({names[0]}, ...)' for names, what in kinds if names)


def compare(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> Fit:
    """How parameters fit those of a network."""
    fitting = [name for name in wanted if name in got and wanted[name].shape == got[name].shape]
    total = sum(tensor.numel() for tensor in wanted.values())
    return Fit(
        [name for name in wanted if name not in got],
        [name for name in got if name not in wanted],
        [name for name in wanted if name in got and wanted[name].shape != got[name].shape],
        sum(wanted[name].numel() for name in fitting) / total if total else 1.0,
    )


def fill(network: nn.Module, source: str | Path, *, strict: bool = True, key: str | None = None) -> str:
    """Load a checkpoint into a network.

    Args:
        network: without the wrapper of DistributedDataParallel.
        source, key: as for `read_checkpoint`.
        strict: every parameter must fit; else those that do not are left as they are.

    Returns:
        What was loaded, and what was left out with counts, for a log.

    Raises:
        UserError: the file cannot be read, does not fit, or fits next to nothing.
    """
    checkpoint = read_checkpoint(source, key)
    fit = compare(network.state_dict(), checkpoint.state_dict)
    if fault := fit.fault(strict):
        raise UserError(f'{source} {fault}')
    skipped = {*fit.unknown, *fit.differing}
    state = {name: tensor for name, tensor in checkpoint.state_dict.items() if name not in skipped}
    try:
        network.load_state_dict(state, strict=strict)
    except RuntimeError as error:  # what a network checks itself
        raise UserError(f'{source}: {" ".join(str(error).split())[:300]}') from None
    return '; '.join(part for part in (checkpoint.said, fit.left_out and f'left out: {fit.left_out}') if part)


def asked_set(paths: Mapping[str, Any], label: str) -> str | None:
    """The set of parameters that section `path` of an option file asks for, for the network of a label."""
    return paths.get(f'param_key_{label}')
