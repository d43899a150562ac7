"""The omni selective scan in plain PyTorch: runs wherever torch runs, forward and backward, in bounded memory.

A sequential loop over L pixels is slow because every step is a handful of tiny kernels. Here the sequence is cut
twice. *Chunks* of some pixels are advanced together, so one step of the loop moves every chunk by one pixel:
first from an empty state to learn what a chunk adds, then, once the states at the chunk borders are known, again to
read y. *Segments* of many chunks follow one another and are recomputed in the backward pass, so that the memory of
the graph is that of one segment whatever the size of the image.

Sums of logarithms (the parallel form of Heinsen, arXiv 2311.06281) would need no loop, but exp(-sum) overflows for
larger steps: wrong results, so not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .reference import ScanInputs, scan_order

CHUNK_PIXELS = 32
SEGMENT_ELEMENTS = 1 << 22
"""State elements (b * K * pixels * d * N) of one segment on a CPU, and the most whose graph is kept for the backward
pass anywhere: 16 MiB in float32 for each of its tensors. What is larger is computed again."""
GPU_CHUNK_PIXELS = 128
GPU_SEGMENT_ELEMENTS = 1 << 27
"""Most of both on a GPU, where every operator costs a launch, whatever its size."""
GPU_SHARE = 640
"""Bytes of memory of a GPU for each state element of a segment: the six tensors of it take 4 % of the memory."""


def _cut(device: torch.device, L: int, elements: int) -> tuple[int, int]:
    """Pixels of a chunk and of a segment, a multiple of it.

    A segment takes two steps for every pixel of a chunk and one for every chunk, so on a GPU chunks are about as long
    as they are many.

    Args:
        L: pixels of a sequence.
        elements: state elements of one pixel.
    """
    chunk, most = CHUNK_PIXELS, SEGMENT_ELEMENTS
    if device.type != 'cpu':
        memory = torch.cuda.get_device_properties(device).total_memory if device.type == 'cuda' else 8 << 30
        most = max(most, min(GPU_SEGMENT_ELEMENTS, memory // GPU_SHARE))
        pixels = min(L, max(most // max(elements, 1), 1))
        chunk = min(GPU_CHUNK_PIXELS, max(chunk, 1 << ((pixels - 1).bit_length() // 2)))
    chunk = max(min(chunk, L), 1)
    return chunk, max(most // max(elements, 1) // chunk, 1) * chunk


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot be used for tensors of `dtype` on `device`; None where it can (always)."""
    return None


def _segment(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan one segment whose length is a multiple of `chunk`.

    u, delta: (b, K, L, d). A: (K, d, N). B, C: (b, K, L, N). state: (b, K, d, N), the state before the segment.
    Returns y (b, K, L, d) without the skip, and the state after the segment.
    """
    b, K, L, d = u.shape
    cut = (b, K, L // chunk, chunk)
    u, delta, B, C = (t.reshape(*cut, t.shape[-1]) for t in (u, delta, B, C))
    decays = torch.exp(delta[..., None] * A[:, None, None]).unbind(3)
    writes = ((delta * u)[..., None] * B[..., None, :]).unbind(3)
    # What each chunk adds when it starts from nothing.
    local = writes[0]
    for decay_t, write_t in zip(decays[1:], writes[1:], strict=True):
        local = torch.addcmul(write_t, decay_t, local)
    # Hand the state from chunk to chunk.
    decay = torch.exp(delta.sum(3)[..., None] * A[:, None])
    before = []
    for decay_c, local_c in zip(decay.unbind(2), local.unbind(2), strict=True):
        before.append(state)
        state = torch.addcmul(local_c, decay_c, state)
    # Every state, from the right one at every border, and y of all.
    inner = torch.stack(before, 2)
    states = []
    for decay_t, write_t in zip(decays, writes, strict=True):
        inner = torch.addcmul(write_t, decay_t, inner)
        states.append(inner)
    return (torch.stack(states, 3) @ C[..., None])[..., 0].reshape(b, K, L, d), state


def _is_transformed() -> bool:
    """Whether torch.func is at work, which has no checkpoints."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Selective scan of K stacked sequences without the skip; shapes as in `_segment`. Returns y (b, K, L, d)."""
    b, K, L, d = u.shape
    N = A.shape[-1]
    chunk, pixels = _cut(u.device, L, b * K * d * N)
    # delta = 0 and u = 0 leave the state as it is: a pad of zeros changes nothing that is kept.
    pad = max(-L % chunk, 1 - L)  # a map without pixels has one of these
    u, delta, B, C = (F.pad(t, (0, 0, 0, pad)) for t in (u, delta, B, C))
    state = u.new_zeros(b, K, d, N)
    # A network has dozens of scans, whose graphs would be kept side by side, however large a segment may be.
    recompute = torch.is_grad_enabled() and b * K * (L + pad) * d * N > SEGMENT_ELEMENTS and not _is_transformed()
    ys = []
    for parts in zip(*(t.split(pixels, 2) for t in (u, delta, B, C)), strict=True):
        u_s, delta_s, B_s, C_s = parts
        if recompute:
            y, state = checkpoint(_segment, u_s, delta_s, A, B_s, C_s, state, chunk, use_reentrant=False)
        else:
            y, state = _segment(u_s, delta_s, A, B_s, C_s, state, chunk)
        ys.append(y)
    return torch.cat(ys, 2)[:, :, :L]


def sequences(inputs: ScanInputs, directions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Unroll a map into the sequences its directions read: what an unfused scan wants.

    Returns u, delta (b, K, L, d), B, C (b, K, L, N) and the K orders.
    """
    x, x_dbl, dt_weight, dt_bias, A, _ = inputs
    h, w = x.shape[1:3]
    R, N = dt_weight.shape[-1], A.shape[-1]
    orders = [scan_order(k, h, w, x.device) for k in directions]
    u = x.flatten(1, 2)
    per_direction = x_dbl.flatten(1, 2).chunk(len(orders), -1)
    us = torch.stack([u[:, order] for order in orders], 1)
    dbl = torch.stack([part[:, order] for part, order in zip(per_direction, orders, strict=True)], 1)
    dt, B, C = dbl.split([R, N, N], -1)
    delta = F.softplus(dt @ dt_weight.transpose(1, 2) + dt_bias[:, None])
    return us, delta, B, C, orders


def merge(ys: Tensor, orders: Sequence[Tensor]) -> Tensor:
    """Put the pixels of K sequences (b, K, L, d) back in place and add the directions: (b, L, d)."""
    first, *others = [y.new_zeros(y.shape).index_copy(1, k, y) for y, k in zip(ys.unbind(1), orders, strict=True)]
    return sum(others, first)


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """A context in which nothing is cast on a kind of device. torch has none for 'meta', where nothing is cast."""
    return nullcontext() if kind == 'meta' else torch.autocast(kind, enabled=False)


def omni_scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    """Arguments as in `vmambair_arch.ops.omni_scan`."""
    x = inputs.x
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with without_autocast(x.device.type):
        full = ScanInputs(*(t.to(dtype) for t in inputs))
        u, delta, B, C, orders = sequences(full, directions)
        y = merge(scan(u, delta, full.A, B, C), orders).view(x.shape) + full.x * full.D.sum(0)
    return y.to(x.dtype)
