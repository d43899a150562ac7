"""The random number generators of a process: Python's, numpy's, torch's on the CPU and on its CUDA device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """Tensors and plain values only, so that a file of it loads with `weights_only=True`."""
    state = np.random.get_state()
    assert isinstance(state, tuple)  # a dict where legacy=False is asked for
    name, keys, position, has_gauss, gauss = state
    return {
        'python': random.getstate(),
        'numpy': (name, keys.tolist(), position, has_gauss, gauss),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue the draws from where `rng_state` was taken."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


@contextmanager
def unchanged_rng() -> Iterator[None]:
    """What is drawn inside leaves no trace: training goes on as if it had not happened."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
