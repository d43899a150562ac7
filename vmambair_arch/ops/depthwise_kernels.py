"""Triton kernels of the depthwise 3x3 convolution with its activation; `triton_depthwise.py` launches them.

A program takes W columns x Q channels and walks down `rows` rows of an image. A row is read once, as three tiles: the
pixels themselves and those to their left and right, the latter from the cache. It is the bottom row of the output
above it, the middle of its own and the top of the next: two sums wait while the third is done. Every output is added
up in one order, wherever a program begins.

    forward     out = act(pre),  pre = bias + sum_ij w_ij x[row + i - 1, column + j - 1]
    1. slopes   g = dL/d(pre) = dL/d(out) act'(pre), with pre computed again
    2. the rest dx = the same convolution of g with the weights turned by half a circle, dw_ij = sum g x, dbias = sum g

act is silu, or the gate gelu(a) * b of the halves a, b of the channels, with the exact GELU. Sums are float32 whatever
is read. Outside an image everything is 0. Gradients of weights are partial sums, one for each program; torch adds them
up in a fixed order, so the results are the same bits in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)


@triton.jit
def _program(w, bands, c: tl.constexpr, W: tl.constexpr, Q: tl.constexpr):
    """Channels (Q,) and columns (W,) of this program, its band of rows and its image (int64)."""
    blocks: tl.constexpr = (c + Q - 1) // Q
    program = tl.program_id(0)
    strips = (w + W - 1) // W
    rest = program // blocks
    channel = (program % blocks) * Q + tl.arange(0, Q)
    column = (rest % strips) * W + tl.arange(0, W)
    rest = rest // strips
    return channel, column, rest % bands, (rest // bands).to(tl.int64)


@triton.jit
def _load(image, row, column, channel, h, w, ROW: tl.constexpr, c: tl.constexpr):
    """Pixels of one row of an image (h, w, ROW): (W, Q), zero outside."""
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    at = (row.to(tl.int64) * w + column) * ROW
    return tl.load(image + at[:, None] + channel[None], mask=inside[:, None] & (channel < c)[None], other=0.0).to(
        tl.float32
    )


@triton.jit
def _store(image, tile, row, live, column, channel, h, w, ROW: tl.constexpr, c: tl.constexpr):
    """The inverse of `_load`, where the row is `live`."""
    inside = live & (row >= 0) & (row < h) & (column < w)
    at = (row.to(tl.int64) * w + column) * ROW
    tl.store(image + at[:, None] + channel[None], tile, mask=inside[:, None] & (channel < c)[None])


@triton.jit
def _tap(weight, channel, i: tl.constexpr, j: tl.constexpr, c: tl.constexpr):
    """w_ij of all channels, as a row (1, Q)."""
    return tl.load(weight + channel * 9 + (3 * i + j), mask=channel < c, other=0.0).to(tl.float32)[None]


@triton.jit
def _row_of_taps(weight, channel, i: tl.constexpr, c: tl.constexpr, TURNED: tl.constexpr):
    if TURNED:
        left = _tap(weight, channel, 2 - i, 2, c)
        middle = _tap(weight, channel, 2 - i, 1, c)
        right = _tap(weight, channel, 2 - i, 0, c)
    else:
        left = _tap(weight, channel, i, 0, c)
        middle = _tap(weight, channel, i, 1, c)
        right = _tap(weight, channel, i, 2, c)
    return left, middle, right


@triton.jit
def _bias(bias, channel, c: tl.constexpr, W: tl.constexpr, Q: tl.constexpr, BIAS: tl.constexpr):
    """(W, Q), zero where there is none."""
    tile = tl.zeros((W, Q), tl.float32)
    if BIAS:
        tile += tl.load(bias + channel, mask=channel < c, other=0.0).to(tl.float32)[None]
    return tile


@triton.jit
def _sigmoid(y):
    return 1.0 / (1.0 + tl.exp(-y))


@triton.jit
def _normal(a):
    """The normal distribution's cumulative function."""
    return 0.5 * (1.0 + tl.erf(a * SQRT_HALF))


