from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import SCORES, Ran, save

Call = Callable[..., Ran]


def test_inspect_a_model(repsimc: Call, tmp_path: Path) -> None:
    path = save(tmp_path, net=SCORES)["net"]
    ran = repsimc("inspect", path)
    assert ran.code == 0, ran.err
    assert "model net" in ran.out and "1 (1 Mul)" in ran.out and "cuts:" in ran.out
    data = json.loads(repsimc("inspect", path, "--format", "json").out)
    assert (data["nodes"], data["weights_nbytes"]) == (1, 12)


def test_inspect_prints_the_program(repsimc: Call, tmp_path: Path, bundle: Path) -> None:
    ran = repsimc("inspect", save(tmp_path, net=SCORES)["net"], "--text")
    assert "Mul" in ran.out and "net/y" in ran.out
    ran = repsimc("inspect", bundle, "--text")
    assert "Tanh" in ran.out and "a/y" in ran.out


def test_inspect_a_bundle(repsimc: Call, bundle: Path) -> None:
    ran = repsimc("inspect", bundle)
    assert ran.code == 0, ran.err
    assert "merged.onnx" in ran.out and "a.onnx" in ran.out
    data = json.loads(repsimc("inspect", bundle, "--format", "json").out)
    assert [entry["name"] for entry in data["manifest"]["models"]] == ["a", "b"]
    assert data["report"]["schema"] == "repsimc.report/1"


def test_inspect_what_is_neither(repsimc: Call, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    for what, said in (
        ("x.onnx", "not an ONNX model"),
        (".", "not a bundle"),
        ("y.onnx", "y.onnx"),
    ):
        ran = repsimc("inspect", what)
        assert ran.code == 3 and said in ran.err


def test_passes_are_listed_in_order(repsimc: Call) -> None:
    data = json.loads(repsimc("passes", "--format", "json").out)
    exact = {item["name"]: item["exact"] for item in data["passes"]}
    assert list(exact)[:2] == ["normalise", "share-equal-weights"]
    assert exact["drop-dead"] is True
    assert exact["share-prefix"] is exact["refit"] is False
    assert all(item["what"] for item in data["passes"])
    assert "share-prefix" in repsimc("passes").out
