"""What a file says of shapes is dropped; what feeds are held to stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from repsimc.compiler.execution.executable import Executable
from tests.programs import Program, model_of_text, program_of

STALE = """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
g (float[N,4] x, bool c) => (float[1,9] y, float[7] z, int32[1] t) <float[1,4] h, float[1,9] s>
{ h = Relu(x)  y = Neg(h)  k = acme.Twist(x)  z = Abs(k)  t0 = acme.Turn(x)  t = Identity(t0)
  s = If (c) < then_branch = a () => (float[1,4] o) <float[1,4] q> { q = Neg(x)  o = Neg(q) },
               else_branch = b () => (float[1,4] p) { p = Neg(h) }> }"""


def typed(*infos: tuple[str, int, list[int]]) -> Program:
    model = model_of_text(STALE)
    model.graph.value_info.extend(onnx.helper.make_tensor_value_info(*info) for info in infos)
    return program_of(model)


def test_shapes_follow_from_the_inputs() -> None:
    values = typed(("k", 1, [1, 4])).values()
    shapes = {name: values[f"a/{name}"].shape for name in ("x", "h", "y", "s")}
    assert shapes == {name: ["N", 4] for name in shapes}


def test_of_what_an_unknown_operator_makes_the_type_is_believed() -> None:
    values = typed(("k", 1, [1, 4]), ("t0", 6, [1])).values()
    for name, dtype in (("k", "float32"), ("z", "float32"), ("t0", "int32"), ("t", "int32")):
        assert (str(values[f"a/{name}"].dtype), values[f"a/{name}"].shape) == (dtype, None)


# What is collected has a shape that inference cannot tell.
LOOP = """<ir_version: 8, opset_import: ["" : 17]>
g (int64 n, bool go, float[2] x) => (float[2] y, float[K,2] z) {
  y, z = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s)
    => (bool d, float[2] t, float[2] u) { d = Identity(c)  t = Neg(s)
    one = Constant<value = int64[1] {1}>()  k = Cast<to = 7>(s)  r = ReduceMin<keepdims = 0>(k)
    zero = Sub(r, r)  two = Constant<value = int64[1] {2}>()  e = Add(two, zero)
    u = Expand(t, e) }>
}"""


@pytest.mark.parametrize("turns", [0, 3])
def test_what_a_loop_collects_has_the_shape_that_its_body_says(turns: int) -> None:
    run = Executable(program_of(LOOP), None, ["a/z"])
    feeds = {"n": np.array(turns), "go": np.array(True), "x": np.float32([1, 2])}
    (found,) = run({f"a/{name}": array for name, array in feeds.items()})
    assert found.shape == (turns, 2)


def test_a_loop_whose_body_says_another_shape_gives_what_it_makes() -> None:
    run = Executable(program_of(LOOP.replace("float[2] u", "float[1,7] u")), None, ["a/z"])
    feeds = {"n": np.array(3), "go": np.array(True), "x": np.float32([1, 2])}
    (found,) = run({f"a/{name}": array for name, array in feeds.items()})
    assert found.tolist() == [[-1, -2], [1, 2], [-1, -2]]


@pytest.mark.parametrize("shape", ["[2,3]", "[N,3]"])
def test_an_input_handed_out_keeps_its_shape(shape: str) -> None:
    program = program_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float{shape} x) => (float[1] x, float[1] y) {{ y = Neg(x) }}"""
    )
    wanted = program.values()["a/x"].shape
    assert [value.shape for value in program.graph.outputs] == [wanted, wanted]


def test_where_inference_has_no_word_people_are_told_what_the_file_says() -> None:
    (model,) = typed().models.values()
    assert model.declared == {"y": (1, 9), "z": (7,), "t": (1,)}
    assert model.told_shape("z", None) == (7,)
    assert model.told_shape("y", ["N", 4]) == ("N", 4)
    assert model.told_shape("y", ["unk__0", None]) == (1, 9)
