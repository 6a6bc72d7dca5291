from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from repsimc.compiler.graph.verifier import verify
from repsimc.passes.normalise import Normalise
from tests.passes.checking import floats, normalised, ops
from tests.programs import program_of

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def test_constants_are_computed() -> None:
    model = f"""{HEAD} net (float[N,4] x) => (float[N,4] y)
    <float[4] w = {{1, 2, 3, 4}}, float[4] v = {{5, 6, 7, 8}}>
    {{ s = Add(w, v) t = Exp(s) u = Sqrt(s) p = Mul(x, u) y = Div(p, t) }}"""
    program = normalised(model, {"x": floats(2, 4)})
    assert ops(program) == ["Mul", "Div"]
    assert list(program.weights()) == ["a/u", "a/t"]
    assert set(program.notes) == {node.name for node in program.graph.nodes}


def test_bytes_saved_are_the_difference() -> None:
    model = f"""{HEAD} net (float[N,4] x) => (float[N,4] y)
    <float[4] w = {{1, 2, 3, 4}}, float[4] v = {{5, 6, 7, 8}}>
    {{ s = Add(w, v) t = Exp(s) y = Div(x, t) }}"""
    changes = Normalise().run(program_of(model))
    assert sum(change.nbytes_saved for change in changes) == 16
    assert [change.node for change in changes] == ["a/Add_0", "a/Exp_1"]
    assert changes[0].what == "Add 'a/Add_0' depends on constants alone"


def test_static_shapes_are_constants() -> None:
    model = f"""{HEAD} net (float[2,3,4] x) => (float[6,4] y, int64[1] d, float z)
    <int64[1] last = {{-1}}, int64 two = {{2}}, int64[1] four = {{4}}>
    {{ s = Shape(x) r = Reshape(x, last) n = Size(x) p = Shape(r)
       c = Concat<axis = 0>(last, four) y = Reshape(x, c)
       e = Shape<start = 1, end = 2>(x) d0 = Neg(e) d = Mul(d0, p)
       m = Cast<to = 1>(n) q = Mul(x, m) z = ReduceSum<keepdims = 0>(q) }}"""
    program = normalised(model, {"x": floats(2, 3, 4)})
    assert "Shape" not in ops(program) and "Size" not in ops(program)
    assert program.weights()["a/m"].values == 24.0


def test_what_is_taken_from_partly_known_shapes() -> None:
    model = f"""{HEAD} net (float[N,3,4] x) => (float[N,12] y, int64[1] n, int64[1] c)
    <int64 zero = {{0}}, int64[2] rest = {{1, 2}}, int64[1] one = {{1}}, int64[1] two = {{2}},
     int64[1] front = {{0}}>
    {{ s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, front)
       k = Gather(s, rest) p = ReduceProd<keepdims = 1>(k)
       shape = Concat<axis = 0>(u, p) y = Reshape(x, shape)
       n = Neg(u) t = Slice(s, one, two) c = Neg(t) }}"""
    program = normalised(model, {"x": floats(2, 3, 4)})
    assert program.weights()["a/p"].values.tolist() == [12]
    assert ops(program).count("Shape") == 1 and "Slice" not in ops(program)


def test_large_results_are_left_to_the_runtime() -> None:
    model = f"""{HEAD} net (float[N,600] x) => (float[600,600] y, float[60,60] z)
    <int64[2] big = {{600, 600}}, int64[2] small = {{60, 60}}, int64[1] first = {{0}}>
    {{ w = ConstantOfShape(big) y = Add(w, w) v = ConstantOfShape(small) z = Neg(v) }}"""
    program = program_of(model)
    Normalise().run(program)
    assert "a/w" not in program.weights()
    assert "a/v" in program.weights()


def test_huge_results_are_never_made() -> None:
    model = f"""{HEAD} net (float[4] x) => (float[4] y)
    <int64[3] huge = {{1000000, 1000000, 1000}}, float one = {{1.0}}, int64[1] i = {{0}}>
    {{ n = Identity(huge) w = ConstantOfShape(n) e = Expand(one, n) b = ReduceSum<keepdims = 0>(w)
       c = ReduceSum<keepdims = 0>(e) d = Add(b, c) y = Add(x, d) }}"""
    program = program_of(model)
    Normalise().run(program)
    assert ops(program)[:2] == ["ConstantOfShape", "Expand"]


