"""Which front end a model file is read by."""

from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.compiler.frontends.read import read_model
from tests.frontends.given_models import good, refused


@pytest.mark.parametrize("name", ["net.onnx", "NET.ONNX", "net", "net.bin"])
def test_a_file_of_any_name_may_hold_onnx(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(good().SerializeToString())
    assert list(read_model(tmp_path / name, "net").models) == ["net"]


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path):
    (tmp_path / "net.h5").write_bytes(b"something else")
    assert "is not an ONNX model" in refused(tmp_path / "net.h5").message
