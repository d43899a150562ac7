"""Which scan a training runs on: the same for all ranks, and for the run that goes on as for the one that was stopped.

Backends round differently, so a run that changes its scan is another run from there on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from basicsr.utils import get_root_logger

from ..ops import Choice, choose, settle
from ..ranks.distributed import gather

Names = dict[str, str]
"""Backends by dtype, 'float32': 'triton'."""


def agree(device: torch.device, dtypes: list[torch.dtype], rank: int, repeatable: bool) -> Names:
    """Let rank 0 choose the scan of every dtype for all; the others wait for it.

    Args:
        repeatable: only a scan that gives the same bits in every run.

    Returns:
        What this rank uses now.
    """
    own: Names = {}
    if rank == 0:
        for dtype in dtypes:
            choice = choose(device, dtype)
            own[_name(dtype)] = _repeatable(choice) if repeatable else choice.backend.name
    wanted = gather(own)[0]
    return use(wanted, device, 'the choice of rank 0')


def use(wanted: Mapping[str, str], device: torch.device, why: str) -> Names:
    """Use these scans where they can be; a warning says where not.

    Returns:
        What is used now, for the dtypes of `wanted`.
    """
    used: Names = {}
    for kind, name in wanted.items():
        dtype = getattr(torch, kind)
        if choose(device, dtype).backend.name != name and (reason := settle(device, dtype, name, why)):
            get_root_logger().warning(
                f"The scan '{name}' in {kind} is {why}, but not to be had on {device} ({reason}): "
                f"'{choose(device, dtype).backend.name}' is used, which rounds differently."
            )
        used[kind] = choose(device, dtype).backend.name
    return used


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _repeatable(choice: Choice) -> str:
    """The name of the chosen backend, or of the first right one that gives the same bits in every run."""
    if choice.backend.repeatable:
        return choice.backend.name
    return next((v.name for v in choice.verdicts if v.right and v.repeatable), 'torch')
