from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from repsimc.compiler.cli.main import app
from tests.cli.conftest import SCORES, Ran, save

Call = Callable[..., Ran]


@pytest.mark.parametrize(
    "command", ["compile", "inspect", "similarity", "verify", "run", "bench", "passes"]
)
def test_every_help_has_examples(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Examples:" in shown.output
    assert f"repsimc {command}" in shown.output.split("Examples:")[1]


def test_help_tells_the_exit_codes(repsimc: Call) -> None:
    ran = repsimc("--help")
    assert ran.code == 0
    assert repsimc() == ran
    assert "5 budget not met" in " ".join(ran.out.split())


def test_version(repsimc: Call) -> None:
    from repsimc import __version__

    assert repsimc("--version").out == f"repsimc {__version__}\n"


# -- run ---------------------------------------------------------------------------------


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    path = tmp_path / "frame.npy"
    np.save(path, np.array([[0.5, -1.0, 2.0]], np.float32))
    return path


def test_run_prints_shapes_and_top_values(repsimc: Call, bundle: Path, frame: Path) -> None:
    ran = repsimc("run", bundle, "--model", "a", "--input", frame)
    assert ran.code == 0, ran.err
    assert "float32 [1, 3]" in ran.out and "2: 2, 0: 0.5, 1: -1" in ran.out


def test_run_as_json(repsimc: Call, bundle: Path, frame: Path) -> None:
    data = json.loads(repsimc("run", bundle, "--input", frame, "--format", "json").out)
    a, b = data["outputs"]
    assert a["values"] == [[0.5, -1.0, 2.0]]
    assert a["top"][0] == {"index": 2, "value": 2.0}
    assert (b["model"], b["shape"], b["top"]) == ("b", [1, 3, 1], [])
    assert b["values"][0][0] == [pytest.approx(np.tanh(0.5))]


def test_a_frame_without_the_batch_axis(repsimc: Call, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.array([0.5, -1.0, 2.0], np.float32))
    ran = repsimc("run", bundle, "--input", "x=bare.npy", "--format", "json")
    assert json.loads(ran.out)["outputs"][0]["values"] == [[0.5, -1.0, 2.0]]


def test_run_writes_the_same_bytes_each_time(
    repsimc: Call, bundle: Path, frame: Path, tmp_path: Path
) -> None:
    assert repsimc("run", bundle, "--input", frame, "-o", "out.npz").code == 0
    first = (tmp_path / "out.npz").read_bytes()
    ran = repsimc("run", bundle, "--input", frame, "-o", "out.npz")
    assert "outputs written to out.npz" in ran.out
    assert (tmp_path / "out.npz").read_bytes() == first
    with np.load(tmp_path / "out.npz") as arrays:
        assert sorted(arrays) == ["a/y", "b/y"]
        assert arrays["a/y"].tolist() == [[0.5, -1.0, 2.0]]


def test_run_takes_an_npz_keyed_by_input(repsimc: Call, bundle: Path, frames: Path) -> None:
    with np.load(frames) as arrays:
        np.savez(frames.with_name("one.npz"), x=arrays["x"][:1])
    assert repsimc("run", bundle, "--input", "one.npz").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--input", "none.npy"], 3, "none.npy"),
        (["--input", "frame.npy", "--model", "c"], 2, "no model 'c'"),
        (["--input", "z=frame.npy"], 3, "'z' is neither a model nor an input"),
        (["--input", "x=frame.npy", "--input", "x=frame.npy"], 2, "given twice"),
        (["--input", "frame.npy", "--input", "frame.npy"], 2, "does not say which input"),
        (["--input", "wide.npy"], 3, "needs float32"),
        (["--input", "pickled.npy"], 3, "unpickling runs code"),
        (["--input", "frame.txt"], 3, "frame.txt is no frame"),
        ([], 2, "--input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_run_refuses(
    repsimc: Call,
    bundle: Path,
    frame: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    said: str,
) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((1, 3)))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    ran = repsimc("run", bundle, *words)
    assert ran.code == code
    assert said in ran.err and "Traceback" not in ran.err


# -- inspect -----------------------------------------------------------------------------


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


# -- bench and passes --------------------------------------------------------------------


def test_bench_sets_merged_beside_apart(repsimc: Call, bundle: Path) -> None:
    ran = repsimc("bench", bundle, "--runs", 2, "--warmup", 0, "--threads", 1)
    assert ran.code == 0, ran.err
    assert "merged / apart" in ran.out and "p99" in ran.out


def test_passes_are_listed_in_order(repsimc: Call) -> None:
    data = json.loads(repsimc("passes", "--format", "json").out)
    exact = {item["name"]: item["exact"] for item in data["passes"]}
    assert list(exact)[:2] == ["normalise", "share-equal-weights"]
    assert exact["drop-dead"] is True
    assert exact["share-prefix"] is exact["refit"] is False
    assert all(item["what"] for item in data["passes"])
    assert "share-prefix" in repsimc("passes").out
