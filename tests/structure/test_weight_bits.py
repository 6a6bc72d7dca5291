"""In how many bits weights stand: by their numbers, by codes with their scales, in bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from repsimc.compiler.graph.export import held_nbytes
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.stored_weight import StoredWeight
from repsimc.compiler.structure.weight_bits import held_weights, nbytes_by_bits
from tests.programs import program_of

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


def by_bits(program: Program) -> Mapping[str, int]:
    found = nbytes_by_bits(held_weights(program.graph.nodes).values())
    assert sum(found.values()) == held_nbytes(program.graph.nodes)
    return found


def test_scales_and_zero_points_count_as_their_codes_do() -> None:
    assert by_bits(program_of(DEQUANTISED, "m")) == {"32": 8, "8": 8 + 8 + 2}


def test_a_scale_that_others_read_too_is_a_number_like_any_other() -> None:
    text = DEQUANTISED.replace("y = Add (h, b)", "y = Add (h, scales)")
    assert by_bits(program_of(text, "m")) == {"32": 8, "8": 8 + 2}
    for values in ("b = {0.5, 0.25}", "scales = {1, 2}"):  # equal ones are held once
        name = values.split()[0]
        text = re.sub(rf"{name} = {{[^}}]*}}", values, DEQUANTISED)
        assert by_bits(program_of(text, "m")) == {"32": 8, "8": 8 + 2}


def test_scales_of_what_is_computed_are_no_part_of_a_weight() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 4] x) => (float[N, 4] y) <float s = {0.5}, int8 z = {0}>
    {
      q = QuantizeLinear (x, s, z)
      y = DequantizeLinear (q, s, z)
    }
    """
    assert by_bits(program_of(text, "m")) == {"32": 4, "8": 1}


def test_a_weight_that_is_not_spelled_out_yet_stands_in_its_bits() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 3] y) <float[4, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
    { y = MatMul (x, w) }
    """
    program = program_of(text, "m")
    assert by_bits(program) == {"32": 48}
    codes = np.ones((4, 3), np.int8)
    (node,) = program.graph.nodes
    node.inputs[1] = StoredWeight("w4", codes, np.ones(3, np.float32), 1, 4)
    assert by_bits(program) == {"4": 6 + 12}


def test_the_most_bits_come_first_and_what_is_empty_is_left_out() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 2] y) <int64[2] s = {-1, 2}, float16[2] h = {1, 2}>
    {
      r = Reshape (x, s)
      c = Cast <to = 1> (h)
      y = Add (r, c)
    }
    """
    assert list(by_bits(program_of(text, "m")).items()) == [("64", 16), ("16", 4)]
