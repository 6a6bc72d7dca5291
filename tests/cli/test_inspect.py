from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.cli.conftest import SCORES, Ran, save

Call = Callable[..., Ran]

ANY_SIZE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x) => (float[N, 2, H, W] y)
<float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}> { y = Conv (x, w) }
"""


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
    assert "fidelity on held-out frames" in ran.out
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


def test_figures_of_free_sizes_are_unknown_until_they_are_told(
    repsimc: Call, tmp_path: Path
) -> None:
    path = save(tmp_path, net=ANY_SIZE)["net"]
    ran = repsimc("inspect", path)
    assert "unknown" in ran.out and "--size x=" in ran.out
    data = json.loads(repsimc("inspect", path, "--format", "json").out)
    assert (data["macs"], data["activations_peak_nbytes"]) == (None, None)
    assert data["sizes_unknown"] == ["x"]
    np.savez(tmp_path / "frames.npz", x=np.ones((4, 3, 6, 5), np.float32))
    for told in (("--size", "x=1x3x6x5"), ("--calib", tmp_path / "frames.npz")):
        data = json.loads(repsimc("inspect", path, *told, "--format", "json").out)
        assert data["macs"] == 6 * 5 * 3 * 2 and data["sizes"] == {"x": [1, 3, 6, 5]}
        assert "1x3x6x5" in repsimc("inspect", path, *told).out
    ran = repsimc("inspect", path, "--size", "x=1x4x6x5")
    assert ran.code == 2 and "cannot be 1x4x6x5" in ran.err


def test_compile_states_the_sizes_that_its_figures_are_for(repsimc: Call, tmp_path: Path) -> None:
    path = save(tmp_path, net=ANY_SIZE)["net"]
    ran = repsimc("compile", path, "--dry-run")
    assert ran.code == 0 and "net.x may have any size" in ran.out and "unknown" in ran.out
    ran = repsimc("compile", path, "--dry-run", "--size", "net.x=1x3x6x5")
    assert ran.code == 0 and "one frame of net.x 1x3x6x5" in ran.out
    (tmp_path / "sizes.toml").write_text("size = { x = [1, 3, 6, 5] }")
    ran = repsimc("compile", path, "--dry-run", "--config", tmp_path / "sizes.toml")
    assert ran.code == 0 and "one frame of net.x 1x3x6x5" in ran.out
    ran = repsimc("compile", path, "--dry-run", "--max-macs", "60%")
    assert ran.code == 2 and "--size net.x=" in ran.err
