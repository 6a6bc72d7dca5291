from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.runtime.errors import ModelError
from repsimc.runtime.wire import GraphFile, external_files
from tests.programs import assert_close, model_of_text, run

SHARED = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "test">
g (float[2] x, float[2] extra) => (float[2] a, float[2] b, float[2] c)
<float[2] w = {3, 5}, float[2] unread = {1, 1}, float[2] t, float[2] u>
{
  t = Mul (x, w)
  u = Relu (t)
  dead = Neg (u)
  a = Sigmoid (u)
  b = Add (u, extra)
  c = Tanh (extra)
}
"""
WANTED = {"a": ["a"], "b": ["b"], "c": ["c"]}


def test_parts_are_the_sets_of_models_that_need_a_node_trunks_first() -> None:
    parts = GraphFile(model_of_text(SHARED).SerializeToString()).parts(WANTED)
    assert parts is not None
    told = [(set(p.models), p.inputs, p.outputs) for p in parts]
    assert told == [
        ({"a", "b"}, ("x",), ("u",)),
        ({"a"}, ("u",), ("a",)),
        ({"b"}, ("extra", "u"), ("b",)),
        ({"c"}, ("extra",), ("c",)),
    ]


def test_every_part_is_a_valid_model_and_together_they_compute_the_whole() -> None:
    whole = model_of_text(SHARED)
    values = {"x": np.float32([1, -2]), "extra": np.float32([7, 8])}
    expected = run(whole, values)
    for part in GraphFile(whole.SerializeToString()).parts(WANTED) or []:
        model = onnx.load_from_string(part.content)
        onnx.checker.check_model(model, full_check=True)
        assert model.producer_name == "test"
        assert {t.name for t in model.graph.initializer} == (
            {"w"} if "u" in part.outputs else set()
        )
        values |= run(model, {name: values[name] for name in part.inputs})
    for name, array in expected.items():
        assert_close(values[name], array)


def test_what_a_body_reads_from_outside_is_an_input_of_its_part() -> None:
    model = model_of_text("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x, bool on) => (float[2] a, float[2] b)
    <float[2] t>
    {
      t = Neg (x)
      a = If (on) <
        then_branch = one () => (float[2] p) { p = Relu (t) },
        else_branch = two () => (float[2] t) { }
      >
      b = Exp (t)
    }
    """)
    parts = GraphFile(model.SerializeToString()).parts({"a": ["a"], "b": ["b"]})
    assert parts is not None
    assert [(p.inputs, p.outputs) for p in parts] == [
        (("x",), ("t",)),
        (("on", "t"), ("a",)),
        (("t",), ("b",)),
    ]


def test_a_graph_whose_crossing_values_have_no_type_is_not_cut() -> None:
    model = model_of_text(SHARED)
    del model.graph.value_info[:]
    assert GraphFile(model.SerializeToString()).parts(WANTED) is None


def test_a_value_that_no_node_makes_is_not_cut() -> None:
    assert GraphFile(model_of_text(SHARED).SerializeToString()).parts({"a": ["gone"]}) is None


def external(tensor: onnx.TensorProto, location: str) -> onnx.TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_external_files_are_found_wherever_tensors_are() -> None:
    model = model_of_text(SHARED)
    external(model.graph.initializer[0], "weights.bin")
    constant = onnx.helper.make_node("Constant", [], ["k"], value=onnx.TensorProto())
    external(constant.attribute[0].t, "../constant.bin")
    body = onnx.helper.make_graph([constant], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["q"], then_branch=body))
    function = onnx.helper.make_function("f", "F", [], ["z"], [], [])
    inner = onnx.helper.make_node("Constant", [], ["z"], value=onnx.TensorProto())
    external(inner.attribute[0].t, "/etc/function.bin")
    function.node.append(inner)
    model.functions.append(function)
    assert external_files(model.SerializeToString()) == [
        "../constant.bin",
        "/etc/function.bin",
        "weights.bin",
    ]


def test_a_model_without_external_data_has_none() -> None:
    assert external_files(model_of_text(SHARED).SerializeToString()) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    content = bytearray(model_of_text(SHARED).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        external_files(damaged)
        GraphFile(damaged).parts(WANTED)
    except ModelError:
        pass


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(ModelError, match="damaged"):
        GraphFile(b"\xff" * 40)
