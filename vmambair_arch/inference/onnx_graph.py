"""Write ONNX graphs by hand: nodes, constants and loops, with the differences between the opsets in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[np.generic]
Value = str
"""The name of a tensor in a graph."""
Shape = Sequence[int | str]
"""Sizes, or the names of sizes that are not known."""

OLDEST_OPSET, DEFAULT_OPSET, NEWEST_OPSET = 13, 17, 25
"""Opsets a graph can be written for. The default is read by onnxruntime 1.12, OpenVINO 2023 and TensorRT 8.6 on."""

ARTANH = (1.99999967, 0.66676003, 0.39589461, 0.3422605)
"""2 artanh(z) / z for z in 0..1/3 as a polynomial in z * z; weighted least squares level its relative error to 2e-7."""


class Elements(NamedTuple):
    """What a loop runs over.

    Attributes:
        values: the elements along the first axis.
        shape: of one element.
        reverse: from the last to the first.
    """

    values: Value
    shape: Shape
    reverse: bool = False


class Graph:
    """A graph under construction. Loops are graphs of their own, which share the names of their parent.

    A body uses nothing of the graph around it: OpenVINO does not look there. What it needs is among its own constants.

    Args:
        opset: of the default ONNX domain.
        half: keep constants of many elements as float16 in the file; they are cast to float32 when it is loaded.
        parent: the graph whose loop this is the body of.
        kernel: for a runtime that has loaded the C kernels.
    """

    HALF_FROM = 64
    """Elements from which on a constant is worth two bytes instead of four, and the node that casts it."""

    def __init__(
        self, opset: int = DEFAULT_OPSET, half: bool = False, parent: Graph | None = None, kernel: bool = False
    ) -> None:
        self.opset, self.half, self.parent, self.kernel = opset, half, parent, kernel
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._count = 0

    def name(self, kind: str) -> Value:
        """A name that no other tensor of the whole graph has."""
        if self.parent:
            return self.parent.name(kind)
        self._count += 1
        return f'{kind}_{self._count}'

    def op(self, kind: str, *inputs: Value, domain: str = '', **attributes: int | float | str | Sequence[int]) -> Value:
        """Add a node of one output, and return that output."""
        return self.split(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def split(
        self,
        kind: str,
        *inputs: Value,
        outputs: int,
        domain: str = '',
        **attributes: int | float | str | Sequence[int] | onnx.GraphProto,
    ) -> list[Value]:
        """Add a node of several outputs, and return them."""
        from onnx import helper

        names = [self.name(kind) for _ in range(outputs)]
        node = helper.make_node(kind, inputs, names, name=names[0], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return names

    def constant(self, array: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> Value:
        """A constant; equal ones are kept once."""
        data = np.ascontiguousarray(np.asarray(array, dtype))
        key = (data.dtype.str, data.shape, data.tobytes())
        if key not in self._known:
            self._known[key] = self._keep(data)
        return self._known[key]

    def weight(self, array: npt.ArrayLike) -> Value:
        """A constant that may be kept as float16."""
        data = np.asarray(array, np.float32)
        if not self.half or data.size < self.HALF_FROM:
            return self.constant(data)
        # Beyond the largest float16 there is only infinity, which would poison the whole image.
        largest = np.finfo(np.float16).max
        return self.op('Cast', self.constant(data.clip(-largest, largest), np.float16), to=1)

    def ints(self, *numbers: int) -> Value:
        """A constant int64 vector: a shape, axes, starts and ends."""
        return self.constant(numbers, np.int64)

    def _keep(self, data: Array) -> Value:
        from onnx import numpy_helper

        name = self.name('constant')
        self.initializers.append(numpy_helper.from_array(data, name))
        return name

    def side(self, x: Value, axis: int) -> Value:
        """The size of one axis, as an int64 vector of one element."""
        return self.op('Gather', self.op('Shape', x), self.ints(axis), axis=0)

    def shape(self, *parts: Value | int) -> Value:
        """A shape from numbers and vectors of one element."""
        return self.op('Concat', *(self.ints(p) if isinstance(p, int) else p for p in parts), axis=0)

    def reshape(self, x: Value, *parts: Value | int) -> Value:
        if all(isinstance(part, int) for part in parts):
            return self.op('Reshape', x, self.ints(*(part for part in parts if isinstance(part, int))))
        return self.op('Reshape', x, self.shape(*parts))

    def transpose(self, x: Value, *perm: int) -> Value:
        return self.op('Transpose', x, perm=perm)

    def unsqueeze(self, x: Value, *axes: int) -> Value:
        return self.op('Unsqueeze', x, self.ints(*axes))

    def parts(self, x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
        """Cut along an axis."""
        return self.split('Split', x, self.ints(*sizes), outputs=len(sizes), axis=axis)

    def slice(self, x: Value, start: Value, end: Value, axis: int) -> Value:
        return self.op('Slice', x, start, end, self.ints(axis))

    def mean(self, x: Value, *axes: int) -> Value:
        """Mean over axes, which are kept with size 1."""
        if self.opset < 18:
            return self.op('ReduceMean', x, axes=axes, keepdims=1)
        return self.op('ReduceMean', x, self.ints(*axes), keepdims=1)

    def silu(self, x: Value) -> Value:
        return self.op('Mul', x, self.op('Sigmoid', x))

    def gelu(self, x: Value) -> Value:
        """x * Phi(x), exact. From opset 20 on one node; before, runtimes know these five as one."""
        if self.opset >= 20:
            return self.op('Gelu', x)
        erf = self.op('Erf', self.op('Div', x, self.constant(2**0.5)))
        product = self.op('Mul', x, self.op('Add', erf, self.constant(1.0)))
        return self.op('Mul', product, self.constant(0.5))

    def softplus(self, x: Value) -> Value:
        """log(1 + exp(x)) to a relative error of 5e-7 everywhere.

        onnxruntime has the operator of this name as a loop over single numbers, 60 times as slow as its Exp, and its
        Log takes longer than all of this. With t = exp(-|x|) in 0..1 and z = t / (t + 2) in 0..1/3, log(1 + t) is
        2 artanh(z): z times a short polynomial in z * z, which keeps its accuracy where t is small and 1 + t is not.
        """
        t = self.op('Exp', self.op('Neg', self.op('Abs', x)))
        z = self.op('Div', t, self.op('Add', t, self.constant(2.0)))
        square = self.op('Mul', z, z)
        *others, last = ARTANH
        polynomial = self.op('Add', self.op('Mul', square, self.constant(last)), self.constant(others.pop()))
        while others:
            polynomial = self.op('Add', self.op('Mul', polynomial, square), self.constant(others.pop()))
        return self.op('Add', self.op('Relu', x), self.op('Mul', z, polynomial))

    def scan(
        self,
        step: Callable[[Graph, list[Value], list[Value]], tuple[list[Value], list[Value]]],
        states: Sequence[tuple[Value, Shape]],
        sequences: Sequence[Elements],
        outputs: Sequence[bool],
    ) -> tuple[list[Value], list[Value]]:
        """A loop over the first axis of sequences.

        Args:
            step: (body, states, elements) -> new states and what is read at this step.
            states: before the first step, with their shapes.
            sequences: all of one length.
            outputs: for each value that `step` reads, whether it is stacked from the last to the first.

        Returns:
            The states after the last step, and what was read, stacked along the first axis.
        """
        from onnx import TensorProto, helper

        body = Graph(self.opset, self.half, self)
        state_names = [self.name('state') for _ in states]
        elements = [self.name('element') for _ in sequences]
        shapes = [shape for _, shape in states] + [sequence.shape for sequence in sequences]
        # A body may not give out what it took in.
        new_states, read = step(body, state_names, elements)
        given = [body.op('Identity', v) if v in state_names + elements else v for v in [*new_states, *read]]
        graph = helper.make_graph(
            body.nodes,
            self.name('step'),
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in zip(state_names + elements, shapes, strict=True)
            ],
            [helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in given],
            body.initializers,
        )
        results = self.split(
            'Scan', *(v for v, _ in states), *(s.values for s in sequences), outputs=len(states) + len(outputs),
            body=graph, num_scan_inputs=len(sequences),
            scan_input_directions=[int(s.reverse) for s in sequences],
            scan_output_directions=[int(reverse) for reverse in outputs],
        )  # fmt: skip
        return results[: len(states)], results[len(states) :]
