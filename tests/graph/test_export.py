"""Programs as ONNX files and protos."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from repsimc.compiler.errors import ModelError
from repsimc.compiler.graph.export import held_nbytes_by_bits, to_proto, write_model
from repsimc.compiler.graph.program import Program
from tests.programs import assert_close, feeds_for, joined, program_of, run

CHAIN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,3] y)
<float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] b = {-60,2,3}>
{
  h = MatMul(x, w)
  s = Add(h, b)
  y = Relu(s)
}"""
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def names(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_whole_program():
    proto = to_proto(program_of(CHAIN))
    onnx.checker.check_model(proto, full_check=True)
    assert names(proto) == ["MatMul", "Add", "Relu"]
    assert [value.name for value in proto.graph.input] == ["a/x"]
    assert [value.name for value in proto.graph.output] == ["a/y"]
    assert {tensor.name for tensor in proto.graph.initializer} == {"a/w", "a/b"}
    assert {value.name for value in proto.graph.value_info} == {"a/h", "a/s"}
    assert proto.ir_version == 10
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]


def test_part_between_two_values():
    program = program_of(CHAIN)
    whole = run(to_proto(program, outputs=["a/h", "a/y"]), {"a/x": X})
    part = to_proto(program, inputs=["a/h"], outputs=["a/y"])
    assert names(part) == ["Add", "Relu"]
    assert [value.name for value in part.graph.input] == ["a/h"]
    assert [tensor.name for tensor in part.graph.initializer] == ["a/b"]
    assert_close(run(part, {"a/h": whole["a/h"]})["a/y"], whole["a/y"])


def test_part_adds_the_graph_inputs_it_needs():
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, float[2] u, float[2] unused) => (float[2] y, float[2] z)
        { h = Neg(x)  y = Add(h, u)  z = Abs(unused) }"""
    )
    part = to_proto(program, inputs=["a/h"], outputs=["a/y"])
    assert [value.name for value in part.graph.input] == ["a/h", "a/u"]


def test_part_from_a_value_made_beside_another_that_is_needed():
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4] x) => (float[2] y)
        { p, q = Split(x)  y = Sub(p, q) }"""
    )
    part = to_proto(program, inputs=["a/p"], outputs=["a/y"])
    assert [value.name for value in part.graph.input] == ["a/p", "a/x"]
    found = run(part, {"a/p": np.zeros(2, np.float32), "a/x": np.arange(4, dtype=np.float32)})
    assert_close(found["a/y"], np.array([-2, -3], np.float32))


def test_unknown_value_is_named():
    with pytest.raises(ModelError, match="a/nothing"):
        to_proto(program_of(CHAIN), outputs=["a/nothing"])


def test_metadata_and_docs_of_nodes_are_written():
    program = program_of(CHAIN)
    program.note_fit("a/Relu_2", "refit")
    program.docs["a/Relu_2"] = "the last one"
    node = to_proto(program).graph.node[2]
    assert {e.key: e.value for e in node.metadata_props} == {
        "repsimc.source": "a/Relu_2",
        "repsimc.pass": "refit",
    }
    assert node.doc_string == "the last one"


def test_what_models_say_of_themselves():
    proto = onnx.parser.parse_model(CHAIN)
    proto.metadata_props.add(key="stride", value="32")
    proto.doc_string = "a model"
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="author", value="me")
    alone = to_proto(program_of(proto))
    assert {e.key: e.value for e in alone.metadata_props} == {"stride": "32"}
    assert (alone.doc_string, alone.graph.doc_string) == ("a model", "a graph")
    assert {e.key: e.value for e in alone.graph.metadata_props} == {"author": "me"}
    both = {e.key: e.value for e in to_proto(joined(a=proto, b=CHAIN)).metadata_props}
    assert both == {
        "repsimc.model.a.doc_string": "a model",
        "repsimc.model.a.stride": "32",
        "repsimc.model.a.repsimc.graph.author": "me",
        "repsimc.model.a.repsimc.graph.doc_string": "a graph",
    }


def test_a_copy_exports_the_same_bytes():
    program = joined(a=CHAIN, b=CHAIN)
    first = to_proto(program).SerializeToString(deterministic=True)
    assert to_proto(program.copy()).SerializeToString(deterministic=True) == first
    assert to_proto(program).SerializeToString(deterministic=True) == first


