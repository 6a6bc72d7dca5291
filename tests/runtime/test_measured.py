"""The yardstick's bytes are this text."""

from __future__ import annotations

import onnx
import onnx.parser

from repsimc.runtime.measured import yardstick

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
yardstick (float[1, 16, 24, 24] x) => (float[1, 16] y)
<int64[4] filter = {16, 16, 3, 3}, int64[2] matrix = {16, 16}>
{
  w = ConstantOfShape <value = float[1] {0.015625}> (filter)
  m = ConstantOfShape <value = float[1] {0.0625}> (matrix)
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, w)
  d = Add (c, x)
  e = Relu (d)
  f = GlobalAveragePool (e)
  g = Flatten (f)
  y = MatMul (g, m)
}
"""


def test_the_bytes_are_the_text() -> None:
    found = onnx.load_model_from_string(yardstick())
    onnx.checker.check_model(found, full_check=True)
    assert found == onnx.parser.parse_model(TEXT)
