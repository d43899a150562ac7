"""A kernel that was chosen for a user and fails at run time costs a warning, not the run: torch does the call again.

A backend that was named, by `VMAMBAIR_SCAN`, by `using` or as an argument, is left to fail, unless this process had
chosen it by itself as well. Memory that runs out is raised, for smaller tiles and batches are the remedy, and so is
what leaves the device of no use to the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from . import faults

T = TypeVar('T')
Use = tuple[str, str, torch.dtype]
"""Backend, device and dtype."""

logger = logging.getLogger('vmambair_arch')
_guarded: set[Use] = set()
_failed: dict[Use, str] = {}


def _use(name: str, device: torch.device, dtype: torch.dtype) -> Use:
    return name, str(device), dtype


def guard(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """From now on, let torch do what this backend fails at."""
    _guarded.add(_use(name, device, dtype))


def failure(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a guarded backend is not used any more in this process; None where it is."""
    return _failed.get(_use(name, device, dtype))


def forget(which: Callable[[str], bool] = lambda name: True) -> None:
    """Guard nothing of these names, and give what failed of them another chance."""
    _guarded.difference_update([use for use in _guarded if which(use[0])])
    for use in [use for use in _failed if which(use[0])]:
        del _failed[use]


def forgive(which: Callable[[str], bool], device: torch.device, dtype: torch.dtype) -> None:
    """Give what failed of these names on a device in a dtype another chance."""
    for use in [use for use in _failed if which(use[0]) and use[1:] == (str(device), dtype)]:
        del _failed[use]


def _is_captured(device: torch.device) -> bool:
    """Whether launches go into a CUDA graph now: what fails then is not said to fail elsewhere."""
    return device.type == 'cuda' and torch.cuda.is_current_stream_capturing()


class Subject(NamedTuple):
    """What kernels compute, as a user knows it.

    Attributes:
        name: in messages.
        variable: of the environment, where torch can be named for it.
        cost: what torch costs.
    """

    name: str
    variable: str
    cost: str


SCAN = Subject('selective scan', 'VMAMBAIR_SCAN', ', many times slower')
DEPTHWISE = Subject('depthwise convolutions', 'VMAMBAIR_DEPTHWISE', '')


def run(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    kernel: Callable[[], T],
    by_torch: Callable[[], T],
    subject: Subject = SCAN,
) -> T:
    """The result of a kernel, or where it is guarded and fails, now or at an earlier call, that of torch.

    Raises:
        RuntimeError: memory ran out, a CUDA graph is being captured, or the device was lost; any error of a kernel that
            is not guarded, and one that torch has as well, for then the input is at fault.
    """
    use = _use(name, device, dtype)
    if use not in _guarded:
        return kernel()
    if use in _failed:
        return by_torch()
    try:
        return kernel()
    except Exception as error:
        if faults.is_out_of_memory(error) or _is_captured(device):
            raise
        if faults.is_lost(error):
            raise RuntimeError(
                f"{error}\nThe kernel '{name}' ({subject.name}) may have done this to {device}: start again with "
                f'{subject.variable}=torch in the environment, and please report it'
            ) from error
        failed = error.with_traceback(None)  # which would keep the tensors of the attempt alive
    try:
        result = by_torch()
    except Exception as error:
        if faults.is_out_of_memory(error):
            raise
        raise failed from error
    _failed[use] = faults.one_line(failed)
    logger.warning(
        "%s on %s in %s: '%s' failed (%s); from here on 'torch' is used%s. Fix: %s",
        subject.name, device, str(dtype).removeprefix('torch.'), name, _failed[use], subject.cost,
        faults.fix(failed) or 'run `vmambair doctor`, and report what it says',
    )  # fmt: skip
    return result
