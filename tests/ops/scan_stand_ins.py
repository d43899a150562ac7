"""Backends with a fault each, for the checks that are to find it: `BACKENDS` by name, what they stand for as functions.

A backend is a module with `unavailable` and `omni_scan`; these are made as they are imported, by the name in the dotted
path (`scan_stand_ins.hangs`), so that the process that tries them can import them too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from vmambair_arch.ops import ScanInputs, torch_scan

Scan = Callable[[ScanInputs, Sequence[int]], Tensor]


def good(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    return torch_scan.omni_scan(inputs, directions)


def slow(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    time.sleep(0.05)
    return good(inputs, directions)


def chatty(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    os.write(1, b'{"name": "what a library prints"}\n')
    return good(inputs, directions)


def raises(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    raise RuntimeError('Failed to find C compiler. Please specify via CC environment variable.')


def aborts(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    os.abort()


def exits(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    sys.stderr.write('RuntimeError: the runtime ended the process\n')
    os._exit(7)


def hangs(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    time.sleep(3600)
    return inputs.x


def lies(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    return good(inputs, directions) * 1.01


def lies_on_odd_shapes(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    y = good(inputs, directions)
    return y if inputs.x.shape[-1] % 4 == 0 else y + 0.01


def nan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    return good(inputs, directions) * float('nan')


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * 1.01


def wrong_gradient(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    return _WrongGradient.apply(good(inputs, directions))


def differs(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    return good(inputs, directions) * (1 + 4e-6 * torch.rand(()))


def out_of_memory(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB.')


def loses_the_device(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    raise RuntimeError('CUDA error: an illegal memory access was encountered')


def _module(scan: Scan) -> ModuleType:
    module = ModuleType(f'{__name__}.{scan.__name__}')
    module.omni_scan = scan
    module.unavailable = lambda device, dtype: None
    sys.modules[module.__name__] = module
    return module


__path__: list[str] = []
"""Makes this file a package of the stand-ins."""

for _scan in (
    good, slow, chatty, raises, aborts, exits, hangs, lies, lies_on_odd_shapes, nan, wrong_gradient, differs,
    out_of_memory, loses_the_device,
):  # fmt: skip
    _module(_scan)
