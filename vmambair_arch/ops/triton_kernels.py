"""Triton kernels of the fused omni selective scan; `triton_scan.py` launches them. Needs triton to be imported.

Algorithm
---------
A direction reads the L = h * w pixels of a map in an order of its own. *Positions* number the pixels along an axis
(row-major for codes 0 and 2, column-major for 1 and 3); codes 2 and 3 walk the positions downwards. Nothing is flipped
or copied: a direction is index arithmetic (`_pixels`). Positions are cut into *segments* of chunks * T pixels, which
programs work on side by side; a segment is walked in *chunks* of T pixels. With a_t = exp(delta_t A) the scan is

    h_t = a_t h_{t-1} + delta_t u_t B_t       y_t = <C_t, h_t> + D u_t       delta_t = softplus(W dt_t + bias)

and the forward pass three launches (the last one alone where the map is a single segment):

1. `local_states_kernel`: every segment from an empty state: what it adds to the state, and its sum of delta. The decay
   over a segment is exp(A sum(delta)): one exp, no product.
2. `carry_kernel`: from segment to segment, state = exp(A sum(delta)) state + added: the state before every segment.
3. `outputs_kernel`: every segment again, now from the right state; writes y.

Backward
--------
Write g_t = dL/dh_t and dy_t = dL/dy_t. h_t is read by y_t and by h_{t+1}, hence

    g_t = C_t dy_t + a_{t+1} g_{t+1}

a scan against the direction. Everything else is the chain rule at one pixel:

    dC_t     = sum_d dy_t h_t                   y_t = <C_t, h_t>, one B and C for all channels
    dB_t     = sum_d g_t delta_t u_t
    du_t     = delta_t sum_n g_t B_t + D dy_t
    dD       = sum_t dy_t u_t
    w_t      = g_t a_t h_{t-1}                  = dL/d(log a_t), and log a_t = delta_t A:
    dA       = sum_t w_t delta_t
    ddelta_t = sum_n w_t A + u_t sum_n g_t B_t
    dpre_t   = ddelta_t sigmoid(pre_t)          pre = W dt + bias, and sigmoid = softplus'
    ddt_t    = W^T dpre_t,   dW = sum_t dpre_t dt_t^T,   dbias = sum_t dpre_t

What a segment hands to the one before it (in scan order) is e = a_first g_first. Unrolled,

    e = sum_t (a_first ... a_t) C_t dy_t + (a_first ... a_last) e_received

where the running product grows in scan order. So one pass *with* the direction, started from the saved state before
the segment, gives both e and the true states on its way, for one exp a state:

4. `chunk_states_kernel`: the state at every chunk border, and e of every segment as if it received nothing.
5. `carry_kernel` against the direction: e_received of every segment.
6. `gradients_kernel`: chunks from the last to the first; the T states of a chunk are computed again from its border,
   then g runs back over them. Nothing is ever divided by a decay, so that no delta is too large. Where the states of a
   chunk are too many for registers, it is taken in PIECES of fewer pixels, the last first, and the states before a
   piece are walked to from the border once more.

Layout
------
A program is one warp. Its tile (T, P, n, Q) is T pixels x P * Q channels x N states. Triton's default layout deals the
last axes out to the lanes and leaves the rest in the registers of a thread. T is in registers: the recurrence unrolls
into multiply-adds of one thread (`_row` and `_put` name registers, nothing more), and T pixels are loaded at once,
which hides latency. Kernels that sum over n alone take Q = 32: a lane is a channel, no sum crosses lanes.
`gradients_kernel` also sums over channels, for dB and dC: 4 lanes of n x 8 lanes of channels keep both sums short. A
channel scan has few channels: Q shrinks to them, and the states take the lanes. States, sums and partial results are
float32 whatever the inputs are.

No atomics. Two directions along one axis are walked by one program, one after the other, and add into one buffer; each
axis has its own. Gradients of parameters are partial sums, one for every segment; those of x_dbl, one for every block
of channels. torch adds them up in a fixed order: the results are the same bits in every run.

Bytes moved, in units of S = 4 b L d (one float32 map), for K = 4, N = 16, R small, segments of 64 pixels (1 S of
states), chunks of 4 (16 S of borders), x_dbl about 1.6 S for each block of 32 channels, most of it from the cache:

    forward    x 4 + 4, states 1 + 2 + 1, y 6, merge 3                                                about 21 S
    backward   x and dy 8 + 8, states 1 + 1 + 2 + 1, borders 16 + 16, dx 6 + 3, dx_dbl 5 + 6, rest 2   about 75 S

Memory is linear in L: 1 S of states kept for the backward pass, 16 S of borders while it runs. What bounds the kernels
is exp, b L K d N of them in each of the passes 1, 3, 4 and 6, not bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# ---------------------------------------------------------------------------------------------------------------------
# helpers


@triton.jit
def _pick(chosen, tile):
    """The one row along axis 0 for which `chosen` (broadcast) holds.

    A sum of integers, for x + 0 is x to the compiler there, and all of this folds into naming a register. In floats
    x + 0 is not (x may be -0), and an addition for every row would be left.
    """
    bits = tile.to(tl.int32, bitcast=True)
    return tl.sum(tl.where(chosen, bits, 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def _row(tile, t, T: tl.constexpr):
    """Row t of a tile: (T, P, n, Q) -> (P, n, Q)."""
    return _pick(tl.arange(0, T)[:, None, None, None] == t, tile)


@triton.jit
def _put(tile, t, row, T: tl.constexpr):
    """The tile (T, P, n, Q) with its row t replaced by row (P, n, Q)."""
    return tl.where(tl.arange(0, T)[:, None, None, None] == t, row[None], tile)


@triton.jit
def _program(segments, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Which block of SIZE channels, which segment and which sequence (int64) this program works on.

    A grid of one axis: the others end at 65535, which a batch of channel scans exceeds.
    """
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    rest = program // blocks
    return program % blocks, rest % segments, (rest // segments).to(tl.int64)


@triton.jit
def _pixels(code, segment, chunk, h, w, chunks, T: tl.constexpr):
    """The T pixels that direction `code` reads in a chunk, in scan order.

    Returns their row-major indices (T,) int64, and (T,) whether they exist: the last segment may be cut short.
    """
    step = chunk * T + tl.arange(0, T)
    position = segment * chunks * T + tl.where(code >= 2, chunks * T - 1 - step, step)
    by_column = (code & 1) == 1
    pixel = tl.where(by_column, (position % h) * w + position // h, position)
    return pixel.to(tl.int64), position < h * w


@triton.jit
def _channels(block, P: tl.constexpr, Q: tl.constexpr):
    """Channel numbers (P, Q) of a block."""
    return block * P * Q + tl.arange(0, P)[:, None] * Q + tl.arange(0, Q)[None, :]


@triton.jit
def _load_table(table, channel, d: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """Rows of a table (d, COLUMNS) as a tile (P, PADDED, Q), zero outside."""
    column = tl.arange(0, PADDED)[None, :, None]
    c = channel[:, None, :]
    return tl.load(table + c * COLUMNS + column, mask=(c < d) & (column < COLUMNS), other=0.0).to(tl.float32)


@triton.jit
def _store_table(table, tile, channel, d: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """The inverse of `_load_table`."""
    column = tl.arange(0, PADDED)[None, :, None]
    c = channel[:, None, :]
    tl.store(table + c * COLUMNS + column, tile, mask=(c < d) & (column < COLUMNS))


@triton.jit
def _load_states(states, block, row, d: tl.constexpr, N: tl.constexpr,
                 P: tl.constexpr, PADDED: tl.constexpr, Q: tl.constexpr):  # fmt: skip
    """States (N, d) as a tile (P, PADDED, Q), zero outside.

    Done so that the compiler loads in the layout of the recurrence: one p at a time, and with `row`, the distance of
    two states, known at run time only (it is d). Else it makes 16-byte loads with four channels in a lane, and
    converts between that layout and the other at every pixel.
    """
    n = tl.arange(0, PADDED)[:, None]
    tile = tl.zeros((P, PADDED, Q), tl.float32)
    for p in tl.static_range(P):
        c = (block * P + p) * Q + tl.arange(0, Q)[None, :]
        part = tl.load(states + n * row + c, mask=(c < d) & (n < N), other=0.0)
        tile = tl.where(tl.arange(0, P)[:, None, None] == p, part[None], tile)
    return tile


@triton.jit
def _store_states(states, tile, block, row, d: tl.constexpr, N: tl.constexpr,
                  P: tl.constexpr, PADDED: tl.constexpr, Q: tl.constexpr):  # fmt: skip
    """The inverse of `_load_states`."""
    n = tl.arange(0, PADDED)[:, None]
    for p in tl.static_range(P):
        c = (block * P + p) * Q + tl.arange(0, Q)[None, :]
        part = _pick(tl.arange(0, P)[:, None, None] == p, tile)
        tl.store(states + n * row + c, part, mask=(c < d) & (n < N))


@triton.jit
def _load_vector(vector, channel, d: tl.constexpr):
    """(d,) -> (P, Q), zero outside."""
    return tl.load(vector + channel, mask=channel < d, other=0.0).to(tl.float32)


@triton.jit
def _load_columns(rows, live, FIRST: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """COLUMNS numbers from column FIRST on of T rows (pointers (T,)): (T, PADDED), zero outside."""
    column = tl.arange(0, PADDED)[None, :]
    return tl.load(rows[:, None] + FIRST + column, mask=live[:, None] & (column < COLUMNS), other=0.0).to(tl.float32)


@triton.jit
def _store_columns(rows, tile, live, FIRST: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """The inverse of `_load_columns`."""
    column = tl.arange(0, PADDED)[None, :]
    tl.store(rows[:, None] + FIRST + column, tile, mask=live[:, None] & (column < COLUMNS))


@triton.jit
def _load_pixels(image, pixel, live, channel, d: tl.constexpr):
    """T pixels of a map (L, d): (T, P, Q), zero outside."""
    mask = live[:, None, None] & (channel < d)[None]
    return tl.load(image + pixel[:, None, None] * d + channel[None], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _write_pixels(image, values, pixel, live, channel, d: tl.constexpr, add):
    """Write values (T, P, Q) to T pixels of a float32 map (L, d), or `add` them to what is there."""
    mask = live[:, None, None] & (channel < d)[None]
    pointers = image + pixel[:, None, None] * d + channel[None]
    earlier = tl.load(pointers, mask=mask & add, other=0.0)
    tl.store(pointers, earlier + values, mask=mask)


@triton.jit
def _step_size(dt, weight, bias, live):
    """delta = softplus(weight dt + bias) and its derivative, from dt (T, R), weight (P, R, Q), bias (P, Q): (T, P, Q).

    Pixels that do not exist get delta = 0, which leaves the state as it is, and derivative 0.
    log(1 + z) for z = exp(-|v|) in (0, 1] is 2 atanh(z / (2 + z)), a series that is exact to float32 for the smallest z
    too, where a hardware logarithm of 1 + z would lose all digits of a delta of 1e-6.
    """
    v = tl.sum(weight[None] * dt[:, None, :, None], 2) + bias[None]
    z = tl.exp(-tl.abs(v))
    r = z / (2.0 + z)
    q = r * r
    series = 1 / 11 + q * (1 / 13 + q * (1 / 15))
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * series))))
    softplus = tl.maximum(v, 0.0) + 2.0 * r * series
    sigmoid = tl.where(v >= 0, 1.0, z) / (1.0 + z)
    exists = live[:, None, None]
    return tl.where(exists, softplus, 0.0), tl.where(exists, sigmoid, 0.0)


@triton.jit
def _walk(state, x, rows, pixel, live, channel, decay, weight, bias, d: tl.constexpr, N: tl.constexpr,
          R: tl.constexpr, NP: tl.constexpr, RP: tl.constexpr, T: tl.constexpr):  # fmt: skip
    """The state (P, NP, Q) after T pixels, and their delta (T, P, Q); rows are pointers (T,) into x_dbl."""
    u = _load_pixels(x, pixel, live, channel, d)
    dt = _load_columns(rows, live, 0, R, RP)
    B = _load_columns(rows, live, R, N, NP)
    delta, _ = _step_size(dt, weight, bias, live)
    a = tl.exp2(delta[:, :, None, :] * decay[None])
    write = (delta * u)[:, :, None, :] * B[:, None, :, None]
    for t in tl.static_range(T):
        state = _row(a, t, T) * state + _row(write, t, T)
    return state, delta


# ---------------------------------------------------------------------------------------------------------------------
# kernels
#
# Arguments throughout: x, dy (b, h, w, d); x_dbl (b, h, w, K * (R + 2N)); dt_weight (K, d, R); dt_bias, D (K, d);
# A (K, d, N); segments, chunks of a segment and images are how many there are, row is d.
# CODES packs the K direction codes, two bits each.
# NP and RP are N and R rounded up to powers of two; padded states stay 0.


@triton.jit(do_not_specialize=['h', 'w', 'segments', 'chunks', 'row'])
def local_states_kernel(
    x, x_dbl, dt_weight, dt_bias, A, added, delta_sum, h, w, segments, chunks, row,
    CODES: tl.constexpr, K: tl.constexpr, d: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    NP: tl.constexpr, RP: tl.constexpr, T: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """What each segment adds to the state: writes added (b, K, segments, N, d) and delta_sum (b, K, segments, d).

    Grid: blocks of P * Q channels x segments x b * K.
    """
    block, segment, sequence = _program(segments, d, P * Q)
    channel = _channels(block, P, Q)
    image = sequence // K
    k = (sequence % K).to(tl.int32)
    code = (CODES >> (2 * k)) & 3

    decay = LOG2E * _load_table(A + k * d * N, channel, d, N, NP)
    weight = _load_table(dt_weight + k * d * R, channel, d, R, RP)
    bias = _load_vector(dt_bias + k * d, channel, d)
    x += image * h * w * d
    x_dbl += image * h * w * (K * (R + 2 * N)) + k * (R + 2 * N)

    state = tl.zeros((P, NP, Q), tl.float32)
    total = tl.zeros((P, Q), tl.float32)
    for chunk in range(chunks):
        pixel, live = _pixels(code, segment, chunk, h, w, chunks, T)
        rows = x_dbl + pixel * (K * (R + 2 * N))
        state, delta = _walk(state, x, rows, pixel, live, channel, decay, weight, bias, d, N, R, NP, RP, T)
        total += tl.sum(delta, 0)
    at = sequence * segments + segment
    _store_states(added + at * N * d, state, block, row, d, N, P, NP, Q)
    tl.store(delta_sum + at * d + channel, total, mask=channel < d)


@triton.jit(do_not_specialize=['segments'])
def carry_kernel(
    added, delta_sum, A, before, segments,
    CODES: tl.constexpr, AGAINST: tl.constexpr, K: tl.constexpr, d: tl.constexpr, N: tl.constexpr,
    GROUPS: tl.constexpr, T: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Hand a state from segment to segment: before_{s+1} = exp(A delta_sum_s) before_s + added_s.

    added, before: (b, K, segments, N, d); delta_sum: (b, K, segments, d). s counts in scan order, or AGAINST it.
    Segments are taken T at a time, GROUPS * T >= segments. Grid: blocks of Q of the N * d states x b * K.
    """
    block, _, sequence = _program(1, N * d, Q)
    k = (sequence % K).to(tl.int32)
    downwards = (((CODES >> (2 * k)) & 3) >= 2) != AGAINST
    lane = block * Q + tl.arange(0, Q)
    inside = lane < N * d
    c = lane % d
    decay = LOG2E * tl.load(A + (k * d + c) * N + lane // d, mask=inside, other=0.0).to(tl.float32)

    state = tl.zeros((1, 1, Q), tl.float32)
    for group in range(GROUPS):
        step = group * T + tl.arange(0, T)
        mask = (step < segments)[:, None] & inside[None]
        at = sequence * segments + tl.where(downwards, segments - 1 - step, step)
        tile = at[:, None] * (N * d) + lane[None]
        new = tl.load(added + tile, mask=mask, other=0.0)
        total = tl.load(delta_sum + at[:, None] * d + c[None], mask=mask, other=0.0)
        new = new[:, None, None, :]
        a = tl.exp2(total * decay[None])[:, None, None, :]
        states = tl.zeros((T, 1, 1, Q), tl.float32)
        for t in tl.static_range(T):
            states = _put(states, t, state, T)
            state = _row(a, t, T) * state + _row(new, t, T)
        tl.store(before + tile, tl.reshape(states, (T, Q)), mask=mask)


@triton.jit(do_not_specialize=['h', 'w', 'segments', 'chunks', 'images', 'row'])
def outputs_kernel(
    x, x_dbl, dt_weight, dt_bias, A, D, before, y, h, w, segments, chunks, images, row,
    CODES: tl.constexpr, AXES: tl.constexpr, EMPTY: tl.constexpr,
    K: tl.constexpr, d: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    NP: tl.constexpr, RP: tl.constexpr, T: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Writes y (AXES, b, h, w, d) float32: directions axis, axis + AXES, ... add into y[axis].

    before: (b, K, segments, N, d), the state before each segment; not read where all are EMPTY.
    Grid: blocks x segments x b * AXES.
    """
    block, segment, sequence = _program(segments, d, P * Q)
    channel = _channels(block, P, Q)
    image = sequence // AXES
    axis = (sequence % AXES).to(tl.int32)
    x += image * h * w * d
    y += (axis * images + image) * h * w * d
    x_dbl += image * h * w * (K * (R + 2 * N))

    for turn in range(K // AXES):
        k = axis + turn * AXES
        code = (CODES >> (2 * k)) & 3
        decay = LOG2E * _load_table(A + k * d * N, channel, d, N, NP)
        weight = _load_table(dt_weight + k * d * R, channel, d, R, RP)
        bias = _load_vector(dt_bias + k * d, channel, d)
        skip = _load_vector(D + k * d, channel, d)
        state = tl.zeros((P, NP, Q), tl.float32)
        if not EMPTY:
            state = _load_states(before + ((image * K + k) * segments + segment) * N * d, block, row, d, N, P, NP, Q)
        for chunk in range(chunks):
            pixel, live = _pixels(code, segment, chunk, h, w, chunks, T)
            rows = x_dbl + pixel * (K * (R + 2 * N)) + k * (R + 2 * N)
            u = _load_pixels(x, pixel, live, channel, d)
            dt = _load_columns(rows, live, 0, R, RP)
            B = _load_columns(rows, live, R, N, NP)
            C = _load_columns(rows, live, R + N, N, NP)
            delta, _ = _step_size(dt, weight, bias, live)
            a = tl.exp2(delta[:, :, None, :] * decay[None])
            write = (delta * u)[:, :, None, :] * B[:, None, :, None]
            states = tl.zeros((T, P, NP, Q), tl.float32)
            for t in tl.static_range(T):
                state = _row(a, t, T) * state + _row(write, t, T)
                states = _put(states, t, state, T)
            out = tl.sum(states * C[:, None, :, None], 2) + skip[None] * u
            _write_pixels(y, out, pixel, live, channel, d, turn > 0)
        # The next direction reads what other lanes of this program wrote.
        tl.debug_barrier()


@triton.jit(do_not_specialize=['h', 'w', 'segments', 'chunks', 'row'])
def chunk_states_kernel(
    x, x_dbl, dy, dt_weight, dt_bias, A, before, borders, handed, delta_sum, h, w, segments, chunks, row,
    CODES: tl.constexpr, K: tl.constexpr, d: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    NP: tl.constexpr, RP: tl.constexpr, T: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The state before each chunk, and what each segment hands back if it receives nothing.

    before: (b, K, segments, N, d). Writes borders (b, K, segments, chunks, N, d), handed (b, K, segments, N, d) and
    delta_sum (b, K, segments, d). Grid: blocks x segments x b * K.
    """
    block, segment, sequence = _program(segments, d, P * Q)
    channel = _channels(block, P, Q)
    image = sequence // K
    k = (sequence % K).to(tl.int32)
    code = (CODES >> (2 * k)) & 3
    at = sequence * segments + segment

    decay = LOG2E * _load_table(A + k * d * N, channel, d, N, NP)
    weight = _load_table(dt_weight + k * d * R, channel, d, R, RP)
    bias = _load_vector(dt_bias + k * d, channel, d)
    x += image * h * w * d
    dy += image * h * w * d
    x_dbl += image * h * w * (K * (R + 2 * N)) + k * (R + 2 * N)

    state = _load_states(before + at * N * d, block, row, d, N, P, NP, Q)
    product = tl.full((P, NP, Q), 1.0, tl.float32)
    back = tl.zeros((P, NP, Q), tl.float32)
    total = tl.zeros((P, Q), tl.float32)
    for chunk in range(chunks):
        _store_states(borders + (at * chunks + chunk) * N * d, state, block, row, d, N, P, NP, Q)
        pixel, live = _pixels(code, segment, chunk, h, w, chunks, T)
        rows = x_dbl + pixel * (K * (R + 2 * N))
        u = _load_pixels(x, pixel, live, channel, d)
        dout = _load_pixels(dy, pixel, live, channel, d)
        dt = _load_columns(rows, live, 0, R, RP)
        B = _load_columns(rows, live, R, N, NP)
        C = _load_columns(rows, live, R + N, N, NP)
        delta, _ = _step_size(dt, weight, bias, live)
        a = tl.exp2(delta[:, :, None, :] * decay[None])
        write = (delta * u)[:, :, None, :] * B[:, None, :, None]
        read = dout[:, :, None, :] * C[:, None, :, None]
        for t in tl.static_range(T):
            state = _row(a, t, T) * state + _row(write, t, T)
            product *= _row(a, t, T)
            back += product * _row(read, t, T)
        total += tl.sum(delta, 0)
    _store_states(handed + at * N * d, back, block, row, d, N, P, NP, Q)
    tl.store(delta_sum + at * d + channel, total, mask=channel < d)


@triton.jit(do_not_specialize=['h', 'w', 'segments', 'chunks', 'images', 'row'])
def gradients_kernel(
    x, x_dbl, dy, dt_weight, dt_bias, A, D, borders, received,
    dx, dx_dbl, ddt_weight, ddt_bias, dA, dD, h, w, segments, chunks, images, row,
    CODES: tl.constexpr, AXES: tl.constexpr, K: tl.constexpr, d: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    NP: tl.constexpr, RP: tl.constexpr, T: tl.constexpr, PIECES: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """All gradients, as partial sums, all float32.

    borders: (b, K, segments, chunks, N, d), the state before each chunk. received: (b, K, segments, N, d), the e that a
    segment receives. Writes dx (AXES, b, h, w, d), dx_dbl (blocks, b, h, w, K * (R + 2N)), and for every segment
    ddt_weight (b, segments, K, d, R), dA (b, segments, K, d, N), ddt_bias and dD (b, segments, K, d).
    A chunk is PIECES of T pixels here. Grid: blocks x segments x b * AXES.
    """
    block, segment, sequence = _program(segments, d, P * Q)
    channel = _channels(block, P, Q)
    image = sequence // AXES
    axis = (sequence % AXES).to(tl.int32)
    x += image * h * w * d
    dy += image * h * w * d
    dx += (axis * images + image) * h * w * d
    x_dbl += image * h * w * (K * (R + 2 * N))
    dx_dbl += (block * images + image) * h * w * (K * (R + 2 * N))

    for turn in range(K // AXES):
        k = axis + turn * AXES
        code = (CODES >> (2 * k)) & 3
        decay = LOG2E * _load_table(A + k * d * N, channel, d, N, NP)
        weight = _load_table(dt_weight + k * d * R, channel, d, R, RP)
        bias = _load_vector(dt_bias + k * d, channel, d)
        skip = _load_vector(D + k * d, channel, d)
        at = (image * K + k) * segments + segment
        e = _load_states(received + at * N * d, block, row, d, N, P, NP, Q)
        sum_A = tl.zeros((P, NP, Q), tl.float32)
        sum_weight = tl.zeros((P, RP, Q), tl.float32)
        sum_bias = tl.zeros((P, Q), tl.float32)
        sum_D = tl.zeros((P, Q), tl.float32)
        for turned in range(chunks * PIECES):
            piece = chunks * PIECES - 1 - turned
            chunk = piece // PIECES
            state = _load_states(borders + (at * chunks + chunk) * N * d, block, row, d, N, P, NP, Q)
            for earlier in range(chunk * PIECES, piece):
                pixel, live = _pixels(code, segment, earlier, h, w, chunks * PIECES, T)
                rows = x_dbl + pixel * (K * (R + 2 * N)) + k * (R + 2 * N)
                state, _ = _walk(state, x, rows, pixel, live, channel, decay, weight, bias, d, N, R, NP, RP, T)
            pixel, live = _pixels(code, segment, piece, h, w, chunks * PIECES, T)
            at_row = pixel * (K * (R + 2 * N)) + k * (R + 2 * N)
            u = _load_pixels(x, pixel, live, channel, d)
            dout = _load_pixels(dy, pixel, live, channel, d)
            dt = _load_columns(x_dbl + at_row, live, 0, R, RP)
            B = _load_columns(x_dbl + at_row, live, R, N, NP)
            C = _load_columns(x_dbl + at_row, live, R + N, N, NP)
            delta, sigmoid = _step_size(dt, weight, bias, live)
            a = tl.exp2(delta[:, :, None, :] * decay[None])
            write = (delta * u)[:, :, None, :] * B[:, None, :, None]

            # The states of the piece: kept is a_t h_{t-1}, and h_t is that plus what pixel t writes.
            kept = tl.zeros((T, P, NP, Q), tl.float32)
            for t in tl.static_range(T):
                state = _row(a, t, T) * state
                kept = _put(kept, t, state, T)
                state += _row(write, t, T)
            dC = tl.sum(tl.sum(dout[:, :, None, :] * (kept + write), 1), 2)

            # g_t = C_t dy_t + e, and e = a_t g_t goes on to the pixel before.
            g = tl.zeros((T, P, NP, Q), tl.float32)
            read = dout[:, :, None, :] * C[:, None, :, None]
            for turned_t in tl.static_range(T):
                g_t = e + _row(read, T - 1 - turned_t, T)
                g = _put(g, T - 1 - turned_t, g_t, T)
                e = _row(a, T - 1 - turned_t, T) * g_t
            dB = tl.sum(tl.sum((delta * u)[:, :, None, :] * g, 1), 2)

            to_input = tl.sum(g * B[:, None, :, None], 2)
            to_decay = g * kept
            sum_A += tl.sum(delta[:, :, None, :] * to_decay, 0)
            to_delta = LN2 * tl.sum(decay[None] * to_decay, 2) + u * to_input
            to_pre = to_delta * sigmoid
            sum_weight += tl.sum(to_pre[:, :, None, :] * dt[:, None, :, None], 0)
            sum_bias += tl.sum(to_pre, 0)
            sum_D += tl.sum(dout * u, 0)
            ddt = tl.sum(tl.sum(to_pre[:, :, None, :] * weight[None], 1), 2)

            _store_columns(dx_dbl + at_row, ddt, live, 0, R, RP)
            _store_columns(dx_dbl + at_row, dB, live, R, N, NP)
            _store_columns(dx_dbl + at_row, dC, live, R + N, N, NP)
            _write_pixels(dx, delta * to_input + skip[None] * dout, pixel, live, channel, d, turn > 0)
        at = (image * segments + segment) * K + k
        # The same channels, to a compiler that does not know it and keeps no addresses from above in registers.
        channel = _channels(block + row - d, P, Q)
        _store_table(dA + at * d * N, sum_A, channel, d, N, NP)
        _store_table(ddt_weight + at * d * R, sum_weight, channel, d, R, RP)
        tl.store(ddt_bias + at * d + channel, sum_bias, mask=channel < d)
        tl.store(dD + at * d + channel, sum_D, mask=channel < d)
        # The next direction reads the dx that other lanes of this program wrote.
        tl.debug_barrier()
