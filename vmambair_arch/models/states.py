"""The training state that a run goes on from: found, read, and known to be of the run before anything is built.

A state `<iteration>.state` belongs to the networks `net_<label>_<iteration>.pth` that were saved with it: in the folder
`models` beside its own folder, or in its own folder; a state that lies alone belongs to those of the experiment. What
of it must fit what the options name is told by `misfit`, for the check and for the model alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoints.load import compare, digest, read_checkpoint, read_pickle
from ..errors import UserError

_POSITION = ('last_epoch', '_step_count', '_last_lr')
"""What torch saves of every scheduler, and all that ours take of it."""

_BEGIN = 'to begin a new run with its weights: path: pretrain_network_g'


@dataclass(frozen=True)
class Start:
    """A state that can be gone on from.

    Attributes:
        path: of the state.
        state: what it holds, on the CPU.
        networks: the files of its networks by label, without those that are to start afresh.
        weights: what those hold under `params`, by label.
        inside: whether they are those of the experiment itself; else the run goes on from another one.
    """

    path: Path
    state: dict[str, Any]
    networks: dict[str, Path]
    weights: dict[str, dict[str, Tensor]]
    inside: bool

    @property
    def iteration(self) -> int:
        return int(self.state['iter'])

    @property
    def models(self) -> Path | None:
        """The folder of the networks; None where all are to start afresh."""
        return next((path.parent for path in self.networks.values()), None)


def find_start(
    opt: Mapping[str, Any],
    experiment: str | Path,
    auto_resume: bool,
    say: Callable[[str], None],
) -> Start | None:
    """The state to resume from; None starts from scratch.

    With `auto_resume` the newest state of the experiment that can be read and whose networks are there; one that was
    cut off while it was written, or lacks a part, is passed over with a word. Where the experiment has none, and
    without `auto_resume`, the state that `path: resume_state` names.

    Args:
        opt: an option file: its sections `network_*`, and of `path` `resume_state` and `ignore_resume_networks`.
        experiment: the folder of the experiment.
        say: told of each state that is passed over.

    Raises:
        UserError: no state can be read; the states cannot be listed.
    """
    folder = Path(experiment)
    paths = opt.get('path') or {}
    candidates = _states(folder / 'training_states') if auto_resume else []
    named = paths.get('resume_state')
    if not candidates:
        if not named:
            return None
        path = Path(str(named)).expanduser()
        if not path.is_file():
            raise UserError(f'path: resume_state: {named} does not exist')
        try:
            return _read(path, opt, folder)
        except UserError as error:
            raise UserError(f'path: resume_state: {error}') from None
    for path in candidates:
        try:
            return _read(path, opt, folder)
        except UserError as error:
            say(f'{error}; trying the state before it')
    states = folder / 'training_states'
    raise UserError(f'--auto_resume: no state in {states} can be read; delete the folder to start from scratch')


def _states(folder: Path) -> list[Path]:
    """The states of an experiment, newest first; none where it has no folder yet.

    Raises:
        UserError: the folder cannot be listed, which must not be taken for a new experiment.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f'--auto_resume: {folder} cannot be listed ({error.strerror or error})') from error
    found = [path for path in paths if path.suffix == '.state' and not path.name.startswith('.')]
    return sorted(found, key=_iteration, reverse=True)


def _iteration(path: Path) -> float:
    try:
        return float(path.stem)
    except ValueError:
        return -1


def _read(path: Path, opt: Mapping[str, Any], experiment: Path) -> Start:
    """One training state with all of its parts, known to be whole together with the networks of its iteration."""
    state = read_pickle(path)
    if fault := _incomplete(state):
        raise UserError(f'{path} is not a training state: {fault}')
    fresh = (opt.get('path') or {}).get('ignore_resume_networks') or ()
    sections = [key for key in opt if isinstance(key, str) and key.startswith('network_') and key not in fresh]
    labels = [key.removeprefix('network_') for key in sections]
    recorded = state.get('networks')
    if isinstance(recorded, Mapping) and recorded:  # sections that the model does not read have no network
        labels = [label for label in labels if label in recorded]
    networks = _networks(path, labels, state['iter'], experiment / 'models')
    weights = {}
    for label, file in networks.items():
        if not file.is_file():
            raise UserError(f'{path} needs {file}, which is missing')
        try:
            weights[label] = read_checkpoint(file, 'params').state_dict
        except UserError:
            raise UserError(f'{path} needs {file}, which is broken') from None
        wanted = recorded.get(label) if isinstance(recorded, Mapping) else None
        if wanted and digest(weights[label]) != wanted:
            raise UserError(f'{path}: {file} is not the network that was saved with it, but of another run; {_BEGIN}')
    inside = not networks or _same(next(iter(networks.values())).parent, experiment / 'models')
    return Start(path, state, networks, weights, inside)


def _incomplete(state: Any) -> str:
    """What of a training state is not there, or not what it should be; '' where all is."""
    if not isinstance(state, dict):
        return f'it holds a {type(state).__name__}'
    for part in ('iter', 'epoch'):
        if type(state.get(part)) is not int or state[part] < 0:
            return f'{part} {"is not a number" if part in state else "is missing"}'
    wanted = {'optimizers': ('state', 'param_groups'), 'schedulers': _POSITION}
    for part, keys in wanted.items():
        if part not in state:
            return f'{part} are missing'
        whole = isinstance(state[part], (list, tuple)) and state[part]
        if not whole or not all(isinstance(saved, Mapping) and all(key in saved for key in keys) for saved in whole):
            return f'{part} are incomplete'
    for saved in state['optimizers']:
        groups = saved['param_groups']
        if not isinstance(saved['state'], Mapping) or not isinstance(groups, (list, tuple)):
            return 'optimizers are incomplete'
        if not all(isinstance(group, Mapping) and isinstance(group.get('params'), (list, tuple)) for group in groups):
            return 'optimizers are incomplete'
    kinds = state.get('kinds')
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != len(state['optimizers'])):
        return 'kinds are incomplete'
    points = state.get('points')
    if points is not None and not _are_points(points, state['optimizers']):
        return 'points are incomplete'
    ranks = state.get('ranks') or []
    if not isinstance(ranks, list) or not all(isinstance(rank, Mapping) and 'rng' in rank for rank in ranks):
        return 'ranks are incomplete'
    return ''


