"""The omni selective scan as a definition: slow, sequential, short enough to check by eye.

Glossary (the letters of the Mamba and VmambaIR papers, kept throughout this package):

    b       batch
    h, w    height and width of the feature map; L = h * w pixels
    d       channels
    N       size of the state of one channel
    R       rank of the dt projection
    K       number of directions the map is read in
    u       the sequence that is scanned (b, L, d)
    delta   step size, > 0 (b, L, d)
    A       decay of the state, < 0 (d, N)
    B, C    how a pixel writes to and reads from the state (b, L, N)
    D       skip (d)

and the names of the six tensors that a scan of a map is given (`ScanInputs`):

    x           the map (b, h, w, d); u is x in the order of a direction
    x_dbl       x projected by `x_proj`, one product for all directions: for each of them dt, B and C of every pixel,
                (b, h, w, K * (R + 2N)); the name is Mamba's
    dt          the R numbers of a pixel that its step sizes are made of
    dt_weight   raises dt to the d channels (K, d, R)
    dt_bias     is added there: delta = softplus(dt_weight dt + dt_bias) (K, d)
    A, D        as above, one for each direction: (K, d, N) and (K, d)

Every other backend is tested against this file in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ROW_MAJOR, COLUMN_MAJOR, ROW_MAJOR_REVERSED, COLUMN_MAJOR_REVERSED = range(4)
PLANE_DIRECTIONS = (ROW_MAJOR, COLUMN_MAJOR, ROW_MAJOR_REVERSED, COLUMN_MAJOR_REVERSED)
SEQUENCE_DIRECTIONS = (ROW_MAJOR, ROW_MAJOR_REVERSED)


class ScanInputs(NamedTuple):
    """The six tensors of a scan of maps, or their gradients; the letters are those of the glossary above.

    Attributes:
        x: (b, h, w, d), floating point.
        x_dbl: (b, h, w, K * (R + 2N)), for each direction dt, B and C of every pixel.
        dt_weight: (K, d, R).
        dt_bias: (K, d).
        A: (K, d, N), negative.
        D: (K, d).
    """

    x: Tensor
    x_dbl: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """What a backend is chosen by: that of x, but float16 where a map of float16 was widened for its range."""
        widened = self.x.dtype == torch.float32 and self.x_dbl.dtype == torch.float16
        return torch.float16 if widened else self.x.dtype


def scan_order(direction: int, h: int, w: int, device: torch.device | None = None) -> Tensor:
    """The order in which a direction reads an h x w map, as row-major pixel indices of shape (h * w,).

    Direction 0 reads row by row, 1 column by column from the top left, 2 and 3 are 0 and 1 backwards
    (VmambaIR, section 3.3).

    >>> scan_order(1, 2, 3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    order = torch.arange(h * w, device=device)
    if direction in (COLUMN_MAJOR, COLUMN_MAJOR_REVERSED):
        order = order.view(h, w).t().reshape(-1)
    return order.flip(0) if direction in (ROW_MAJOR_REVERSED, COLUMN_MAJOR_REVERSED) else order


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Mamba's selective scan S6 (arXiv 2312.00752, equations 2a, 2b and 4), one step after the other.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t
        y_t = <C_t, h_t> + D u_t

    Args:
        u, delta: (b, L, d). A: (d, N). B, C: (b, L, N). D: (d,).

    Returns:
        y of shape (b, L, d).
    """
    state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    ys = []
    for u_t, delta_t, B_t, C_t in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        decay = torch.exp(delta_t[..., None] * A)
        state = decay * state + (delta_t * u_t)[..., None] * B_t[:, None]
        ys.append((state * C_t[:, None]).sum(-1))
    return torch.stack(ys, 1) + D * u if ys else u


def omni_scan(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
    """Scan a map in several directions and add what they read; arguments as in `vmambair_arch.ops.omni_scan`."""
    x, x_dbl, dt_weight, dt_bias, A, D = inputs
    h, w = x.shape[1:3]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    u = x.to(dtype).flatten(1, 2)
    N, R = A.shape[-1], dt_weight.shape[-1]
    y = torch.zeros_like(u)
    for k, (direction, per_pixel) in enumerate(
        zip(directions, x_dbl.to(dtype).flatten(1, 2).chunk(len(directions), -1), strict=True)
    ):
        order = scan_order(direction, h, w, x.device)
        dt, B, C = per_pixel[:, order].split([R, N, N], -1)
        delta = F.softplus(dt @ dt_weight[k].to(dtype).t() + dt_bias[k].to(dtype))
        y_k = selective_scan(u[:, order], delta, A[k].to(dtype), B, C, D[k].to(dtype))
        y = y.index_add(1, order, y_k)
    return y.view(x.shape).to(x.dtype)
