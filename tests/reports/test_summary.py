from __future__ import annotations

from repsimc.compiler.frames.tying import Tying
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
