from __future__ import annotations

from repsimc.passes.normalise import Normalise
from tests.passes.checking import floats, normalised, ops
from tests.programs import program_of

CHAIN = """<ir_version: 8, opset_import: ["": 17]> net (float[2,4] x) => (float[2,4] y)
<float[4,4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, float[4] one = {1, 1, 1, 1},
 float ratio = {0.5}, bool yes = {1}>
{
  no = Not(yes)
  made = Gemm(x, w)
  same = Dropout(made, ratio, no)
  y = BatchNormalization(same, one, one, one, one)
}"""


def test_one_step_makes_room_for_another() -> None:
    # Not until the mode is a constant does the Dropout go, nor until then the normalisation.
    assert ops(normalised(CHAIN, {"x": floats(2, 4)})) == ["Gemm"]


def test_changes_come_in_the_order_in_which_they_were_made() -> None:
    changes = [change.node for change in Normalise().run(program_of(CHAIN))]
    assert changes == ["a/Not_0", "a/Dropout_2", "a/BatchNormalization_3"]
