"""Which kernels a training runs on: the same for all ranks, and for a run that goes on as for the one that stopped.

They round differently, so a run that changes its scan or its depthwise convolutions is another run from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from basicsr.utils import get_root_logger

from ..ops import Choice, choose, choose_depthwise, settle, settle_depthwise
from ..ops.depthwise import DEVICES
from ..ranks.distributed import gather

Names = dict[str, str]
"""Backends by dtype, 'float32': 'triton'."""


@dataclass(frozen=True)
class Subject:
    """Something that there are several ways to compute.

    Attributes:
        title: in messages.
        devices: kinds of device on which there is a choice; empty: all.
    """

    title: str
    choose: Callable[[torch.device, torch.dtype], Choice]
    settle: Callable[[torch.device, torch.dtype, str, str], str | None]
    devices: tuple[str, ...] = ()


SCANS = Subject('scan', choose, settle)
CONVOLUTIONS = Subject('depthwise convolution', choose_depthwise, settle_depthwise, DEVICES)


def agree(
    device: torch.device, dtypes: list[torch.dtype], rank: int, repeatable: bool, subject: Subject = SCANS
) -> Names:
    """Let rank 0 choose for every dtype for all; the others wait for it.

    Args:
        repeatable: only a scan that gives the same bits in every run.

    Returns:
        What this rank uses now; empty where the device leaves no choice.
    """
    own: Names = {}
    if rank == 0 and _has_choice(device, subject):
        for dtype in dtypes:
            choice = subject.choose(device, dtype)
            own[_name(dtype)] = _repeatable(choice) if repeatable and subject is SCANS else choice.backend.name
    wanted = gather(own)[0]
    return use(wanted, device, 'the choice of rank 0', subject)


def use(wanted: Mapping[str, str], device: torch.device, why: str, subject: Subject = SCANS) -> Names:
    """Use these where they can be; a warning says where not.

    Returns:
        What is used now, for the dtypes of `wanted`; empty where the device leaves no choice.
    """
    used: Names = {}
    for kind, name in wanted.items() if _has_choice(device, subject) else ():
        dtype = getattr(torch, kind)
        if subject.choose(device, dtype).backend.name != name and (reason := subject.settle(device, dtype, name, why)):
            get_root_logger().warning(
                f"The {subject.title} '{name}' in {kind} is {why}, but not to be had on {device} ({reason}): "
                f"'{subject.choose(device, dtype).backend.name}' is used, which rounds differently."
            )
        used[kind] = subject.choose(device, dtype).backend.name
    return used


def _has_choice(device: torch.device, subject: Subject) -> bool:
    return not subject.devices or device.type in subject.devices


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _repeatable(choice: Choice) -> str:
    """The name of the chosen backend, or of the first right one that gives the same bits in every run."""
    if choice.backend.repeatable:
        return choice.backend.name
    return next((v.name for v in choice.verdicts if v.right and v.repeatable), 'torch')
