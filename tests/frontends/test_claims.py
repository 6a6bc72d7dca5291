"""What a file says of shapes is dropped; what feeds are held to stays."""

from __future__ import annotations

import onnx
import pytest

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
