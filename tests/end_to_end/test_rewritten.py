"""What a compilation rewrote, told by the command, kept in the bundle, and carried by replays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.cli.main import main
from tests.nets.residual import images, residual_net

HEADING = "rewritten inexactly"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.onnx, frames.npz, and bundle/ of a plan with actions."""
    place = tmp_path_factory.mktemp("rewritten")
    onnx.save(residual_net(3, scale=0.3), place / "a.onnx")
    np.savez(place / "frames.npz", x=images(160))
    words = ["compile", "a.onnx", "--calib", "frames.npz", "--max-macs", "70%"]
    told = [str(place / word) if "." in word else word for word in words]
    assert main([*told, "--min-fidelity", "0.5", "-o", str(place / "bundle")]) == 0
    return place


def test_the_bundle_tells_what_was_rewritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder / "bundle")]) == 0
    out = capsys.readouterr().out
    table = out[out.index(HEADING) :].splitlines()
    plan = json.loads((folder / "bundle" / "plan.json").read_text())
    rows = table[3 : 3 + len(plan["actions"])]
    assert plan["actions"]
    for row, action in zip(rows, plan["actions"]):
        assert row.split()[0] == action["kind"] and f"{action['model']}: " in row
        assert row.rstrip().endswith("%")
    assert any(line.startswith("all together: ") for line in table)
    assert max(map(len, rows)) <= 80


def test_the_report_tells_it_in_the_same_words(folder: Path) -> None:
    report = json.loads((folder / "bundle" / "report.json").read_text())
    plan = json.loads((folder / "bundle" / "plan.json").read_text())
    assert report["predicted_loss"] == pytest.approx(plan["expected"]["predicted"], abs=1e-6)
    for told, action in zip(report["actions"], plan["actions"], strict=True):
        expected = action["expected"]
        assert told["kind"] == action["kind"]
        assert told["weights_saved_nbytes"] == expected["weights_saved_nbytes"]
        assert told["macs_saved"] == expected["macs_saved"]
        assert told["predicted_loss"] == pytest.approx(expected["predicted"], abs=1e-6)
    # Each action has its line in the table, and no note any more.
    assert not any("MACs less" in note for note in report["notes"])


def test_a_replay_carries_what_was_predicted_along(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compile", str(folder / "a.onnx"), "--calib", str(folder / "frames.npz")]
    words += ["--plan", str(folder / "bundle" / "plan.json"), "--min-fidelity", "0.5"]
    assert main([*words, "--dry-run", "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    plan = json.loads((folder / "bundle" / "plan.json").read_text())
    assert again["plan"] == plan
    report = json.loads((folder / "bundle" / "report.json").read_text())
    assert [one["place"] for one in again["actions"]] == [one["place"] for one in report["actions"]]
    assert main([*words, "--dry-run"]) == 0
    assert HEADING in capsys.readouterr().out
