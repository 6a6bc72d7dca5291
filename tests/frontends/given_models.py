"""Small models, and what the tests of models that cannot be used share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.frontends.read import read_model
from tests.programs import program_of

SMALL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ h = MatMul(x, w)  y = Relu(h) }"""
TWICE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) <float k = {2}> { y = Mul(x, k) }"""
SQUARE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[M,2] image) => (float[M,2] y) { y = Mul(image, image) }"""
X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def model(graph: str, opset: int = 17, more: str = "") -> str:
    """The graph as a model in text."""
    return f'<ir_version: 8, opset_import: ["" : {opset}{more}]>\n{graph}'


def refused(path: Path, name: str = "net") -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_model(path, name)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    return caught.value


def good() -> onnx.ModelProto:
    return onnx.parser.parse_model(SMALL)


def check_refused(damage: Callable[[onnx.ModelProto], None], message: str) -> None:
    """Assert that the damaged model is refused, by its name and with a hint."""
    model = good()
    damage(model)
    with pytest.raises(ModelError, match=message) as caught:
        program_of(model, "net")
    assert "model 'net' (net.onnx)" in caught.value.message
    assert caught.value.hint
