"""Every step in the child gives what it gives in this process."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import checker, shape_inference, version_converter

from repsimc.compiler.isolation.allowance import ModelAllowance
from repsimc.compiler.isolation.steps import (
    Refused,
    check_model,
    convert_version,
    infer_shapes,
    open_session,
    run_session,
)
from tests.programs import model_of_text

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ h = MatMul(x, w)  y = Relu(h) }"""
OLD = """<ir_version: 8, opset_import: ["" : 9]>
g (float[2,3] x) => (float[2,3] y) { y = Clip <min = 0.0, max = 6.0> (x) }"""


def allowed() -> ModelAllowance:
    return ModelAllowance("the model", 100)


def test_inference_gives_the_same() -> None:
    model = model_of_text(MODEL)
    assert infer_shapes(model, allowed()) == shape_inference.infer_shapes(model, data_prop=True)


def test_the_checker_says_the_same() -> None:
    model = model_of_text(MODEL)
    check_model(model, allowed())
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(checker.ValidationError) as here:
        checker.check_model(model)
    with pytest.raises(Refused) as there:
        check_model(model, allowed())
    assert str(there.value) == str(here.value)


def test_conversion_gives_the_same() -> None:
    model = model_of_text(OLD)
    assert convert_version(model, 17, allowed()) == version_converter.convert_version(model, 17)


def test_a_session_opens_bytes_and_files(tmp_path: Path) -> None:
    content = model_of_text(MODEL).SerializeToString()
    open_session(content, allowed())
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    open_session(path, allowed(), optimised=False)
    with pytest.raises(Refused):
        open_session(content[:-20], allowed())


def test_a_run_gives_the_outputs_asked_for_or_none() -> None:
    content = model_of_text(MODEL).SerializeToString()
    feeds = {"x": np.ones((2, 4), np.float32)}
    (y,) = run_session(content, feeds, ["y"], allowed())
    assert y.tolist() == [[22, 26, 30]] * 2 and y.dtype == np.float32
    assert run_session(content, feeds, None, allowed()) == []
    with pytest.raises(Refused):
        run_session(content, {"x": np.ones((2, 5), np.float32)}, ["y"], allowed())


def test_strings_and_scalars_come_back_as_they_are() -> None:
    model = model_of_text("""<ir_version: 8, opset_import: ["" : 17]>
    g (string[2] words, int64 n) => (string[2] same, int64 m)
    { same = Identity(words)  m = Neg(n) }""")
    feeds = {"words": np.array(["one", "zwölf"], object), "n": np.array(3)}
    same, negative = run_session(model.SerializeToString(), feeds, ["same", "m"], allowed())
    assert same.tolist() == ["one", "zwölf"] and same.dtype == object
    assert (negative.shape, negative.dtype, int(negative)) == ((), np.int64, -3)


def test_types_that_numpy_has_no_word_for_run_and_come_back_wider() -> None:
    model = model_of_text("""<ir_version: 10, opset_import: ["" : 21]>
    g (bfloat16[2] x) => (bfloat16[2] y, int4[2] z)
    { y = Identity(x)  f = Cast<to=1>(x)  z = Cast<to=22>(f) }""")
    feeds = {"x": np.array([1.0, -3.0], ml_dtypes.bfloat16)}
    content = model.SerializeToString()
    assert run_session(content, feeds, None, allowed()) == []
    found = run_session(content, feeds, ["y", "z"], allowed())
    assert [array.tolist() for array in found] == [[1.0, -3.0]] * 2


def test_external_data_is_found_beside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(model_of_text(MODEL), path, save_as_external_data=True, size_threshold=0)
    feeds = {"x": np.ones((1, 4), np.float32)}
    assert run_session(path, feeds, ["y"], allowed())[0].tolist() == [[22, 26, 30]]
