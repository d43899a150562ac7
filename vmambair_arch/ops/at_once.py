"""Where an operator need not be one.

An operator of `torch.library` is what compilers, exports, tracers, transforms, modes and profilers want. Its way
through the dispatcher and the Python round it takes as long as a small scan itself, and a network has dozens of them.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)
_DEVICES = ('cpu', 'cuda')


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether these (or None) lie in memory as they read, as opposed to those of tracers, quantisers and transforms.

    The type alone does not say: a tensor may stand for a batch, for zeros, or for what it holds with the sign turned.
    """
    return all(
        type(t) in _PLAIN
        and t.device.type in _DEVICES
        and torch._C._dispatch_keys(t).raw_repr() in _ordinary_keys(t.device.type)
        for t in tensors
        if t is not None
    )


@cache
def _ordinary_keys(device: str) -> frozenset[int]:
    """Dispatch keys of what is neither batched nor negative nor functional, made in and outside of inference mode."""
    keys = set()
    for mode in (False, True):
        with torch.inference_mode(mode):
            keys.add(torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr())
    return frozenset(keys)


def is_watched() -> bool:
    """Whether derivatives are taken in forward mode, or torch.func is at work."""
    return forward_ad._current_level >= 0 or peek_interpreter_stack() is not None


def computes_at_once(*tensors: Tensor | None) -> bool:
    """Whether nothing but eager torch, with its `backward`, sees a call with these tensors in this thread."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()  # modes: fakes, graphs, counters of operations
        and not torch._C._len_torch_function_stack()
        and not torch.autograd._profiler_enabled()
        and not is_watched()
        and is_plain(*tensors)
    )


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked for of what is computed with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
