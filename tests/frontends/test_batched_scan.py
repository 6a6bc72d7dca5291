"""Scan of opset 8, over batch and sequence."""

from __future__ import annotations

import onnx

from repsimc.compiler.graph.export import any_rank_allowed, to_proto
from tests.programs import assert_same_outputs, joined, model_of_text

SUMS = """<ir_version: 8, opset_import: ["" : 8]>
g (float[2,3] s, float[2,4,3] q) => (float[2,3] y, float[2,4,3] z)
{ y, z = Scan<num_scan_inputs = 1, directions = [1], body = b (float[3] i, float[3] e)
  => (float[3] o, float[3] u) { o = Add(i, e)  u = Mul(o, e) }>(, s, q) }"""


def test_every_sequence_of_the_batch_is_gone_over() -> None:
    model = model_of_text(SUMS)
    program = joined(a=model, b=model)
    assert_same_outputs(model, program, "b")
    proto = to_proto(program)
    with any_rank_allowed(proto):
        onnx.checker.check_model(proto)
