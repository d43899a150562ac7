"""What the ranks of a training tell each other; all of it is trivial where there is one process."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import torch.distributed as dist

T = TypeVar('T')


def in_a_group() -> bool:
    return dist.is_available() and dist.is_initialized()


@cache
def _group() -> dist.ProcessGroup | None:
    """The ranks by way of the CPU: what they tell each other must not fail for want of memory on a GPU."""
    if dist.get_backend() == 'gloo':
        return None
    group = dist.new_group(backend='gloo')
    return group if isinstance(group, dist.ProcessGroup) else None  # a rank outside has a number instead


def gather(value: T) -> list[T]:
    """The value of every rank, in the order of ranks, on every rank."""
    if not in_a_group():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_group())
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if in_a_group():
        dist.barrier(group=_group())