def _are_points(points: Any, optimizers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `points` has for each optimiser nothing, or one tensor for each of its parameters."""
    if not isinstance(points, list) or len(points) != len(optimizers):
        return False
    counts = [sum(len(group['params']) for group in saved['param_groups']) for saved in optimizers]
    return all(
        isinstance(point, list) and len(point) in (0, count) and all(isinstance(value, Tensor) for value in point)
        for point, count in zip(points, counts, strict=True)
    )


def _networks(path: Path, labels: Sequence[str], iteration: int, own: Path) -> dict[str, Path]:
    """Where the networks of a state lie, or should: never those of another experiment than the state's."""
    folder = path.absolute().parent
    models = folder.parent / 'models'
    candidates = [models if models.is_dir() else own, folder]
    if _same(models, own):  # as the options write it, for messages
        candidates[0] = own
    names = {label: f'net_{label}_{iteration}.pth' for label in labels}
    chosen = next((place for place in candidates if all((place / n).is_file() for n in names.values())), candidates[0])
    return {label: chosen / name for label, name in names.items()}


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


# what must fit


def misfit(start: Start, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer] | None = None) -> str:
    """Why a state is not one of what the options name; '' where it is.

    Args:
        start: of `find_start`.
        networks: built from the options, by label; their parameters may be without memory.
        optimizers: built from the options for them, by the name of their section and in the order of the state; None
            where nothing is known of them.

    Returns:
        One line that names the file.
    """
    for label, file in start.networks.items():
        if label in networks:
            fit = compare(networks[label].state_dict(), start.weights[label])
            if fit.left_out:
                return f'{file} is of another network: {fit.left_out}'
    return '' if optimizers is None else state_misfit(start.path, start.state, optimizers)


def state_misfit(path: object, state: Mapping[str, Any], optimizers: Mapping[str, Optimizer]) -> str:
    """Why the optimisers and schedulers of a state are not those of a run; '' where they are.

    Args:
        path: of the state, for the message.
        state: with all its parts.
        optimizers: by the name of their section, in the order of the state, before they have taken a step. Their
            parameters may be without memory.
    """
    other = f'{path} is of another network_* or optim_* than the options name'
    saved = state['optimizers']
    counts = {len(saved), len(state['schedulers'])}
    if counts != {len(optimizers)}:
        return (
            f'{other} ({len(saved)} optimisers and {len(state["schedulers"])} schedulers, the options have '
            f'{len(optimizers)}: {", ".join(optimizers)}); {_BEGIN}'
        )
    kinds = state.get('kinds') or [None] * len(saved)
    for (name, optimizer), entry, kind in zip(optimizers.items(), saved, kinds, strict=True):
        fault = _optimizer_misfit(optimizer, entry)
        # Optimisers of torch are told by what they keep: Adam may become AdamW.
        if kind not in (None, type(optimizer).__name__) and not _of_torch(optimizer):
            fault = f'{type(optimizer).__name__}, the state is of {kind}'
        if fault:
            return f'{other} (train: {name}: {fault}); {_BEGIN}'
    return ''


def _optimizer_misfit(optimizer: Optimizer, saved: Mapping[str, Any]) -> str:
    sizes = [len(group['params']) for group in optimizer.param_groups]
    theirs = [len(group['params']) for group in saved['param_groups']]
    if sizes != theirs:
        return f'groups of {theirs} parameters, not of {sizes}'
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    numbers = [number for group in saved['param_groups'] for number in group['params']]
    keeps = _kept_by(optimizer)
    for parameter, number in zip(parameters, numbers, strict=True):
        kept = {key: value for key, value in (saved['state'].get(number) or {}).items() if value is not None}
        if not kept:  # no step was taken yet, or the optimiser keeps nothing
            continue
        if missing := sorted(key for key in keeps if key not in kept):
            return f'{type(optimizer).__name__} keeps {", ".join(missing)}, the state has {", ".join(sorted(kept))}'
        for key in keeps & kept.keys():
            if isinstance(kept[key], Tensor) and kept[key].ndim and kept[key].shape != parameter.shape:
                return f'{key} of {tuple(kept[key].shape)} for a parameter of {tuple(parameter.shape)}'
    return ''


def _of_torch(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith('torch.optim')


def _kept_by(optimizer: Optimizer) -> set[str]:
    """What an optimiser of torch keeps of every parameter, a number or in the parameter's shape, as one step shows.

    Nothing of optimisers from elsewhere: what those keep may depend on the shape.
    """
    kind, group = type(optimizer), optimizer.param_groups[0]
    if not _of_torch(optimizer):
        return set()
    arguments = {key: group[key] for key in inspect.signature(kind).parameters if key in group and key != 'params'}
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros_like(parameter)
    alone = kind([parameter], **arguments)
    alone.step()
    kept = {key: value for key, value in alone.state[parameter].items() if isinstance(value, Tensor)}
    return {key for key, value in kept.items() if value.ndim == 0 or value.shape == parameter.shape}
