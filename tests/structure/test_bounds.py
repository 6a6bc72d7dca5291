"""Bounds hold for whatever is fed, and say as much as they can."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.graph.program import Program
from repsimc.compiler.structure.bounds import bounds_of
from repsimc.compiler.structure.intervals import Bounds
from tests.nets.networks import Array, Net
from tests.programs import model_of_text, program_of

INF = np.inf


def bound(net: Net, *outputs: str, **inputs: Any) -> dict[str, Bounds]:
    program = program_of(net.model(outputs or ("y",), **inputs))
    found = bounds_of(program)
    return {name.removeprefix("a/"): bounds for name, bounds in found.items()}


def test_nothing_is_known_of_inputs_and_of_what_mixes_them() -> None:
    net = Net()
    net.conv("x", 3, 4, out="y")
    assert bound(net, x=("N", 3, 6, 6)) == {}


def test_activations_are_within_their_range() -> None:
    net = Net()
    for op in ("Relu", "Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Abs"):
        net.node(op, "x", out=op)
    net.node("Clip", "x", net.weight(np.float32(0)), net.weight(np.float32(6)), out="Clip")
    names = ("Relu", "Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Abs", "Clip")
    found = bound(net, *names, x=("N", 5))
    ends = {name: (float(found[name].low[0]), float(found[name].high[0])) for name in names}
    assert ends == {
        "Relu": (0, INF), "Sigmoid": (0, 1), "Tanh": (-1, 1), "Softmax": (0, 1),
        "HardSigmoid": (0, 1), "Abs": (0, INF), "Clip": (0, 6),
    }  # fmt: skip


def test_a_filter_tells_its_channels_apart() -> None:
    weight = np.zeros((4, 2, 3, 3))
    weight[0, 0] = 1.0
    weight[1, 1] = -1.0
    weight[2, 0], weight[2, 1] = 1.0, -1.0
    net = Net()
    bias = net.weight(np.array([1.0, -2.0, 0.0, 3.0]))
    net.node("Conv", net.node("Relu", "x"), net.weight(weight), bias, pads=[1] * 4, out="y")
    found = bound(net, x=("N", 2, 6, 6))["y"]
    assert found.axis == 1
    assert found.low.tolist() == [1, -INF, -INF, 3]
    assert found.high.tolist() == [INF, -2, INF, 3]
    assert found.constant().tolist() == [False, False, False, True]


def test_padding_lets_zero_in() -> None:
    net = Net()
    x = net.node("Sigmoid", "x")
    x = net.node("Add", x, net.weight(np.float32(1)))  # 1 to 2
    ones = net.weight(np.ones((1, 1, 1, 3)))
    net.node("Conv", x, ones, pads=[0, 1, 0, 1], out="y")
    net.node("Conv", x, ones, out="z")
    found = bound(net, "y", "z", x=("N", 1, 6, 6))
    assert (found["y"].low[0], found["y"].high[0]) == (0, 6)
    assert (found["z"].low[0], found["z"].high[0]) == (3, 6)


def test_a_bias_per_frame_tells_nothing() -> None:
    net = Net()
    zeros = net.weight(np.zeros((3, 4)))
    net.node("Gemm", "x", zeros, net.weight(np.arange(4.0).reshape(4, 1)), out="y")
    assert bound(net, x=(4, 3)) == {}


_OPS = ("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Abs", "Elu", "Softplus", "Conv",
        "GroupConv", "Add", "AddSelf", "Mul", "MulSelf", "Sub", "Div", "Bn", "MaxPool",
        "AveragePool", "Concat", "Transpose")  # fmt: skip


def grown(recipe: list[tuple[str, int]]) -> tuple[Program, list[str]]:
    """A network of these operators on x [N, 4, 5, 5], and its values."""
    net = Net(len(recipe))
    values = ["x"]
    for index, (op, back) in enumerate(recipe):
        x, other = values[-1], values[max(-len(values), -1 - back)]
        out = f"v{index}"
        vector = net.weight(net.normal(4, 1, 1) * (net.random.random((4, 1, 1)) > 0.3))
        if op == "PRelu":
            net.node(op, x, vector, out=out)
        elif op == "Clip":
            net.node(op, x, net.weight(np.float32(-0.5)), net.weight(np.float32(1)), out=out)
        elif op in ("Conv", "GroupConv"):
            group = 2 if op == "GroupConv" else 1
            weight = net.normal(4, 4 // group, 3, 3, scale=0.3)
            weight *= net.random.random(weight.shape) > 0.7
            pads = [1] * 4
            net.node(
                "Conv", x, net.weight(np.abs(weight) if back else weight),
                net.weight(net.normal(4)), group=group, pads=pads, out=out,
            )  # fmt: skip
        elif op in ("Add", "Mul", "Sub", "Div"):
            net.node(op, x, vector if op != "Div" else net.weight(np.float32(-2)), out=out)
        elif op in ("AddSelf", "MulSelf"):
            net.node(op.removesuffix("Self"), x, other, out=out)
        elif op == "Bn":
            parts = [net.normal(4) for _ in range(3)] + [net.random.uniform(0.5, 2, 4)]
            net.node("BatchNormalization", x, *map(net.weight, parts), out=out)
        elif op in ("MaxPool", "AveragePool"):
            more = {"count_include_pad": 1} if op == "AveragePool" else {}
            net.node(op, x, kernel_shape=[3, 3], pads=[1] * 4, out=out, **more)
        elif op == "Concat":
            half = net.node("Split", other, net.weight(np.array([2, 2])), axis=1)
            net._nodes[-1].output.append(f"{half}_rest")
            net.node("Concat", half, half, axis=1, out=out)
        elif op == "Transpose":
            net.node(op, x, perm=[0, 1, 3, 2], out=out)
        else:
            net.node(op, x, out=out)
        values.append(out)
    return program_of(net.model(values[1:], x=("N", 4, 5, 5))), values[1:]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_OPS), st.integers(0, 3)), min_size=1, max_size=7))
def test_whatever_is_fed_lies_within(recipe: list[tuple[str, int]]) -> None:
    program, values = grown(recipe)
    found = bounds_of(program)
    names = [f"a/{name}" for name in values]
    x = np.random.default_rng(0).standard_normal((8, 4, 5, 5)).astype(np.float32) * 3
    for name, array in zip(names, Executable(program, None, names)({"a/x": x}), strict=True):
        if name in found:
            assert_within(array, found[name])


def assert_within(array: Array, bounds: Bounds) -> None:
    wide = array if bounds.axis is None else np.moveaxis(array, bounds.axis, -1)
    slack = 1e-5 * max(1.0, float(np.abs(array).max()))
    assert (wide >= bounds.low - slack).all() and (wide <= bounds.high + slack).all()


def test_numbers_outside_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        assert_within(np.ones((1, 2)), Bounds(np.zeros(2), np.array([1.0, 0.9]), -1))


def test_integers_wrap_and_have_no_bounds() -> None:
    model = """<ir_version: 8, opset_import: ["" : 17]>
    g (int8[2] x, uint8[2] u) => (int8[2] y, uint8[2] z) <uint8 five = {5}>
    { a = Abs(x)  y = Relu(a)  z = Sub(u, five) }"""
    assert bounds_of(program_of(model)) == {}


def test_a_bound_beyond_the_type_is_none() -> None:
    model = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) <float lo = {0}, float hi = {1e30}>
    { c = Clip(x, lo, hi)  y = Mul(c, c) }"""
    found = bounds_of(program_of(model))
    assert found["a/c"].high == np.float32(1e30)
    assert (found["a/y"].low, found["a/y"].high) == (0, INF)


@pytest.mark.parametrize(
    ("nodes", "known"),
    [
        ("h = Relu(x)", True),
        ("h = Exp(x)", False),
        ("k = Sigmoid(x)  h = Exp(k)", True),
        ("h = Reciprocal(x)", False),
        ("k = Exp(x)  l = Neg(k)  h = Relu(l)", False),
        ("h = Add(x, inf)", False),
    ],
)
def test_zero_times_what_may_be_infinite_is_no_constant(nodes: str, known: bool) -> None:
    model = model_of_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) <float zero = {{0}}> {{ {nodes}  y = Mul(h, zero) }}"""
    )
    inf = np.full(2, -INF, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(inf, "inf"))
    found = bounds_of(program_of(model)).get("a/y")
    assert (found is not None and bool(found.constant().all())) == known
