"""Checkpoints that are whole or not there, and of which there is always a last good one."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.load import read_pickle
from ..errors import UserError
from ..files import SAVED_FILE, append_record, is_temporary, read_records, replacing
from .ema import FIRST


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """`torch.save` that replaces `path` once everything is on the disk: it survives a kill and a power cut.

    Raises:
        UserError: it cannot be written, as on a full disk; an older file of that name is as it was.
    """
    path = Path(path)
    with replacing(path) as temporary:
        try:
            with temporary.open('wb') as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # torch's writer hides the OSError that it met
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0]) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk too; not every system and file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def first_non_finite(content: Mapping[str, Any]) -> str | None:
    """The dotted name of the first tensor in nested dicts that holds a NaN or an infinity."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            inner = first_non_finite(value)
            if inner is not None:
                return f'{name}.{inner}'
        elif isinstance(value, Tensor) and not torch.isfinite(value).all():
            return name
    return None


def saved_iterations(states: str | Path) -> list[int]:
    """The iterations with a training state in the folder, oldest first."""
    return sorted(int(path.stem) for path in Path(states).glob('[!.]*.state') if path.stem.isdigit())


def prune(
    models: str | Path,
    states: str | Path,
    keep: int,
    written: Mapping[int, Collection[str]],
    spare: Collection[int] = (),
) -> None:
    """Remove what a run wrote and no longer needs: all but its newest `keep` states and their networks.

    A state goes before its networks, so that no state is ever without them. What a killed save left behind goes too;
    files that the run did not write stay, whatever their names.

    Args:
        models, states: the folders of networks (`net_<label>_<iteration>.pth`) and of states (`<iteration>.state`).
        keep: number of states to keep; 0 keeps all.
        written: the labels of the networks that the run wrote, by iteration.
        spare: iterations whose networks stay, as those with the best metrics.
    """
    models, states = Path(models), Path(states)
    for folder in (models, states):
        for leftover in folder.glob('.*.part.*'):
            if is_temporary(leftover):
                leftover.unlink(missing_ok=True)
    if not keep:
        return
    kept = [iteration for iteration in saved_iterations(states) if iteration in written][-keep:]
    for iteration in sorted(set(written) - set(kept)):
        (states / f'{iteration}.state').unlink(missing_ok=True)
        if iteration not in spare:
            for label in written[iteration]:
                (models / f'net_{label}_{iteration}.pth').unlink(missing_ok=True)


def last_checkpoint(states: str | Path) -> str:
    """A few words on what a run can go on from, for error messages."""
    iterations = saved_iterations(states)
    return f'the checkpoint of iteration {iterations[-1]} is intact' if iterations else 'there is no checkpoint yet'


def write_error(error: UserError, states: str | Path) -> UserError:
    """`error` of a failed save, with what is left and how to go on."""
    return UserError(f'{error}; {last_checkpoint(states)}: make room, then go on with --auto_resume', exit_code=1)


class CheckpointFolder:
    """The networks and states of one experiment: `models/net_<label>_<iteration>.pth`, `training_states/<it>.state`.

    What the run writes is noted in `saved.jsonl` beside the two folders, also for the process that goes on with it.

    Args:
        models, states: the two folders.
        keep_last: number of states to keep; 0 keeps all.
    """

    def __init__(self, models: str | Path, states: str | Path, keep_last: int = 0) -> None:
        self.models, self.states, self.keep_last = Path(models), Path(states), keep_last
        self._notes = self.models.parent / SAVED_FILE

    def write(
        self,
        name: int | str,
        networks: Mapping[str, Mapping[str, Any]],
        state: Mapping[str, Any] | None = None,
        spare: Collection[int] = (),
    ) -> None:
        """Networks first and the state last: where there is a state, its networks are whole. Then old ones go.

        Args:
            name: the iteration, or `latest`.
            networks: the content of each file by label.
            state: what goes into the training state; none is written where None.
            spare: iterations whose networks stay, as those with the best metrics.

        Raises:
            UserError: something cannot be written (exit code 1), or a weight is not finite (3); earlier checkpoints
                are as they were.
        """
        if bad := first_non_finite({f'net_{label}': content for label, content in networks.items()}):
            left = last_checkpoint(self.states)
            raise UserError(f'not saved: {bad} holds NaN or infinite values; {left}', exit_code=3)
        try:
            if isinstance(name, int):  # noted first: what a kill leaves half-done is known to be of this run
                append_record(self._notes, {'iter': name, 'networks': list(networks)})
            for label, content in networks.items():
                write_checkpoint(self.models / f'net_{label}_{name}.pth', content)
            if state is not None:
                write_checkpoint(self.states / f'{name}.state', state)
        except UserError as error:
            raise write_error(error, self.states) from error
        prune(self.models, self.states, self.keep_last, self.written(), spare)

    def written(self) -> dict[int, list[str]]:
        """The labels of the networks that this run has saved so far, by iteration."""
        records = read_records(self._notes) if self._notes.is_file() else []
        found = [(record.get('iter'), record.get('networks')) for record in records]
        return {
            iteration: [str(label) for label in labels]
            for iteration, labels in found
            if isinstance(iteration, int) and isinstance(labels, list)
        }


def network_content(net: nn.Module) -> dict[str, Any]:
    """What a file of a network holds: `params`, and what describes it.

    Args:
        net: without a wrapper of DistributedDataParallel.
    """
    content: dict[str, Any] = {'params': on_cpu(net.state_dict())}
    if config := getattr(net, 'config', None):
        content['vmambair'] = {'arch': net.arch, 'config': config}
    return content


def load_averages(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The averages of a checkpoint beyond the first, by key; none in a file that has none."""
    if Path(path).suffix == '.safetensors':
        return {}
    content = read_pickle(path)
    return {key: value for key, value in content.items() if key.startswith(f'{FIRST}_') and value}


def on_cpu(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
