from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from repsimc.compiler.bundle.lowering import is_quantised, narrow_integers, to_half
from repsimc.compiler.graph.dequantising import dequantising, stored_weights
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.verifier import verify
from tests.nets.few_bits import per_channel, put
from tests.programs import assert_close, program_of, run

NET = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, 4, 4] x) => (float[N, 2] y, float[N, 2, 4, 4] seen)
<float[2, 1, 3, 3] w = {0.1,0.2,3.3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1}, float[2] b = {1, 2}>
{
  t = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  seen = Relu (t)
  m = ReduceMean <axes = [2, 3], keepdims = 0> (seen)
  y = Softmax (m)
}
"""
X = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)


def types(program: Program) -> dict[str, object]:
    """The type of every node's first output, by the node's operator."""
    return {node.op: node.outputs[0].dtype for node in program.graph.nodes if node.op != "Cast"}


def test_convolutions_become_half_and_sensitive_operators_stay() -> None:
    program = program_of(NET)
    lowered = to_half(program)
    verify(lowered)
    assert types(lowered) == {
        "Conv": np.float16,
        "Relu": np.float16,
        "ReduceMean": np.float32,
        "Softmax": np.float32,
    }
    assert types(program)["Conv"] == np.float32
    onnx.checker.check_model(to_proto(lowered), full_check=True)


def test_inputs_outputs_and_their_names_stay_as_they_are() -> None:
    program = program_of(NET)
    one, other = to_proto(program).graph, to_proto(to_half(program)).graph
    assert list(one.input) == list(other.input)
    assert [(o.name, o.type.tensor_type.elem_type) for o in other.output] == [
        ("a/y", TensorProto.FLOAT),
        ("a/seen", TensorProto.FLOAT),
    ]


def test_the_lowered_program_computes_almost_the_same_and_not_exactly() -> None:
    program = program_of(NET)
    one, other = run(program, {"a/x": X}), run(to_half(program), {"a/x": X})
    for name, array in one.items():
        assert_close(other[name], array, rtol=2e-2, atol=1e-2)
    assert not np.array_equal(one["a/seen"], other["a/seen"])  # else nothing was lowered


def test_the_program_itself_is_left_alone() -> None:
    program = program_of(NET)
    before = to_proto(program).SerializeToString(deterministic=True)
    to_half(program)
    assert to_proto(program).SerializeToString(deterministic=True) == before


def test_weights_beyond_the_range_of_half_stay_whole() -> None:
    lowered = to_half(program_of(NET.replace("{0.1,", "{70000,")))
    assert set(types(lowered).values()) == {np.dtype(np.float32)}
    assert not [node for node in lowered.graph.nodes if node.op == "Cast"]


def test_weights_of_few_bits_stay_so_and_are_rounded_once() -> None:
    program = program_of(NET)
    weight = put(program, "a/w", per_channel(8, 0))
    lowered = to_half(program)
    verify(lowered)
    assert stored_weights(lowered.graph.nodes)[0].nbytes == weight.nbytes
    assert types(lowered)["Conv"] == np.float16
    written = dequantising(lowered)
    verify(written)
    onnx.checker.check_model(to_proto(written), full_check=True)
    assert next(node.op for node in written.graph.nodes) == "DequantizeLinear"
    model = to_proto(written)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("a/w.half"))
    found, whole = run(model, {"a/x": X}), run(program, {"a/x": X})
    np.testing.assert_array_equal(found["a/w.half"], weight.values.astype(np.float16))
    for name, array in whole.items():
        assert_close(found[name], array, rtol=2e-2, atol=1e-2)


def test_a_program_with_weights_in_few_bits_is_quantised() -> None:
    program = program_of(NET)
    assert not is_quantised(program)
    put(program, "a/w", per_channel(8, 0))
    assert is_quantised(program)
    assert is_quantised(dequantising(program))


QDQ = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y)
<int8[1, 1, 1, 1] w = {3}, float s = {0.1}, int8 z = {0}>
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  v = DequantizeLinear (w, s, z)
  y = Conv (d, v)
}
"""


def test_quantised_parts_are_left_as_they_are() -> None:
    program = program_of(QDQ)
    assert [n.op for n in to_half(program).graph.nodes] == [n.op for n in program.graph.nodes]


BRANCH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 2] x, bool c) => (float[2, 2] y)
<float[2, 2] w = {1, 2, 3, 4}>
{
  t = MatMul (x, w)
  y = If (c) <
    then_branch = a () => (float[2, 2] p) { p = Exp (t) },
    else_branch = b () => (float[2, 2] q) { q = Identity (t) }
  >
}
"""


@pytest.mark.parametrize("flag", [True, False])
def test_bodies_read_the_whole_form_of_a_half_value(flag: bool) -> None:
    program = program_of(BRANCH)
    lowered = to_half(program)
    verify(lowered)
    feeds = {"a/x": np.float32([[0.5, 0.25], [1, 2]]), "a/c": np.array(flag)}
    assert_close(run(lowered, feeds)["a/y"], run(program, feeds)["a/y"], rtol=1e-2)


SLICED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, K] y)
<int64[1] starts = {1}, int64[1] ends = {9223372036854775807}, int64[1] axes = {1}>
{ y = Slice (x, starts, ends, axes) }
"""


def test_to_the_end_fits_32_bits_and_means_the_same() -> None:
    program = program_of(SLICED)
    feeds = {"a/x": np.float32([[1, 2, 3]])}
    before = run(program, feeds)["a/y"]
    assert narrow_integers(program) == 1
    verify(program)
    [node] = program.graph.nodes
    assert node.inputs[2].values.tolist() == [2**31 - 1]
    assert_close(run(program, feeds)["a/y"], before)
    assert narrow_integers(program) == 0  # nothing left to do
