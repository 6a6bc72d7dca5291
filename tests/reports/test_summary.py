from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repsimc.compiler.frames.tying import Tying
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.weights import nbytes_of
from repsimc.compiler.planning.plan import Plan
from repsimc.compiler.reports.report import Report
from repsimc.compiler.reports.summary import Compilation, report_of
from repsimc.compiler.structure.cost import predicted_memory
from tests.nets.few_bits import per_channel, put
from tests.programs import joined, program_of

LAYERS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 2] y)
<float[4, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3, 2] v = {1,2,3,4,5,6}>
{ t = MatMul (x, w)  y = MatMul (t, v) }
"""


def test_bytes_by_bits_of_each_model_add_up_to_those_of_all() -> None:
    original = joined(a=LAYERS, b=LAYERS)
    program = original.copy()
    shared = put(program, "a/w", per_channel(8, 1))
    program.replace_uses(program.weights()["b/w"], shared)
    own = put(program, "b/v", per_channel(4, 1))
    assert (nbytes_of(shared), nbytes_of(own)) == (12 + 12, 3 + 8)
    memory = predicted_memory(program, [program_of(LAYERS, name) for name in "ab"])
    compiled = Compilation(original, program, Plan({}), ())
    report = report_of(compiled, memory, None, Tying(), (), None)
    assert report.model("a").weights_by_bits == {"32": 24, "8": 12}
    assert report.model("b").weights_by_bits == {"8": 12, "4": 11}
    assert report.weights_by_bits == {"32": 24, "8": 24, "4": 11}
    assert report.weights_after_nbytes == sum(report.weights_by_bits.values())
    assert Report.from_json(report.to_json()) == report


def numbers(seed: int) -> str:
    return ", ".join(f"{one:.3f}" for one in np.random.default_rng(seed).normal(size=256))


# Weights are called by what becomes of them.
WEIGHTS = ("rounded", "dear", "unseen", "both", "table")
LARGE = f"""
<ir_version: 8, opset_import: ["" : 17]>
g (float[16, 16] x, int64[N] i) => (float[16, 16] y, float[N, 16] z)
<float[16, 1] few = {{ {", ".join("1" * 16)} }}, {
    ", ".join(f"float[16, 16] {name} = {{ {numbers(k)} }}" for k, name in enumerate(WEIGHTS))
}>
{{
  a = MatMul (x, rounded)
  b = MatMul (a, dear)
  c = MatMul (b, unseen)
  d = MatMul (c, both)
  e = Mul (d, both)
  f = MatMul (e, few)
  y = Mul (e, f)
  z = Gather (table, i)
}}
"""


def test_what_stays_in_float_is_told_with_its_reason_where_few_bits_were_asked_for() -> None:
    original = program_of(LARGE, "m")
    program = original.copy()
    put(program, "m/rounded", per_channel(8, 1))
    dear = program.weights()["m/dear"].outputs[0].name
    memory = predicted_memory(program, [original])

    def told(lost: dict[str, float] | None) -> list[tuple[int, str, float | None]]:
        compiled = Compilation(original, program, Plan({}), (), lost_by_rounding=lost)
        (found,) = report_of(compiled, memory, None, Tying(), (), None).models
        return [(one.nbytes, one.why, one.predicted_loss) for one in found.in_float]

    assert told({dear: 0.0125}) == [
        (1024, "not in the plan", 0.0125),
        (1024, "not in the plan", None),
        (1024, "read by others, too", None),
        (64, "hardly any weights", None),
        (1024, "read by Gather", None),
    ]
    assert told({})[0] == (1024, "not in the plan", None)
    assert told(None) == []


def test_an_operator_that_a_rewrite_made_is_told_as_such_and_little_ones_too() -> None:
    program = program_of(LARGE, "m")
    first, dear, *_ = program.graph.nodes
    dear.name = "m/adapter"
    memory = predicted_memory(program, [program])

    def why(original: Program, lost: dict[str, float]) -> list[str]:
        compiled = Compilation(original, program, Plan({}), (), lost_by_rounding=lost)
        (found,) = report_of(compiled, memory, None, Tying(), (), None).models
        return [one.why for one in found.in_float]

    original = program_of(LARGE, "m")
    assert why(original, {})[:2] == ["not in the plan", "made by another rewrite"]
    # Beside a model of 4 MiB 1 KiB is nothing, unless it is stored with others of its like.
    reader = original.weights()["m/table"].outputs[0]
    reader.inputs[0] = gs.Constant("m/huge", np.zeros((1024, 1024), np.float32))
    assert why(original, {})[0] == "saves too little"
    assert why(original, {first.name: 0.1})[0] == "not in the plan"
    # What was larger, and could have been stored alone, is nothing now.
    original.nodes()[first.name].inputs[1] = gs.Constant("m/wide", np.zeros((16, 64), np.float32))
    assert why(original, {first.name: 0.1})[0] == "saves too little"
