"""What a compilation with few bits tells: bytes by bits, what stays in float, the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repsimc.compiler.cli.main import main
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.explore.exploration import ExploreOptions, explore_models
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.reports.precision import precision_grid
from repsimc.compiler.reports.rewrites import rewrites_grid
from tests.end_to_end.conftest import save_all
from tests.nets.networks import pyramid, smooth_images

KIND = "store-in-few-bits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all(tmp_path_factory.mktemp("nets"), {"a": pyramid(0, (16, 24, 32, 40))})


def options_of(folder: Path, **wishes: object) -> CompileOptions:
    asked: dict[str, object] = {"calibration": smooth_images(200), "metrics": {"a": "variance"}}
    return CompileOptions(models=(("a", folder / "a.onnx"),), **(asked | wishes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rounded(folder: Path) -> CompileResult:
    return compile_models(
        options_of(folder, precision="int8", only="precision", output=folder / "bundle")
    )


def test_bytes_by_bits_add_up_and_most_stand_in_8(rounded: CompileResult) -> None:
    report = rounded.report
    (model,) = report.models
    assert model.weights_by_bits == report.weights_by_bits
    assert sum(report.weights_by_bits.values()) == report.weights_after_nbytes
    assert report.weights_by_bits["8"] > 0.8 * report.weights_after_nbytes
    assert {action.series for action in report.actions} == {"a: weights in 8 bits"}
    told, rows = precision_grid(report), rewrites_grid(report)
    assert told is not None and told.rows[0][0] == "a"
    assert rows is not None and (len(rows.rows) == 1) == (len(report.actions) > 3)
    assert len(rounded.plan.actions) == len(report.actions)


def test_inspect_tells_the_same_of_the_bundle_and_of_its_graph(
    rounded: CompileResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rounded.bundle is not None
    graph = rounded.bundle / "merged.onnx"
    assert main(["inspect", str(graph), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights_by_bits"] == rounded.report.weights_by_bits
    assert main(["inspect", str(rounded.bundle)]) == 0
    assert "weights by the bits that they are stored in" in capsys.readouterr().out


def test_what_a_budget_leaves_in_float_is_told_with_what_it_would_lose(folder: Path) -> None:
    result = compile_models(
        options_of(folder, precision="int8", only="precision", budget="70%", min_fidelity=0.9)
    )
    (model,) = result.report.models
    stored = {node for one in result.plan.actions for node in one.action.to_json()["nodes"]}
    left = [one for one in model.in_float if one.why == "not in the plan"]
    assert left and all(one.predicted_loss is not None for one in left)
    assert not {f"a/{one.operator}" for one in left} & stored
    # Of a plan that is replayed nothing is predicted.
    again = compile_models(options_of(folder, precision="int8", min_fidelity=0.9), plan=result.plan)
    (model,) = again.report.models
    assert [one.operator for one in model.in_float if one.why == "not in the plan"] == [
        one.operator for one in left
    ]
    assert all(one.predicted_loss is None for one in model.in_float)


def test_without_frames_nothing_is_rounded_and_a_note_says_so(folder: Path) -> None:
    result = compile_models(options_of(folder, precision="int8", calibration=None, metrics={}))
    assert any("no weight was stored in few bits" in note for note in result.report.notes)
    assert precision_grid(result.report) is None
    plain = compile_models(options_of(folder, calibration=None, metrics={}))
    assert not any("few bits" in note for note in plain.report.notes)


def test_a_front_has_points_with_weights_in_few_bits_and_their_commands_say_so(
    folder: Path,
) -> None:
    options = options_of(folder, precision="auto", output=folder / "front")
    found = explore_models(options, ExploreOptions(points=4, measured=1))
    last = found.points[-1]
    assert any(one.action.kind == KIND for one in last.plan.actions)
    assert "in few bits" in last.summary
    assert last.weights_nbytes < 0.3 * found.weights_apart_nbytes
    assert "--precision auto" in last.command
    plain = explore_models(options_of(folder), ExploreOptions(points=4, measured=0))
    assert not any(one.action.kind == KIND for p in plain.points for one in p.plan.actions)
