from __future__ import annotations

import json

from repsimc.compiler.graph.dequantising import dequantising
from repsimc.compiler.reports.inspection import inspect_model, model_grids
from tests.nets.few_bits import per_channel, put
from tests.programs import program_of

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 2] y)
<float[4, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3, 2] v = {1,2,3,4,5,6}>
{
  h = MatMul (x, w)
  r = Relu (h)
  y = MatMul (r, v)
}
"""


def test_a_model_at_a_glance() -> None:
    found = inspect_model(program_of(CHAIN, "m"), "m")
    assert found.nodes == 3
    assert dict(found.operators) == {"MatMul": 2, "Relu": 1}
    assert found.weights_nbytes == (12 + 6) * 4
    assert found.macs == 12 + 6
    assert [str(line) for line in found.inputs] == ["x float32 [N, 4]"]
    assert [str(line) for line in found.outputs] == ["y float32 [N, 2]"]
    assert [(cut.values, round(cut.depth, 2)) for cut in found.cuts] == [
        (("h",), 0.33),
        (("r",), 0.67),
        (("y",), 1.0),
    ]
    data = found.to_json()
    assert json.loads(json.dumps(data)) == data
    assert data["schema"] == "repsimc.inspection/1"
    assert data["cuts"][0] == {"values": ["h"], "shapes": [["N", 3]], "depth": 0.333333}


def test_weights_that_come_quantised_are_told_by_bits() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 2] y)
    <int8[4, 2] c = {1,2,3,4,5,6,7,8}, float[2] s = {1, 3}, float[2] b = {1, 2}>
    {
      w = DequantizeLinear <axis = 1> (c, s)
      h = MatMul (x, w)
      y = Add (h, b)
    }
    """
    found = inspect_model(program_of(text, "m"), "m")
    assert found.to_json()["weights_by_bits"] == {"32": 8, "8": 16}
    assert ("weights", "24 B, of them 16 B in 8 bits") in model_grids(found)[0].rows


def test_bytes_of_weights_by_the_bits_of_an_element() -> None:
    program = program_of(CHAIN, "m")
    found = inspect_model(program, "m")
    assert found.to_json()["weights_by_bits"] == {"32": 72}
    assert ("weights", "72 B") in model_grids(found)[0].rows
    put(program, "m/w", per_channel(8, 1))
    for read in (program, dequantising(program)):  # as compiled, and as a file has it
        found = inspect_model(read, "m")
        assert found.weights_nbytes == sum(found.weights_by_bits.values()) == 12 + 3 * 4 + 24
        assert found.weights_by_bits == {"32": 24, "8": 24}
    assert ("weights", "48 B, of them 24 B in 8 bits") in model_grids(found)[0].rows


def test_of_many_cuts_some_are_shown_and_the_rest_is_said() -> None:
    lines = "\n".join(f"v{i + 1} = Relu (v{i})" for i in range(60))
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g (float[1, 2] v0) => (float[1, 2] v60) {{\n{lines}\n}}"
    )
    found = inspect_model(program_of(text, "m"), "m")
    cuts = model_grids(found)[1]
    assert len(found.cuts) == 60
    assert len(cuts.rows) == 20
    assert cuts.notes == ("one in 3 of the 60 cuts; --format json has all",)
