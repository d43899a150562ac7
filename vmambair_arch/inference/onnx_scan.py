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

from .onnx_graph import Graph, Value

Floats = npt.NDArray[np.float32]

STEP_ELEMENTS = 1 << 17
"""Elements of the states that a step advances: a few such arrays fit a second-level cache."""
FEWEST_CHUNKS, MOST_CHUNKS = 32, 128


@dataclass(frozen=True)
class Weights:
    """What G sequences of d channels are scanned with.

    Attributes:
        project: (G, d + 2N, d); u to delta before its bias, B and C.
        bias: (G, d), of delta.
        A: (G, d, N), negative.
    """

    project: Floats
    bias: Floats
    A: Floats

    @classmethod
    def of(cls, x_proj: Floats, dt_weight: Floats, dt_bias: Floats, A_logs: Floats) -> Weights:
        """From the parameters of K directions: (K, R + 2N, d), (K, d, R), (K, d), (K * d, N).

        The two products on the way to delta are one here.
        """
        K, d, R = dt_weight.shape
        delta = dt_weight.astype(np.float64) @ x_proj[:, :R]
        A = -np.exp(A_logs.astype(np.float64)).reshape(K, d, -1)
        return cls(np.concatenate([delta, x_proj[:, R:]], 1).astype(np.float32), dt_bias, A.astype(np.float32))

    def at(self, directions: slice) -> Weights:
        return Weights(self.project[directions], self.bias[directions], self.A[directions])

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

    y = _chunked(g, u, weights.at(slice(0, G)), P, None, reverse=False)
    if K > G:
        back = u
        if K - G < G:
            back, y_back = (g.slice(v, g.ints(0), g.ints(K - G), axis=2) for v in (u, y))
            rest = g.slice(y, g.ints(K - G), g.ints(G), axis=2)
            y = g.op('Concat', _chunked(g, back, weights.at(slice(G, K)), P, y_back, reverse=True), rest, axis=2)
        else:
            y = _chunked(g, back, weights.at(slice(G, K)), P, y, reverse=True)

    y = g.reshape(g.transpose(y, 1, 2, 3, 4, 0), batch, G, d, -1)
    y = g.slice(y, g.ints(0), length, axis=3)
    total = g.op('Mul', x, g.weight(skip.sum(0).reshape(d, 1, 1)))
    for order, part in enumerate(g.parts(y, [1] * G, axis=1) if G > 1 else [y]):
        if order == 0:
            part = g.reshape(part, batch, d, h, w)
        else:
            part = g.transpose(g.reshape(part, batch, d, w, h), 0, 1, 3, 2)
        total = g.op('Add', total, part)
    return total


def chunks(states: int) -> int:
    """How many chunks are advanced side by side where one pixel has so many states."""
    P = MOST_CHUNKS
    while P > FEWEST_CHUNKS and P * states > STEP_ELEMENTS:
        P //= 2
    return P


