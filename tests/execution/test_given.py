"""The users' files, run as ONNX Runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.execution.given import GivenModels
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.isolation.allowance import ParseLimits
from tests.nets.costly import ENDLESS, WIDENS
from tests.programs import model_of_text

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,2] x, float[2] threshold) => (float[N,2] y, bfloat16[N,2] z)
<float[2] w = {1, -2}> { h = Mul(x, w) y = Max(h, threshold) z = Cast<to=16>(h) }"""
X = np.float32([[1, 2], [3, 257]])


def given(folder: Path, proto: onnx.ModelProto) -> GivenModels:
    onnx.save(proto, folder / "a.onnx", save_as_external_data=True, size_threshold=0)
    return GivenModels(read_model(folder / "a.onnx", "a").models)


def test_outputs_go_by_their_own_names_external_data_included(tmp_path: Path) -> None:
    found = given(tmp_path, model_of_text(TEXT)).run("a", {"x": X, "threshold": np.float32([0, 0])})
    assert list(found) == ["y", "z"]
    np.testing.assert_array_equal(found["y"], np.maximum(X * [1, -2], 0))
    np.testing.assert_array_equal(found["z"], np.float32([[1, -4], [3, -512]]))


def test_it_is_the_file_that_runs_and_not_what_was_read(tmp_path: Path) -> None:
    files = given(tmp_path, model_of_text(TEXT))
    other = model_of_text(TEXT.replace("Max", "Min"))
    onnx.save(other, tmp_path / "a.onnx")
    found = files.run("a", {"x": X, "threshold": np.float32([0, 0])})
    np.testing.assert_array_equal(found["y"], np.minimum(X * [1, -2], 0))


def test_a_file_that_does_not_open_or_run_is_named(tmp_path: Path) -> None:
    files = given(tmp_path, model_of_text(TEXT))
    with pytest.raises(ModelError, match=r"cannot run model 'a' .*a\.onnx"):
        files.run("a", {"x": X[:, :1], "threshold": np.float32([0, 0, 0])})
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"default settings, cannot open model 'a' .*a\.onnx"):
        GivenModels(files._models).run("a", {"x": X})


def test_a_run_without_an_end_is_stopped(tmp_path: Path) -> None:
    files = given(tmp_path, model_of_text(ENDLESS))
    with pytest.raises(ModelError, match="cannot run"):
        files.run("a", {"x": X[0]}, seconds=0.3)


def test_inputs_are_tried_in_the_child_process(tmp_path: Path) -> None:
    files = given(tmp_path, model_of_text(TEXT))
    feeds = {"x": X, "threshold": np.float32([0, 0])}
    assert files.try_out("a", feeds, files.allowance("a", feeds)) == ""
    feeds = {"x": X[:, :1], "threshold": np.float32([0, 0, 0])}
    assert "threshold" in files.try_out("a", feeds, files.allowance("a", feeds))
    onnx.save(model_of_text(WIDENS), tmp_path / "a.onnx")
    little = files.allowance("a", {"x": X}, ParseLimits(memory_nbytes=64 << 20))
    with pytest.raises(ModelError, match=r"'a' \(.*a.onnx\) on made-up inputs takes more than 64"):
        files.try_out("a", {"x": X}, little)
