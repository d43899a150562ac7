"""The omni selective scan as an ONNX graph that runs in whole arrays.

One Scan step a pixel is slow: a step is a handful of operators on a few hundred numbers. As in `ops.torch_scan`, the
sequence is cut into `P` chunks that are advanced side by side, so that a step works on P pixels: first from empty
states, to learn what a chunk adds; then the states at the borders are handed on, and a second pass reads y. The number
of chunks is fixed and their length follows the image, so what a step touches stays in the cache at any size.

A direction and its reverse read the same chunks, one loop from the front and one from the back: nothing is flipped.

Shapes, with the letters of `ops.reference`: G orders of the pixels (rows, columns), T steps. A step sees u
(b, G, d, P), states are (N, b, G, d, P): the long axis last, so that products with numbers per pixel, per channel or
per state run over long rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .onnx_graph import Elements, Graph, Value

Floats = npt.NDArray[np.float32]

STEP_ELEMENTS = 1 << 16
"""Elements of the states that a step advances: a few such arrays fit a second-level cache."""
DOMAIN = 'vmambair'
"""Of the operator OmniScan."""
WIDE = 64
"""Channels from which on the way from u to delta goes through dt."""
FEWEST_CHUNKS, MOST_CHUNKS = 32, 128


@dataclass(frozen=True)
class Weights:
    """What G sequences of d channels are scanned with.

    Attributes:
        dt: (G, R, d); u to dt.
        delta: (G, d, R); dt to delta before its bias.
        bias: (G, d), of delta.
        shared: (G, 2N, d); u to B and C.
        A: (G, d, N), negative.
    """

    dt: Floats
    delta: Floats
    bias: Floats
    shared: Floats
    A: Floats

    @classmethod
    def of(cls, x_proj: Floats, dt_weight: Floats, dt_bias: Floats, A_logs: Floats) -> Weights:
        """From the parameters of K directions: (K, R + 2N, d), (K, d, R), (K, d), (K * d, N)."""
        K, d, R = dt_weight.shape
        A = -np.exp(A_logs.astype(np.float64)).reshape(K, d, -1)
        return cls(x_proj[:, :R], dt_weight, dt_bias, x_proj[:, R:], A.astype(np.float32))

    def at(self, directions: slice) -> Weights:
        return Weights(*(array[directions] for array in self._arrays()))

    def filled(self, G: int) -> Weights:
        """With directions that read nothing, up to G."""
        more = G - len(self.A)
        return Weights(*(np.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1)) for array in self._arrays()))

    def _arrays(self) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        return self.dt, self.delta, self.bias, self.shared, self.A

    @property
    def from_u(self) -> Floats:
        """(G, d, d): u to delta before its bias, the two products in one."""
        product: Floats = (self.delta.astype(np.float64) @ self.dt).astype(np.float32)
        return product

    @property
    def d(self) -> int:
        return self.A.shape[1]

    @property
    def N(self) -> int:  # noqa: N802 the letter of the papers
        return self.A.shape[2]


def plane_scan(g: Graph, x: Value, weights: Weights, skip: Floats) -> Value:
    """Scan a map (b, d, h, w) in the K directions of `weights`, K = 1 to 4, and add what they read.

    Args:
        skip: (K, d), D.
    """
    K, d = skip.shape
    G = min(K, 2)
    batch, h, w = (g.side(x, axis) for axis in (0, 2, 3))
    length = g.op('Mul', h, w)
    P = chunks(weights.N * G * d)
    steps = g.op('Div', g.op('Add', length, g.ints(P - 1)), g.ints(P))

    by_order = [g.reshape(x, batch, 1, d, -1)]
    if G == 2:
        by_order.append(g.reshape(g.transpose(x, 0, 1, 3, 2), batch, 1, d, -1))
    u = g.op('Concat', *by_order, axis=1) if G == 2 else by_order[0]
    # A pad of zeros at the end writes nothing, and nothing is read there.
    pad = g.op('Sub', g.op('Mul', steps, g.ints(P)), length)
    u = g.op('Pad', u, g.shape(0, 0, 0, 0, 0, 0, 0, pad))
    u = g.transpose(g.reshape(u, batch, G, d, P, steps), 4, 0, 1, 2, 3)

    ways = [weights.at(slice(0, G))]
    if K > G:
        ways.append(weights.at(slice(G, K)).filled(G))
    y = g.reshape(g.transpose(_chunked(g, u, ways, P), 1, 2, 3, 4, 0), batch, G, d, -1)
    y = g.slice(y, g.ints(0), length, axis=3)
    total = g.op('Mul', x, g.weight(skip.sum(0).reshape(d, 1, 1)))
    for order, part in enumerate(g.parts(y, [1] * G, axis=1) if G > 1 else [y]):
        if order == 0:
            part = g.reshape(part, batch, d, h, w)
        else:
            part = g.transpose(g.reshape(part, batch, d, w, h), 0, 1, 3, 2)
        total = g.op('Add', total, part)
    return total


def kernel_scan(g: Graph, x: Value, x_proj: Floats, dt_weight: Floats, dt_bias: Floats, A: Floats, D: Floats) -> Value:
    """`plane_scan` by the C kernel, as the operator OmniScan of `ops/csrc/onnxruntime.c`.

    Args:
        x: (b, d, h, w). The others as in `ops.omni_scan`, and x_proj (K, R + 2N, d).
    """
    x = g.transpose(x, 0, 2, 3, 1)
    x_dbl = g.op('MatMul', x, g.weight(x_proj.reshape(-1, x_proj.shape[-1]).T))
    parameters = [g.weight(parameter) for parameter in (dt_weight, dt_bias, A, D)]
    return g.transpose(g.op('OmniScan', x, x_dbl, *parameters, domain=DOMAIN), 0, 3, 1, 2)


def chunks(states: int) -> int:
    """How many chunks are advanced side by side where one pixel has so many states."""
    P = MOST_CHUNKS
    while P > FEWEST_CHUNKS and P * states > STEP_ELEMENTS:
        P //= 2
    return P


def _chunked(g: Graph, u: Value, ways: list[Weights], P: int) -> Value:
    """Both passes over u (T, b, G, d, P), forward and, with two `ways`, backward. Returns y (T, b, G, d, P)."""
    G, d, N = ways[0].A.shape
    batch = g.side(u, 1)
    pixels, states, shared = ('batch', G, d, P), (N, 'batch', G, d, P), (N, 'batch', G, 1, P)
    # Written out for every chunk: the product with delta then runs over arrays of one shape.
    everywhere = (N, 1, G, d, P)

    def add_up(body: Graph, before: list[Value], elements: list[Value]) -> tuple[list[Value], list[Value]]:
        (u_t,) = elements
        deltas, Bs, Cs = _project(body, u_t, ways)
        after, writes = [], []
        for k, (delta, B) in enumerate(zip(deltas, Bs, strict=True)):
            added, sum_delta = before[2 * k : 2 * k + 2]
            A, write = _decays(body, ways[k], everywhere), body.op('Mul', delta, u_t)
            writes.append(write)
            if k == 0:
                added = _advance(body, added, A, delta, write, B)
            else:
                # Backward, a pixel comes before those that the loop has passed, and decays over all of them.
                decay = body.op('Exp', body.op('Mul', sum_delta, A))
                added = body.op('Add', added, body.op('Mul', decay, body.op('Mul', write, B)))
            after += [added, body.op('Add', sum_delta, delta)]
        return after, [*deltas, *writes, *Bs, *Cs]

    empty = g.op('Expand', g.constant(0.0), g.shape(N, batch, G, d, P))
    none = g.op('Expand', g.constant(0.0), g.shape(batch, G, d, P))
    n = len(ways)
    sums, per_pixel = g.scan(add_up, [(empty, states), (none, pixels)] * n, [Elements(u, pixels)], [False] * 4 * n)

    def hand_on(body: Graph, before: list[Value], elements: list[Value]) -> tuple[list[Value], list[Value]]:
        after = [
            body.op('Add', body.op('Mul', decay_p, state), added_p)
            for state, decay_p, added_p in zip(before, elements[::2], elements[1::2], strict=True)
        ]
        return after, before

    decays_and_sums = []
    for k, way in enumerate(ways):
        decay = g.op('Exp', g.op('Mul', sums[2 * k + 1], _decays(g, way, everywhere)))
        for values in (decay, sums[2 * k]):
            decays_and_sums.append(Elements(g.transpose(values, 4, 0, 1, 2, 3), states[:4], k == 1))
    none = g.op('Expand', g.constant(0.0), g.shape(N, batch, G, d))
    _, befores = g.scan(hand_on, [(none, states[:4])] * n, decays_and_sums, [False, True][:n])

    def read(body: Graph, before: list[Value], elements: list[Value]) -> tuple[list[Value], list[Value]]:
        after, ys = [], []
        for k, way in enumerate(ways):
            delta, write, B, C = elements[4 * k : 4 * k + 4]
            after.append(_advance(body, before[k], _decays(body, way, everywhere), delta, write, B))
            ys.append(_read(body, after[k], C, N))
        return after, ys

    elements = []
    for k in range(n):
        of_way = zip(per_pixel[k::n], (pixels, pixels, shared, shared), strict=True)
        elements += [Elements(values, shape, k == 1) for values, shape in of_way]
    starts = [(g.transpose(before, 1, 2, 3, 4, 0), states) for before in befores]
    _, ys = g.scan(read, starts, elements, [False, True][:n])
    return g.reshape(g.op('Add', *ys) if n == 2 else ys[0], -1, batch, G, d, P)


def _decays(g: Graph, weights: Weights, shape: tuple[int, ...]) -> Value:
    """A as (N, 1, G, d, P or 1); runtimes compute it once, when they load the graph."""
    A = g.constant(weights.A.transpose(2, 0, 1)[:, None, :, :, None])
    return g.op('Expand', A, g.ints(*shape)) if shape[-1] > 1 else A


def _project(g: Graph, u: Value, ways: list[Weights]) -> tuple[list[Value], list[Value], list[Value]]:
    """u (b, G, d, P) -> delta (b, G, d, P), B and C (N, b, G, 1, P) of each way, by one product for all.

    For many channels by two, with dt in between: fewer numbers, and fewer operations.
    """
    d, N, n = ways[0].d, ways[0].N, len(ways)
    wide = d >= WIDE
    first = [way.dt if wide else way.from_u for way in ways]
    shared = [way.shared[:, half] for half in (slice(0, N), slice(N, None)) for way in ways]
    weight = g.weight(np.concatenate([*first, *shared], 1))
    delta, B_and_C = g.parts(g.op('MatMul', weight, u), [n * first[0].shape[1], 2 * N * n], axis=2)
    if wide:
        R = ways[0].delta.shape[2]
        by_way = np.zeros((len(ways[0].delta), n * d, n * R), np.float32)
        for k, way in enumerate(ways):
            by_way[:, k * d : (k + 1) * d, k * R : (k + 1) * R] = way.delta
        delta = g.op('MatMul', g.weight(by_way), delta)
    bias = np.concatenate([way.bias for way in ways], 1)[..., None]
    delta = g.softplus(g.op('Add', delta, g.constant(bias)))
    Bs_and_Cs = g.parts(g.unsqueeze(g.transpose(B_and_C, 2, 0, 1, 3), 3), [N] * 2 * n, axis=0)
    return g.parts(delta, [d] * n, axis=2) if n > 1 else [delta], Bs_and_Cs[:n], Bs_and_Cs[n:]


def _advance(g: Graph, state: Value, A: Value, delta: Value, write: Value, B: Value) -> Value:
    decay = g.op('Exp', g.op('Mul', delta, A))
    return g.op('Add', g.op('Mul', decay, state), g.op('Mul', write, B))


def _read(g: Graph, state: Value, C: Value, N: int) -> Value:
    """<C, state> over the first axis as one row, by a product with ones: a third of the time of a ReduceSum."""
    products = g.reshape(g.op('Mul', state, C), N, -1)
    return g.op('MatMul', g.constant(np.ones((1, N))), products)


def sequence_scan(g: Graph, u: Value, weights: Weights, skip: Floats) -> Value:
    """Scan short sequences u (T, 1, 1, d, P), P of them side by side, forward and, with two directions, backward.

    Args:
        skip: (K, d), D.

    Returns:
        y, of the shape of u.
    """
    y = g.op('Mul', u, g.weight(skip.sum(0).reshape(-1, 1)))
    P = g.side(u, 4)
    d, N = weights.d, weights.N
    pixels = (1, 1, d, 'sequences')

    for k in range(len(skip)):
        one = weights.at(slice(k, k + 1))

        def step(
            body: Graph, before: list[Value], elements: list[Value], one: Weights = one
        ) -> tuple[list[Value], list[Value]]:
            u_t, y_t = elements
            (delta,), (B,), (C,) = _project(body, u_t, [one])
            A = _decays(body, one, (N, 1, 1, d, 1))
            state = _advance(body, before[0], A, delta, body.op('Mul', delta, u_t), B)
            return [state], [body.op('Add', y_t, body.reshape(_read(body, state, C, N), 1, 1, d, -1))]

        empty = g.op('Expand', g.constant(0.0), g.shape(N, 1, 1, d, P))
        sequences = [Elements(values, pixels, k == 1) for values in (u, y)]
        _, (y,) = g.scan(step, [(empty, (N, *pixels))], sequences, [k == 1])
    return y


def channel_scan(g: Graph, u: Value, weights: Weights, skip: Floats, length: int) -> Value:
    """Scan sequences u (b, d, length) in K directions in closed form, for lengths whose square is small.

        y_t = sum over s <= t, n of C_tn B_sn exp(A_n (delta_s+1 + ... + delta_t)) delta_s u_s

    All exponents are <= 0, so nothing overflows. The reverse direction has s >= t.

    Args:
        skip: (K, d), D.

    Returns:
        y, of the shape of u.
    """
    K, d, N = weights.A.shape
    weight = np.concatenate([weights.from_u, weights.shared], 1)
    projected = g.op('MatMul', g.weight(weight), g.unsqueeze(u, 1))  # (b, K, d + 2N, length)
    delta, B, C = g.parts(projected, [d, N, N], axis=2)
    delta = g.softplus(g.op('Add', delta, g.constant(weights.bias[..., None])))
    lower = np.tril(np.ones((length, length), np.float32))
    seen = np.stack([lower, lower.T][:K])  # (K, t, s): which s a t has seen
    sums = g.op('MatMul', delta, g.constant(seen.transpose(0, 2, 1)))  # (b, K, d, t): of all that t has seen
    between = g.op('Relu', g.op('Sub', g.unsqueeze(sums, 4), g.unsqueeze(sums, 3)))  # (b, K, d, t, s)
    decay = g.op('Exp', g.op('Mul', g.unsqueeze(between, 2), g.constant(weights.A.transpose(0, 2, 1)[..., None, None])))
    pairs = g.op('Mul', g.unsqueeze(C, 4), g.unsqueeze(B, 3))  # (b, K, N, t, s)
    kernel = g.op('ReduceSum', g.op('Mul', decay, g.unsqueeze(pairs, 3)), g.ints(2), keepdims=0)
    kernel = g.op('Mul', kernel, g.constant(seen[:, None]))
    write = g.unsqueeze(g.op('Mul', delta, g.unsqueeze(u, 1)), 4)
    y = g.op('ReduceSum', g.op('MatMul', kernel, write), g.ints(1, 4), keepdims=0)
    return g.op('Add', y, g.op('Mul', u, g.weight(skip.sum(0).reshape(-1, 1))))