def test_ranges_are_computed_if_their_length_is_known() -> None:
    model = f"""{HEAD} net (float[5] x) => (float[5] y, float[P] z)
    <float zero = {{0}}, float five = {{5}}, float one = {{1}}, float tiny = {{0.0000001}}>
    {{ r = Range(zero, five, one) y = Add(x, r) e = Range(zero, five, tiny) z = Neg(e) }}"""
    program = program_of(model)
    Normalise().run(program)
    assert program.weights()["a/r"].values.tolist() == [0, 1, 2, 3, 4]
    assert "a/e" not in program.weights()


def test_large_weights_are_transposed_only_if_nobody_else_reads_them() -> None:
    weight = numpy_helper.from_array(floats(40, 40), "w")

    def model(*lines: str) -> onnx.ModelProto:
        proto = onnx.parser.parse_model(
            f"{HEAD} net (float[N,40] x) => (float[N,40] y) {{ {' '.join(lines)} }}"
        )
        proto.graph.initializer.append(weight)
        return proto

    small = Normalise(growth_nbytes=100)
    feeds = {"x": floats(2, 40)}
    alone = normalised(model("t = Transpose(w) y = MatMul(x, t)"), feeds, small)
    assert ops(alone) == ["MatMul"]
    shared = ("t = Transpose(w) p = MatMul(x, t) y = MatMul(p, w)",)
    assert ops(normalised(model(*shared), feeds, small)) == ["Transpose", "MatMul", "MatMul"]
    assert ops(normalised(model(*shared), feeds)) == ["MatMul", "MatMul"]


@pytest.mark.parametrize(
    ("lines", "stays"),
    [
        ("q = DequantizeLinear(i, scale) y = MatMul(x, q)", "DequantizeLinear"),
        ("q = QuantizeLinear(w, scale) d = DequantizeLinear(q, scale) y = MatMul(x, d)",
         "QuantizeLinear"),
        ("q = RandomNormal<shape = [4, 4], seed = 1.0>() y = Add(x, q)", "RandomNormal"),
        ("q = RandomUniformLike<seed = 1.0>(w) y = Add(x, q)", "RandomUniformLike"),
        ("q, m = Dropout(w, ratio, yes) y = MatMul(x, q)", "Dropout"),
        ("q = acme.Twist(w) y = Add(x, q)", "Twist"),
        ("q = If (yes) <then_branch = t () => (float[4,4] a) { a = Neg(w) },"
         " else_branch = e () => (float[4,4] b) { b = Abs(w) }> y = Add(x, q)", "If"),
        ("q = SequenceConstruct(w) n = SequenceAt(q, zero) y = MatMul(x, n)",
         "SequenceConstruct"),
    ],
)  # fmt: skip
def test_must_not_fold_what_is_opaque_random_or_quantised(lines: str, stays: str) -> None:
    model = f"""<ir_version: 8, opset_import: ["": 17, "acme": 1]>
    net (float[4,4] x) => (float[4,4] y)
    <float[4,4] w = {{1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}}, float scale = {{0.5}},
     int8[4,4] i = {{1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}}, float ratio = {{0.5}}, bool yes = {{1}},
     int64 zero = {{0}}>
    {{ {lines} }}"""
    program = program_of(model)
    Normalise().run(program)
    verify(program)
    assert stays in ops(program)


def test_model_outputs_keep_their_nodes() -> None:
    model = f"""{HEAD} net (float[N,4] x) => (float[4] y, int64[2] s, float[N,4] z)
    <float[4] w = {{1, 2, 3, 4}}> {{ h = Neg(w) y = Abs(h) s = Shape(x) z = Add(x, y) }}"""
    program = normalised(model, {"x": floats(2, 4)})
    assert ops(program) == ["Abs", "Shape", "Add"]
    assert all(isinstance(value, gs.Variable) for value in program.graph.outputs)


def test_one_node_that_fails_does_not_stop_the_others() -> None:
    # A Gather that reads past the end: only running it tells.
    model = f"""{HEAD} net (float[N,4] x, bool flag) => (float[N,4] y)
    <float[4] w = {{1, 2, 3, 4}}, int64[4] i = {{0, 9, 0, 0}}>
    {{ g = Gather(w, i) h = Neg(g) n = Neg(w) p = Add(x, h) y = Add(p, n) }}"""
    program = normalised(model)
    assert ops(program) == ["Gather", "Neg", "Add", "Add"]
    assert program.weights()["a/n"].values.tolist() == [-1, -2, -3, -4]