def _chunked(g: Graph, u: Value, weights: Weights, P: int, y_before: Value | None, reverse: bool) -> Value:
    """Both passes over u (T, b, G, d, P). Returns y (T, b, G, d, P), added to `y_before`."""
    G, d, N = weights.A.shape
    batch = g.side(u, 1)
    # Written out for every chunk: the product with delta then runs over arrays of one shape.
    everywhere = (N, 1, G, d, P)
    pixels, states, shared = ('batch', G, d, P), (N, 'batch', G, d, P), (N, 'batch', G, 1, P)

    def add_up(body: Graph, before: list[Value], elements: list[Value]) -> tuple[list[Value], list[Value]]:
        (u_t,) = elements
        delta, B, C = _project(body, u_t, weights)
        state = _advance(body, before[0], _decays(body, weights, everywhere), delta, body.op('Mul', delta, u_t), B)
        return [state, body.op('Add', before[1], delta)], [delta, B, C]

    empty = g.op('Expand', g.constant(0.0), g.shape(N, batch, G, d, P))
    none = g.op('Expand', g.constant(0.0), g.shape(batch, G, d, P))
    (added, sum_delta), (delta, B, C) = g.scan(add_up, [(empty, states), (none, pixels)], [(u, pixels)], 3, reverse)

    def hand_on(body: Graph, before: list[Value], elements: list[Value]) -> tuple[list[Value], list[Value]]:
        decay_p, added_p = elements
        return [body.op('Add', body.op('Mul', decay_p, before[0]), added_p)], [before[0]]

    decay = g.op('Exp', g.op('Mul', sum_delta, _decays(g, weights, everywhere)))
    decay, added = (g.transpose(v, 4, 0, 1, 2, 3) for v in (decay, added))
    none = g.op('Expand', g.constant(0.0), g.shape(N, batch, G, d))
    _, (before,) = g.scan(hand_on, [(none, states[:4])], [(decay, states[:4]), (added, states[:4])], 1, reverse)

    def read(body: Graph, before: list[Value], elements: list[Value]) -> tuple[list[Value], list[Value]]:
        u_t, delta_t, B_t, C_t, *y_t = elements
        write = body.op('Mul', delta_t, u_t)
        state = _advance(body, before[0], _decays(body, weights, everywhere), delta_t, write, B_t)
        y = _read(body, state, C_t, N, (-1, G, d, P))
        return [state], [body.op('Add', y, y_t[0]) if y_t else y]

    sequences = [(u, pixels), (delta, pixels), (B, shared), (C, shared)] + ([(y_before, pixels)] if y_before else [])
    _, (y,) = g.scan(read, [(g.transpose(before, 1, 2, 3, 4, 0), states)], sequences, 1, reverse)
    return y


def _decays(g: Graph, weights: Weights, shape: tuple[int, ...]) -> Value:
    """A as (N, 1, G, d, P or 1); runtimes compute it once, when they load the graph."""
    A = g.constant(weights.A.transpose(2, 0, 1)[:, None, :, :, None])
    return g.op('Expand', A, g.ints(*shape)) if shape[-1] > 1 else A


def _project(g: Graph, u: Value, weights: Weights) -> tuple[Value, Value, Value]:
    """u (b, G, d, P) -> delta (b, G, d, P), B and C (N, b, G, 1, P)."""
    d, N = weights.d, weights.N
    delta, B, C = g.parts(g.op('MatMul', g.weight(weights.project), u), [d, N, N], axis=2)
    B, C = (g.unsqueeze(g.transpose(v, 2, 0, 1, 3), 3) for v in (B, C))
    return g.softplus(g.op('Add', delta, g.constant(weights.bias[..., None]))), B, C


def _advance(g: Graph, state: Value, A: Value, delta: Value, write: Value, B: Value) -> Value:
    decay = g.op('Exp', g.op('Mul', delta, A))
    return g.op('Add', g.op('Mul', decay, state), g.op('Mul', write, B))


def _read(g: Graph, state: Value, C: Value, N: int, shape: tuple[int, ...]) -> Value:
    """<C, state> over the first axis, as a product with ones: a third of the time of onnxruntime's ReduceSum.

    Args:
        shape: of the result.
    """
    products = g.reshape(g.op('Mul', state, C), N, -1)
    return g.reshape(g.op('MatMul', g.constant(np.ones((1, N))), products), *shape)


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
            delta, B, C = _project(body, u_t, one)
            A = _decays(body, one, (N, 1, 1, d, 1))
            state = _advance(body, before[0], A, delta, body.op('Mul', delta, u_t), B)
            return [state], [body.op('Add', y_t, _read(body, state, C, N, (1, 1, d, -1)))]

        empty = g.op('Expand', g.constant(0.0), g.shape(N, 1, 1, d, P))
        _, (y,) = g.scan(step, [(empty, (N, *pixels))], [(u, pixels), (y, pixels)], 1, reverse=k == 1)
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
    projected = g.op('MatMul', g.weight(weights.project), g.unsqueeze(u, 1))  # (b, K, d + 2N, length)
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
