"""From model files to a bundle: what is shared, measured, written, and the same every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import repsimc
from repsimc.compiler.bundle.verification import verify_bundle
from repsimc.compiler.case import frames_of, read_models
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.progress import NoProgress
from repsimc.compiler.reports.report import Report
from repsimc.runtime.session import load
from tests.end_to_end.conftest import WIDTHS, content, save_all, siblings
from tests.nets.networks import Array, perturbed, pyramid, smooth_images
from tests.programs import run

Work = Callable[..., CompileResult]
TEST = smooth_images(200, seed=7)


def agreement(bundle: Path, folder: Path, name: str, x: Array = TEST) -> float:
    """Share of frames on which the bundle and the original pick the same class."""
    found = load(bundle).run(x)[name]["y"]
    wanted = run(folder / f"{name}.onnx", {"x": x})["y"]
    return float(np.mean(found.argmax(1) == wanted.argmax(1)))


def loss(result: CompileResult) -> float:
    return sum(1 - output.value for m in result.report.models for output in m.fidelity)


@pytest.fixture(scope="module")
def shared(work: Work, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    return work(budget="70%", output=tmp_path_factory.mktemp("shared") / "bundle")


def test_three_relatives_fit_into_a_budget(shared: CompileResult, family: Path) -> None:
    report = shared.report
    assert report.budget_met and report.budget_counts == "weights"
    assert report.weights_after_nbytes <= 0.7 * report.weights_before_nbytes
    assert report.memory_after_nbytes < report.memory_before_nbytes
    assert report.macs_after < report.macs_before
    assert shared.plan.actions
    verify(shared.program)
    for model in report.models:
        (output,) = model.fidelity
        assert (output.metric, output.floor) == ("top-1 agreement", 0.9)
        assert output.met and output.frames == report.frames_held_out == 100
        assert shared.bundle is not None
        # On frames that repsimc has never seen the figure holds but for sampling.
        assert agreement(shared.bundle, family, model.name) > output.value - 0.1
    assert report.frames_fit == 300 and report.inputs_tied


def test_verify_tells_the_same_figures_of_the_same_frames(
    shared: CompileResult, work: Work, family: Path, tmp_path: Path
) -> None:
    models = tuple((name, family / f"{name}.onnx") for name in "abc")
    options = CompileOptions(models=models, calibration=family / "frames.npz")
    frames = frames_of(options, read_models(options, NoProgress()))
    assert frames is not None and shared.bundle is not None
    rows = frames.held_out_rows("a")
    np.savez(tmp_path / "held.npz", x=np.load(family / "frames.npz")["x"][rows])
    found = verify_bundle(load(shared.bundle), tmp_path / "held.npz")
    told = {  # blends are made of frames that fits have not seen: verify does not know which
        model.name: replace(model.fidelity[0], stressed=None, stressed_floor=None, explained=None)
        for model in shared.report.models
    }
    # Nor does it know that nothing moves an output, which then rests on no sample.
    same = {one.model: one.fidelity for one in found}
    same |= {name: replace(same[name], lower=None) for name in same if told[name].lower is None}
    assert same == told


def test_the_report_adds_up(shared: CompileResult) -> None:
    report = shared.report
    assert sum(m.weights_after_nbytes for m in report.models) == report.weights_after_nbytes
    assert sum(m.weights_before_nbytes for m in report.models) == report.weights_before_nbytes
    for planned in shared.plan.actions:
        action = planned.action
        (entry,) = [s for s in report.model(action.receiver).sharing if not s.exact]
        assert entry.donor == action.donor
        assert entry.receiver_values == tuple(
            link.receiver_value.removeprefix(f"{action.receiver}/") for link in action.links
        )
        assert 0 < entry.depth < 1
        assert planned.fidelity is not None and planned.fidelity >= 0.9
        assert planned.weights_saved_nbytes > 0


def test_what_is_written_is_what_is_returned(shared: CompileResult) -> None:
    assert shared.bundle is not None
    written = {path.name for path in shared.bundle.iterdir()}
    assert {"manifest.json", "merged.onnx", "plan.json", "report.json"} <= written
    assert (
        Report.from_json(json.loads((shared.bundle / "report.json").read_text())) == shared.report
    )
    assert json.loads((shared.bundle / "plan.json").read_text()) == shared.plan.to_json()
    graph = onnx.load(shared.bundle / "merged.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.input] == ["x"]
    assert [value.name for value in graph.graph.output] == ["a/y", "b/y", "c/y"]
    marks = {
        entry.value
        for node in graph.graph.node
        for entry in node.metadata_props
        if entry.key == "repsimc.pass"
    }
    assert marks <= {"share-prefix", "refit"} and marks
    manifest = load(shared.bundle).manifest
    assert [entry.fidelity[0]["value"] for entry in manifest.models] == [
        model.fidelity[0].value for model in shared.report.models
    ]


def test_the_same_inputs_give_the_same_bytes(
    work: Work, shared: CompileResult, tmp_path: Path
) -> None:
    again = work(budget="70%", output=tmp_path / "bundle")
    assert shared.bundle is not None and again.bundle is not None
    first, second = content(shared.bundle), content(again.bundle)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_replayed_plan_gives_the_same_graph(
    work: Work, shared: CompileResult, tmp_path: Path
) -> None:
    assert shared.bundle is not None
    plan = shared.bundle / "plan.json"
    again = work(budget="70%", output=tmp_path / "bundle", plan=plan)
    assert again.bundle is not None
    first, second = content(shared.bundle), content(again.bundle)
    # What it was made from is another: a plan was given.
    assert [name for name in first if first[name] != second[name]] == ["manifest.json"]
    told = [json.loads(files["manifest.json"]) for files in (first, second)]
    assert told[0].pop("made_from") != told[1].pop("made_from")
    assert told[0] == told[1]
    # The budget plays no part in what is replayed.
    assert work(plan=plan).report.weights_after_nbytes == shared.report.weights_after_nbytes


def test_another_seed_splits_the_frames_otherwise(work: Work, shared: CompileResult) -> None:
    other = work(budget="70%", seed=1)
    assert other.plan.seed == 1
    assert repr(other.report) != repr(shared.report)


def test_without_a_budget_the_most_is_saved(work: Work, shared: CompileResult) -> None:
    found = work()
    assert found.report.budget_nbytes is None and found.bundle is None
    assert found.report.weights_after_nbytes <= shared.report.weights_after_nbytes
    assert all(output.met for model in found.report.models for output in model.fidelity)
    stricter = work(min_fidelity=0.99)
    assert stricter.report.weights_after_nbytes >= found.report.weights_after_nbytes
    assert all(output.met for model in stricter.report.models for output in model.fidelity)


def test_more_budget_never_means_less_fidelity(work: Work) -> None:
    # By variance: a frame of the hundred that changes its class is a coarse measure.
    metrics = dict.fromkeys("abc", "variance")
    budgets = ("65%", "75%", "85%", "95%", "100%")
    found = [work(budget=budget, metrics=metrics) for budget in budgets]
    losses = [loss(result) for result in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] == 0
    # Nothing is given up that the budget does not ask for.
    assert not found[-1].plan.actions


def test_a_budget_in_bytes_counts_all_predicted_memory(work: Work) -> None:
    free = work()
    report = free.report
    between = (report.memory_after_nbytes + work(exact_only=True).report.memory_after_nbytes) // 2
    found = work(budget=f"{between}B").report
    assert (found.budget_nbytes, found.budget_counts) == (between, "memory")
    assert found.budget_met and found.memory_after_nbytes <= between


def test_a_dry_run_writes_nothing(work: Work, tmp_path: Path) -> None:
    result = work(budget="90%", output=tmp_path / "bundle", dry_run=True)
    assert result.bundle is None and result.plan.actions
    assert list(tmp_path.iterdir()) == []


def test_floors_and_metrics_go_by_output(work: Work) -> None:
    result = work(
        models="ab",
        metrics={"b": "variance"},
        output_fidelity={"b/y": 0.5, "a": 0.97},
    )
    floors = {
        model.name: (model.fidelity[0].metric, model.fidelity[0].floor)
        for model in result.report.models
    }
    assert floors == {"a": ("top-1 agreement", 0.97), "b": ("explained variance", 0.5)}
    assert all(output.met for model in result.report.models for output in model.fidelity)


# -- what must not be shared -----------------------------------------------------------------------


def test_without_frames_only_what_is_exact_is_shared(family: Path) -> None:
    models = (("a", family / "a.onnx"), ("again", family / "a.onnx"), ("b", family / "b.onnx"))
    result = compile_models(CompileOptions(models=models))
    report = result.report
    assert not result.plan.actions
    assert report.model("again").sharing[0].exact
    assert report.model("again").sharing[0].donor == "a"
    assert report.weights_after_nbytes == pytest.approx(
        2 / 3 * report.weights_before_nbytes, rel=0.02
    )
    assert all(not model.fidelity for model in report.models)
    (missing,) = [note for note in report.notes if "--calib" in note]
    assert "no frames" in missing
    assert report.ties == ("a.x = again.x = b.x (the same name)",)


def test_exact_only_measures_and_changes_nothing(work: Work) -> None:
    result = work(exact_only=True)
    assert not result.plan.actions
    assert [model.fidelity[0].value for model in result.report.models] == [1, 1, 1]


def test_unrelated_models_are_left_alone_with_a_reason(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((300, 3, 8, 8)).astype(np.float32)
    save_all(tmp_path, {"a": pyramid(0, WIDTHS), "b": pyramid(5, WIDTHS)})
    result = compile_models(
        CompileOptions(
            models=tuple((name, tmp_path / f"{name}.onnx") for name in "ab"),
            calibration=noise,
            min_fidelity=0.999,
        )
    )
    assert not result.plan.actions
    assert set(result.plan.left_alone) == {"a", "b"}
    for name, why in result.plan.left_alone.items():
        assert "fidelity floor" in why or "no representation" in why
        assert f"{name} is left alone: {why}" in result.report.notes
    assert [model.fidelity[0].value for model in result.report.models] == [1, 1]


def streams(folder: Path) -> dict[str, Path]:
    """The same frames for a and b, but differently prepared."""
    x = smooth_images(300)
    paths = {name: folder / f"frames_{name}.npz" for name in "ab"}
    np.savez(paths["a"], x=x)
    np.savez(paths["b"], x=x * 0.5 + 0.1)
    return paths


def test_separate_streams_share_weights_but_no_representation(work: Work, tmp_path: Path) -> None:
    base = pyramid(0, WIDTHS)
    folder = save_all(
        tmp_path / "models", {"a": base, "b": perturbed(base, 0.05, 1, only=["w4", "w6"])}
    )
    paths = streams(tmp_path)
    apart = work(models="ab", folder=folder, calibration=paths)
    assert not apart.plan.actions and not apart.report.inputs_tied
    assert apart.report.frames_held_out == 150  # of two streams
    assert set(apart.plan.left_alone.values()) == {"no other model sees the same frames"}
    # The first two layers are equal and stay one copy; each model runs its own.
    assert apart.report.weights_after_nbytes < 0.85 * apart.report.weights_before_nbytes
    assert apart.report.macs_after == apart.report.macs_before
    # Said to be the same frames (say, differently prepared), they may share.
    together = work(models="ab", folder=folder, calibration=paths, same_frames=True, min_fidelity=0)
    assert together.plan.actions


def test_a_single_model_is_compiled_too(work: Work, family: Path, tmp_path: Path) -> None:
    result = work(models="a", output=tmp_path / "bundle")
    assert not result.plan.actions and result.report.models[0].fidelity[0].value == 1
    assert agreement(tmp_path / "bundle", family, "a") == 1


def fixed(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    del copy.graph.value_info[:]
    copy.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(copy)


def test_models_of_a_fixed_batch_are_calibrated_in_it(tmp_path: Path) -> None:
    folder = save_all(tmp_path, {name: fixed(m, 4) for name, m in siblings().items()})
    result = compile_models(
        CompileOptions(
            models=tuple((name, folder / f"{name}.onnx") for name in "abc"),
            calibration=smooth_images(203),
            output=tmp_path / "bundle",
            min_fidelity=0.8,
        )
    )
    assert result.plan.actions
    assert result.report.frames_fit % 4 == result.report.frames_held_out % 4 == 0
    assert load(tmp_path / "bundle").run(TEST[:4])["a"]["y"].shape == (4, 5)


def test_models_of_different_fixed_batches_are_compared_each_in_its_own(tmp_path: Path) -> None:
    base = pyramid(0, WIDTHS)
    folder = save_all(tmp_path, {"a": fixed(base, 4), "b": fixed(perturbed(base, 0.05), 2)})
    result = compile_models(
        CompileOptions(
            models=tuple((name, folder / f"{name}.onnx") for name in "ab"),
            calibration=smooth_images(203),
        )
    )
    assert [model.fidelity[0].value for model in result.report.models] == [1, 1]


# -- from Python -----------------------------------------------------------------------------------


def test_compile_and_load_from_python(family: Path, tmp_path: Path) -> None:
    bundle = repsimc.compile(
        [family / "a.onnx", str(family / "b.onnx")],
        budget="90%",
        calibration=smooth_images(300),
        output=tmp_path / "bundle",
        min_fidelity=0.9,
        names={"second": family / "b.onnx"},
    )
    assert bundle.models == ("a", "second")
    outputs = repsimc.load(tmp_path / "bundle").run(TEST[:3])
    assert {name: set(found) for name, found in outputs.items()} == {"a": {"y"}, "second": {"y"}}
    only = bundle.run({"x": TEST[:3]}, models="second")
    np.testing.assert_allclose(only["second"]["y"], outputs["second"]["y"], atol=1e-5)


def test_calibration_from_python_by_input_or_model(family: Path, tmp_path: Path) -> None:
    x = smooth_images(100)
    paths = [family / "a.onnx", family / "b.onnx"]
    for number, given in enumerate(({"x": x}, {"a": x, "b": x}, str(family / "frames.npz"))):
        bundle = repsimc.compile(
            paths, calibration=given, output=tmp_path / str(number), exact_only=True
        )
        assert bundle.run(TEST[:2])["b"]["y"].shape == (2, 5)


def test_a_plan_may_be_given_from_python(family: Path, work: Work, tmp_path: Path) -> None:
    plan = work(budget="90%").plan
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    bundle = repsimc.compile(
        [family / f"{name}.onnx" for name in "abc"],
        calibration=family / "frames.npz",
        plan=str(tmp_path / "plan.json"),
        min_fidelity=0.9,
        output=tmp_path / "bundle",
    )
    assert (
        json.loads((bundle.path / "plan.json").read_text())["actions"] == plan.to_json()["actions"]
    )


# -- progress --------------------------------------------------------------------------------------


class Recorder(NoProgress):
    """Keeps the stages it is told of."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.ended = False

    def stage(self, title: str, total: int | None = None) -> None:
        assert not self.ended
        self.stages.append(title)

    def done(self) -> None:
        self.ended = True


def test_progress_tells_the_stages_and_ends(family: Path, tmp_path: Path) -> None:
    models: Any = tuple((name, family / f"{name}.onnx") for name in "ab")
    progress = Recorder()
    compile_models(
        CompileOptions(
            models=models,
            calibration=family / "frames.npz",
            min_fidelity=0.9,
            output=tmp_path / "bundle",
        ),
        progress,
    )
    assert progress.ended
    assert progress.stages[0] == "reading models"
    assert progress.stages[-1] == "writing the bundle"
    assert "looking for what could be rewritten" in progress.stages
