"""repsimc depth: the curve, a pick compiled, and every kind of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc import load
from repsimc.compiler.cli.main import main
from tests.nets.networks import Net
from tests.nets.residual import CHANNELS, block, images, residual_net

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, frames.npz without labels, labelled.npz with `label`."""
    place = tmp_path_factory.mktemp("depth")
    onnx.save(residual_net(4, scale=0.3), place / "net.onnx")
    np.savez(place / "frames.npz", x=images(160))
    x = images(60, seed=2)
    np.savez(place / "labelled.npz", x=x, label=np.arange(60) % 5)
    return place


@pytest.fixture
def depth(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`depth("--pick", "1")` runs the command on net.onnx: exit code, stdout, stderr."""

    def run(*words: object, model: str = "net.onnx", calib: bool = True) -> tuple[int, str, str]:
        given = ["--calib", folder / "frames.npz"] if calib else []
        code = main(["depth", str(folder / model), *map(str, [*given, *words])])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_curve_falls_in_cost_and_names_regions(depth: Run, tmp_path: Path) -> None:
    code, out, _ = depth("--format", "json", "-o", tmp_path / "curve")
    assert code == 0
    points = json.loads(out)["points"]
    assert len(points) == 5
    assert [point["regions"] for point in points] == [0, 1, 2, 3, 4]
    macs = [point["macs"] for point in points]
    assert macs == sorted(macs, reverse=True)
    assert {point["removed"] for point in points[1:]} == {
        "stem .. b0",
        "b0 .. b1",
        "b1 .. b2",
        "b2 .. b3",
    }
    assert all(point["latency_seconds"] > 0 for point in points)
    assert sorted(path.name for path in (tmp_path / "curve").iterdir()) == [
        "depth.json",
        "depth.png",
        "plan.json",
    ]


def test_a_pick_becomes_a_bundle_that_runs(depth: Run, tmp_path: Path) -> None:
    code, _, err = depth("--pick", 2, "--most", 2, "-o", tmp_path / "d")
    assert code == 0, err
    bundle = load(tmp_path / "d" / "bundle")
    assert bundle.run(images(1))["net"]["y"].shape == (1, 5)
    plan = json.loads((tmp_path / "d" / "plan.json").read_text())
    assert [action["kind"] for action in plan["actions"]] == ["collapse", "collapse"]
    merged = onnx.load(tmp_path / "d" / "bundle" / "merged.onnx")
    assert sum(node.op_type == "Conv" for node in merged.graph.node) == 1 + 2 * 2


def test_the_same_call_gives_the_same_bundle(depth: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert depth("--pick", 1, "--most", 1, "-o", tmp_path / name)[0] == 0
    one, two = (
        (tmp_path / name / "bundle" / "merged.onnx").read_bytes() for name in ("one", "two")
    )
    assert one == two


def test_accuracy_needs_labels_and_is_measured_with_them(depth: Run, folder: Path) -> None:
    words = ("--data", folder / "labelled.npz", "--labels", "label", "--most", 1)
    code, out, _ = depth("--format", "json", *words)
    assert code == 0
    assert all(0 <= point["accuracy"]["y"] <= 1 for point in json.loads(out)["points"])
    code, _, err = depth("--data", folder / "labelled.npz")
    assert code == 2
    assert "--labels go together" in err


def test_a_floor_takes_the_most_regions_that_keep_it(depth: Run, tmp_path: Path) -> None:
    code, out, _ = depth("--min-fidelity", 0.5, "--format", "json", "-o", tmp_path / "d")
    told = json.loads(out)
    assert code == 0
    assert told["picked"] >= 1
    assert all(
        output["value"] >= 0.5
        for model in told["compiled"]["models"]
        for output in model["fidelity"]
    )


def test_where_every_region_matters_the_first_point_is_told(
    depth: Run, folder: Path, tmp_path: Path
) -> None:
    net = Net()
    x = block(net, net.relu(net.conv("x", 3, CHANNELS)), CHANNELS, "b0", 3.0)
    net.conv(x, CHANNELS, 2, out="y")  # maps, judged by explained variance
    onnx.save(net.model(x=["N", 3, 8, 8]), folder / "rough.onnx")
    words = ("--min-fidelity", 0.99999, "-o", tmp_path / "d")
    code, out, err = depth(*words, model="rough.onnx")
    assert code == 4
    assert "every region of rough matters" in err
    assert "is 0." in err
    assert not out
    assert not (tmp_path / "d").exists()


def test_a_model_without_regions_is_refused(depth: Run, folder: Path) -> None:
    net = Net()
    net.head(net.node("Relu", "x"), 3, 5)
    onnx.save(net.model(x=["N", 3, 8, 8]), folder / "flat.onnx")
    code, _, err = depth(model="flat.onnx")
    assert code == 3
    assert "has no region that could go" in err


def test_refused_regions_are_named(depth: Run, folder: Path) -> None:
    net = Net()
    x = block(net, net.relu(net.conv("x", 3, CHANNELS), out="stem"), CHANNELS, "b0")
    net.head(block(net, x, CHANNELS, "b1"), CHANNELS, 5)
    onnx.save(net.model(("y", "b0_h"), x=["N", 3, 8, 8]), folder / "tapped.onnx")
    code, out, _ = depth("--format", "json", model="tapped.onnx")
    assert code == 0
    refused = json.loads(out)["refused"]
    assert any("is a model's output" in one["reason"] for one in refused)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--pick", 9), 2, "more than the 4 regions"),
        (("--pick", 0), 2, "takes nothing out"),
        (("--pick", 1, "--min-fidelity", 0.9), 2, "two ways to choose"),
        (("--min-fidelity", 1.5), 2, "is not between 0 and 1"),
    ],
)
def test_impossible_wishes(depth: Run, tmp_path: Path, words: object, code: int, told: str) -> None:
    got, _, err = depth(*words, "-o", tmp_path / "d")  # type: ignore[misc]
    assert got == code
    assert told in err
    assert not (tmp_path / "d").exists()


def test_frames_are_needed(depth: Run) -> None:
    code, _, err = depth(calib=False)
    assert code == 2
    assert "--calib" in err


def test_other_files_are_not_overwritten(depth: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = depth("--most", 1, "-o", tmp_path)
    assert code == 2
    assert "holds other files" in err
