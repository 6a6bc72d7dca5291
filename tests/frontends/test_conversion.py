"""Operators that no newer version stands for."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from repsimc.compiler.errors import ModelError
from tests.programs import program_of


def test_operator_without_a_conversion_is_named():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 10]>
        g (float[1,1,4,8] x) => (float[1,1,8,4] y) <float[4] s = {1, 1, 2, 0.5}>
        { y = Resize(x, s) }"""
    )
    model.graph.node[0].name = "grow"
    with pytest.raises(ModelError, match="node 'grow' of model 'a'") as caught:
        program_of(model)
    assert "opset 11" in caught.value.hint
