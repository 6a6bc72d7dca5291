"""Random small models for hypothesis: sibling networks that share a prefix, with odd nodes in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4
_UNARY = ("Relu", "Tanh", "Identity", "Neg", "Dropout")
_BINARY = ("Add", "Mul", "Sub")
_OTHER = ("Gemm", "MatMul", "Bn", "SameReshape", "ShapeReshape", "FoldedScale")

# One step of a network: the operator, two earlier values (counted back), and a weight seed.
Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(_UNARY + _BINARY + _OTHER),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=10,
)


@st.composite
def siblings(draw: st.DrawFn) -> list[onnx.ModelProto]:
    """Two or three models on inputs of one shape whose first steps are the same."""
    trunk = draw(steps)
    heads = draw(st.lists(steps, min_size=2, max_size=3))
    return [model([*trunk, *head], outputs=draw(st.integers(1, 3))) for head in heads]


def model(recipe: list[Step], outputs: int = 1) -> onnx.ModelProto:
    """The network of these steps on float [N, 4]; its last values are its outputs."""
    made = _Model()
    for step in recipe:
        made.add(*step)
    names = made.values[-outputs:]
    nodes = made.nodes
    if "x" in names:  # an output has a producer
        nodes.append(helper.make_node("Relu", ["x"], ["relu_of_x"], name="relu_of_x"))
        names = [name if name != "x" else "relu_of_x" for name in names]
    dims = ["N", WIDTH]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in names],
        made.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass
class _Model:
    values: list[str] = field(default_factory=lambda: ["x"])
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attributes))
        return name

    def add(self, op: str, first: int, second: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        a = self.values[-1 - first % len(self.values)]
        b = self.values[-1 - second % len(self.values)]

        def floats(*shape: int) -> str:
            return self.weight((random.standard_normal(shape) / 2).astype(np.float32))

        if op in _UNARY:
            made = self.node(op, [a])
        elif op in _BINARY:
            made = self.node("Tanh", [self.node(op, [a, b])])
        elif op == "MatMul":
            made = self.node(op, [a, floats(WIDTH, WIDTH)])
        elif op in {"Gemm", "Bn"}:
            made = self.node("Gemm", [a, floats(WIDTH, WIDTH), floats(WIDTH)], transB=seed % 2)
            if op == "Bn":
                variance = self.weight(random.uniform(0.5, 2, WIDTH).astype(np.float32))
                norm = [floats(WIDTH), floats(WIDTH), floats(WIDTH), variance]
                made = self.node("BatchNormalization", [made, *norm])
        elif op == "SameReshape":
            made = self.node("Reshape", [a, self.weight(np.array([-1, WIDTH]))])
        elif op == "ShapeReshape":
            made = self.node("Reshape", [a, self.node("Shape", [b])])
        else:
            scale = self.node("Exp", [self.node("Neg", [floats(WIDTH)])])
            made = self.node("Mul", [a, scale])
        self.values.append(made)