def exact_weights() -> onnx.ModelProto:
    """A model whose constants are of every type that NumPy has no words for."""
    cases = {
        "bf": np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16),
        "f8": np.array([0.5, -448.0, 1.0], ml_dtypes.float8_e4m3fn),
        "f8uz": np.array([0.5, -240.0, 1.0], ml_dtypes.float8_e4m3fnuz),
        "i4": np.array([-8, 7, 3], ml_dtypes.int4),
        "u4": np.array([15, 0, 9], ml_dtypes.uint4),
        "text": np.array(["ab", "ç"], object),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in cases.items()]
    nodes = [helper.make_node("Use", [name], [f"{name}_out"], domain="own") for name in cases]
    outputs = [
        helper.make_tensor_value_info(f"{t.name}_out", t.data_type, list(t.dims)) for t in tensors
    ]
    graph = helper.make_graph(nodes, "g", [], outputs, tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_every_type_is_exact_to_the_byte():
    model = exact_weights()
    found = {t.name: t for t in to_proto(program_of(model)).graph.initializer}
    for tensor in model.graph.initializer:
        kept = found[f"a/{tensor.name}"]
        assert kept.data_type == tensor.data_type
        assert kept.raw_data == tensor.raw_data
        assert kept.string_data == tensor.string_data


def big(seed: int = 0) -> Program:
    """Weights of 1 MiB and more, one of 8 KiB, and a small bias."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((512, 513)).astype(np.float32),
        "w2": random.standard_normal((513, 4)).astype(np.float32),
        "b": random.standard_normal(4).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"]),
            helper.make_node("Gemm", ["h", "w2", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 512])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return program_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_small_models_are_one_file(tmp_path: Path):
    program = program_of(CHAIN)
    assert write_model(program, tmp_path) == [tmp_path / "merged.onnx"]
    onnx.checker.check_model(str(tmp_path / "merged.onnx"), full_check=True)
    assert_close(run(tmp_path / "merged.onnx", {"a/x": X})["a/y"], run(program, {"a/x": X})["a/y"])


def test_large_weights_lie_beside_the_model(tmp_path: Path):
    program = big()
    paths = write_model(program, tmp_path, "big", inline_limit_nbytes=10_000)
    assert paths == [tmp_path / "big.onnx", tmp_path / "big.onnx.data"]
    onnx.checker.check_model(str(paths[0]), full_check=True)
    light = onnx.load(paths[0], load_external_data=False)
    external = {
        t.name: {e.key: e.value for e in t.external_data}
        for t in light.graph.initializer
        if t.data_location == onnx.TensorProto.EXTERNAL
    }
    assert set(external) == {"a/w1", "a/w2"}
    assert all(entry["location"] == "big.onnx.data" for entry in external.values())
    assert int(external["a/w1"]["offset"]) % 4096 == 0
    assert int(external["a/w2"]["offset"]) % 64 == 0
    feeds = feeds_for(to_proto(program))
    assert_close(run(paths[0], feeds)["a/y"], run(program, feeds)["a/y"])


def test_equal_programs_are_written_as_equal_bytes(tmp_path: Path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        write_model(big(), tmp_path / place, inline_limit_nbytes=10_000)
    for file in ("merged.onnx", "merged.onnx.data"):
        one, two = ((tmp_path / place / file).read_bytes() for place in ("one", "two"))
        assert one == two


def test_other_weights_are_written_as_other_bytes(tmp_path: Path):
    write_model(big(0), tmp_path, "one", inline_limit_nbytes=10_000)
    write_model(big(1), tmp_path, "two", inline_limit_nbytes=10_000)
    assert (tmp_path / "one.onnx.data").read_bytes() != (tmp_path / "two.onnx.data").read_bytes()


def test_a_constant_of_two_bodies_is_written_once():
    program = program_of(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}>
        { y = If (c) < then_branch = t () => (float[2] o) { p = Add(x, w)  o = Mul(p, v) },
                       else_branch = e () => (float[2] q) { q = Sub(x, w) }> }"""
    ).copy()
    proto = to_proto(program)
    assert [tensor.name for tensor in proto.graph.initializer] == ["a/w"]
    inner = [tensor.name for a in proto.graph.node[0].attribute for tensor in a.g.initializer]
    assert inner == ["a/v"]
    onnx.checker.check_model(proto, full_check=True)
    x = np.array([5, 6], np.float32)
    w, v = np.array([1, 2]), np.array([3, 4])
    for condition, expected in ((True, (x + w) * v), (False, x - w)):
        found = run(proto, {"a/c": np.array(condition), "a/x": x})["a/y"]
        assert_close(found, expected.astype(np.float32))


def test_large_weights_of_bodies_lie_beside_the_model_too(tmp_path: Path):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2000] x) => (float[2000] y)
        { y = If (c) < then_branch = t () => (float[2000] o) { o = Add(x, w) },
                       else_branch = e () => (float[2000] q) { q = Neg(x) }> }"""
    )
    weight = np.arange(2000, dtype=np.float32)
    body = model.graph.node[0].attribute[0].g
    body.initializer.append(numpy_helper.from_array(weight, "w"))
    paths = write_model(program_of(model), tmp_path, inline_limit_nbytes=1000)
    assert len(paths) == 2
    onnx.checker.check_model(str(paths[0]), full_check=True)
    feeds = {"a/c": np.array(True), "a/x": np.ones(2000, np.float32)}
    assert_close(run(paths[0], feeds)["a/y"], weight + 1)


DEQUANTISED = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 4] x) => (float[N, 2] y)
<int8[4, 2] codes = {1,2,3,4,5,6,7,8}, float[2] scales = {0.5, 0.25}, int8[2] zeros = {0, 0},
 float[2] b = {1, 2}>
{
  w = DequantizeLinear <axis = 1> (codes, scales, zeros)
  h = MatMul (x, w)
  y = Add (h, b)
}
"""


def test_scales_and_zero_points_stand_in_the_bits_of_what_they_scale() -> None:
    program = program_of(DEQUANTISED, "m")
    found = held_nbytes_by_bits(program.graph.nodes)
    assert found == {"32": 8, "8": 8 + 8 + 2} and list(found) == ["32", "8"]
    # A scale that is read as a number too is one.
    text = DEQUANTISED.replace("y = Add (h, b)", "y = Add (h, scales)")
    assert held_nbytes_by_bits(program_of(text, "m").graph.nodes) == {"32": 8, "8": 8 + 2}
    # Those of what is computed are no part of a weight.
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 4] x) => (float[N, 4] y) <float s = {0.5}, int8 z = {0}>
    {
      q = QuantizeLinear (x, s, z)
      y = DequantizeLinear (q, s, z)
    }
    """
    assert held_nbytes_by_bits(program_of(text, "m").graph.nodes) == {"32": 4, "8": 1}