@triton.jit(do_not_specialize=['h', 'w', 'rows', 'bands'])
def activation_kernel(
    x, weight, bias, grad, out, h, w, rows, bands,
    c: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, SLOPES: tl.constexpr, W: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """out = act(convolution of x), (b, h, w, c), or with SLOPES from grad (b, h, w, c) the gradient of the convolution.

    x and the gradient of the convolution: (b, h, w, c), or (b, h, w, 2c) for the GATE; weight (c or 2c, 1, 3, 3).
    Grid: blocks of Q channels x strips of W columns x bands of `rows` rows x b.
    """
    channel, column, band, image = _program(w, bands, c, W, Q)
    ROW: tl.constexpr = 2 * c if GATE else c
    OUT: tl.constexpr = 2 * c if GATE and SLOPES else c
    x += image * h * w * ROW
    out += image * h * w * OUT
    grad += image * h * w * c
    first = band * rows

    top_l, top_m, top_r = _row_of_taps(weight, channel, 0, c, False)
    mid_l, mid_m, mid_r = _row_of_taps(weight, channel, 1, c, False)
    low_l, low_m, low_r = _row_of_taps(weight, channel, 2, c, False)
    start = _bias(bias, channel, c, W, Q, BIAS)
    above = start
    here = start
    if GATE:
        gtop_l, gtop_m, gtop_r = _row_of_taps(weight + 9 * c, channel, 0, c, False)
        gmid_l, gmid_m, gmid_r = _row_of_taps(weight + 9 * c, channel, 1, c, False)
        glow_l, glow_m, glow_r = _row_of_taps(weight + 9 * c, channel, 2, c, False)
        gstart = _bias(bias + c, channel, c, W, Q, BIAS)
        gabove = gstart
        ghere = gstart

    for step in range(rows + 2):
        row = first - 1 + step
        left = _load(x, row, column - 1, channel, h, w, ROW, c)
        middle = _load(x, row, column, channel, h, w, ROW, c)
        right = _load(x, row, column + 1, channel, h, w, ROW, c)
        y = above + low_l * left + low_m * middle + low_r * right
        above = here + mid_l * left + mid_m * middle + mid_r * right
        here = start + top_l * left + top_m * middle + top_r * right
        live = step >= 2
        if GATE:
            left = _load(x + c, row, column - 1, channel, h, w, ROW, c)
            middle = _load(x + c, row, column, channel, h, w, ROW, c)
            right = _load(x + c, row, column + 1, channel, h, w, ROW, c)
            gate = gabove + glow_l * left + glow_m * middle + glow_r * right
            gabove = ghere + gmid_l * left + gmid_m * middle + gmid_r * right
            ghere = gstart + gtop_l * left + gtop_m * middle + gtop_r * right
            share = _normal(y)
            if SLOPES:
                up = _load(grad, row - 1, column, channel, h, w, c, c)
                density = INVERSE_SQRT_2_PI * tl.exp(-0.5 * y * y)
                _store(out, up * gate * (share + y * density), row - 1, live, column, channel, h, w, OUT, c)
                _store(out + c, up * y * share, row - 1, live, column, channel, h, w, OUT, c)
            else:
                _store(out, y * share * gate, row - 1, live, column, channel, h, w, OUT, c)
        else:
            share = _sigmoid(y)
            if SLOPES:
                up = _load(grad, row - 1, column, channel, h, w, c, c)
                _store(out, up * share * (1.0 + y * (1.0 - share)), row - 1, live, column, channel, h, w, OUT, c)
            else:
                _store(out, y * share, row - 1, live, column, channel, h, w, OUT, c)


@triton.jit(do_not_specialize=['h', 'w', 'rows', 'bands'])
def convolution_gradients_kernel(
    x, slopes, weight, dx, sums, h, w, rows, bands, c: tl.constexpr, W: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """dx (b, h, w, c) and partial sums (bands * strips * b, 10, c) of dw_00 .. dw_22 and dbias.

    slopes: (b, h, w, c), the gradient of the convolution. Grid: as above.
    """
    channel, column, band, image = _program(w, bands, c, W, Q)
    x += image * h * w * c
    slopes += image * h * w * c
    dx += image * h * w * c
    first = band * rows

    top_l, top_m, top_r = _row_of_taps(weight, channel, 0, c, True)
    mid_l, mid_m, mid_r = _row_of_taps(weight, channel, 1, c, True)
    low_l, low_m, low_r = _row_of_taps(weight, channel, 2, c, True)
    zero = tl.zeros((W, Q), tl.float32)
    above = zero
    here = zero
    # x of the rows before, of and after that of the slopes; a row of another band is another program's.
    before = zero
    now = zero
    dw_00 = zero
    dw_01 = zero
    dw_02 = zero
    dw_10 = zero
    dw_11 = zero
    dw_12 = zero
    dw_20 = zero
    dw_21 = zero
    dw_22 = zero
    dbias = zero
    for step in range(rows + 2):
        row = first - 1 + step
        left = _load(slopes, row, column - 1, channel, h, w, c, c)
        middle = _load(slopes, row, column, channel, h, w, c, c)
        right = _load(slopes, row, column + 1, channel, h, w, c, c)
        after = _load(x, tl.where(step < rows, row + 1, h), column, channel, h, w, c, c)
        # dw_ij: x at row - 1 + i, beside the slope at column + 1 - j.
        dw_00 += before * right
        dw_01 += before * middle
        dw_02 += before * left
        dw_10 += now * right
        dw_11 += now * middle
        dw_12 += now * left
        dw_20 += after * right
        dw_21 += after * middle
        dw_22 += after * left
        dbias += tl.where((step >= 1) & (step <= rows), middle, 0.0)
        before = now
        now = after
        y = above + low_l * left + low_m * middle + low_r * right
        above = here + mid_l * left + mid_m * middle + mid_r * right
        here = top_l * left + top_m * middle + top_r * right
        _store(dx, y, row - 1, step >= 2, column, channel, h, w, c, c)

    blocks: tl.constexpr = (c + Q - 1) // Q
    sums += (tl.program_id(0) // blocks).to(tl.int64) * 10 * c + channel
    mask = channel < c
    tl.store(sums + 0 * c, tl.sum(dw_00, 0), mask=mask)
    tl.store(sums + 1 * c, tl.sum(dw_01, 0), mask=mask)
    tl.store(sums + 2 * c, tl.sum(dw_02, 0), mask=mask)
    tl.store(sums + 3 * c, tl.sum(dw_10, 0), mask=mask)
    tl.store(sums + 4 * c, tl.sum(dw_11, 0), mask=mask)
    tl.store(sums + 5 * c, tl.sum(dw_12, 0), mask=mask)
    tl.store(sums + 6 * c, tl.sum(dw_20, 0), mask=mask)
    tl.store(sums + 7 * c, tl.sum(dw_21, 0), mask=mask)
    tl.store(sums + 8 * c, tl.sum(dw_22, 0), mask=mask)
    tl.store(sums + 9 * c, tl.sum(dbias, 0), mask=mask)
