from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import helper

from repsimc.compiler.graph.text import short_type, text
from tests.programs import joined, program_of

CONV = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,1,4,4] image) => (float[N,2] scores)
<float[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9},
 float[2] b = {1,2}, int64[2] shape = {0,2}>
{
  [conv_1] c = Conv<pads = [1,1,1,1]>(image, w, b)
  [relu_1] r = Relu(c)
  p = GlobalAveragePool(r)
  scores = Reshape(p, shape)
}
"""
BRANCH = """
<ir_version: 8, opset_import: ["": 17, "acme": 1]>
net (float[N] x, bool flag) => (float[N] y)
<float[1] k = {2.0}>
{
  t = acme.Twist<rate = 0.00001, mode = "fast">(x)
  y = If (flag) <
    then_branch = then () => (float[N] a) { a = Mul(t, k) },
    else_branch = other () => (float[N] b) <float[1] one = {1.0}> { b = Add(t, one) }
  >
}
"""

FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
net (float[N,4] x) => (float[N,4] y) { h = local.twice(x) y = Neg(h) }
<domain: "local", opset_import: ["": 17]>
twice (a) => (b) { c = Add(a, a) b = Relu(c) }
"""


def test_conv_model(golden: Callable[[str, str], None]) -> None:
    golden("text_conv.txt", text(program_of(CONV, "net")))


def test_bodies_and_custom_operators(golden: Callable[[str, str], None]) -> None:
    golden("text_branch.txt", text(program_of(BRANCH, "net")))


def test_two_tied_models(golden: Callable[[str, str], None]) -> None:
    program = joined([[("a", "image"), ("b", "image")]], a=CONV, b=CONV)
    golden("text_tied.txt", text(program))


def test_local_functions(golden: Callable[[str, str], None]) -> None:
    golden("text_function.txt", text(program_of(FUNCTION, "net")))


def test_same_program_same_text() -> None:
    assert text(program_of(BRANCH)) == text(program_of(BRANCH))
    program = program_of(BRANCH)
    assert text(program.copy()) == text(program)


@pytest.mark.parametrize("change", ["weight", "attribute", "edge", "output", "shape", "body"])
def test_every_change_shows(change: str) -> None:
    program = program_of(BRANCH if change == "body" else CONV)
    before = text(program)
    conv, relu = program.graph.nodes[0], program.graph.nodes[1]
    if change == "weight":
        conv.inputs[2].values = np.array([1, 2.5], np.float32)  # type: ignore[attr-defined]
    elif change == "attribute":
        conv.attrs["pads"] = [1, 1, 1, 0]
    elif change == "edge":
        program.graph.nodes[2].inputs[0] = conv.outputs[0]
    elif change == "output":
        program.models["a"].outputs = {"other": "a/scores"}
    elif change == "shape":
        relu.outputs[0].shape = None
    else:
        next(program.graph.subgraphs()).nodes[0].op = "Sub"
    assert text(program) != before


def test_floats_as_onnx_holds_them() -> None:
    through_float32 = helper.make_attribute("rate", 1e-5).f
    assert through_float32 != 1e-5
    assert "rate=1e-05" in text(program_of(BRANCH))


def test_short_types() -> None:
    types = [np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_, None]
    assert [short_type(t) for t in types] == ["f32", "f64", "f16", "i64", "u8", "bool", "?"]


def test_golden_text_that_differs_fails(
    golden: Callable[[str, str], None], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--update-golden"):
        pytest.skip("golden texts are being written")
    with pytest.raises(AssertionError, match="differs"):
        golden("text_conv.txt", text(program_of(CONV, "other")))
    with pytest.raises(AssertionError, match="no golden text"):
        golden("text_missing.txt", "")
