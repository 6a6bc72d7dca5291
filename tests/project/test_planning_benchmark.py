"""The pure parts of benchmarks/planning.py and what it measures by; none needs the zoo."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.frontends.onnx import import_model
from repsimc.compiler.graph.program import Program, Source
from repsimc.compiler.planning.limits import Limits
from repsimc.compiler.structure.cost import program_cost
from tests.nets.networks import Net, smooth_images

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
Importer = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def wide(rank: int = 6) -> Program:
    """A network whose one hidden layer of 24 units spans only `rank` directions: no activation."""
    net = Net(3)
    first = net.normal(24, rank) @ net.normal(rank, 16)
    x = net.node("MatMul", "x", net.weight(first.T))
    net.node("MatMul", x, net.weight(net.normal(24, 10)), out="y")
    model = net.model(x=("N", 16))
    return import_model(model, "net", Source(Path("net.onnx"), 0, "0" * 64))


class Rows:
    """Frames for one input, in two batches."""

    def __init__(self, x: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self._x = x

    def batches(self, inputs: Any) -> Any:
        for part in np.array_split(self._x, 2):
            yield dict.fromkeys(inputs, part)


def outputs(program: Program, x: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    part = Executable(program, None, [value.name for value in program.graph.outputs])
    return part({part.inputs[0]: x})[0]


# -- baselines -------------------------------------------------------------------------------------


def test_compensation_is_exact_where_the_kept_units_span_the_others(module: Importer) -> None:
    baselines = module("baselines")
    program = wide(rank=6)
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    layers = baselines.hidden_layers(program)
    assert list(layers.values()) == [24]
    widths = dict.fromkeys(layers, 12)
    before = outputs(program, x)
    bare = outputs(baselines.narrowed(program, widths), x)
    made = baselines.compensated(program, widths, Rows(x))
    off, off_bare = (np.square(y - before).sum() for y in (outputs(made, x), bare))
    assert off < 1e-4 * np.square(before).sum() < off_bare
    assert program_cost(made).macs == program_cost(program).macs // 2
    assert np.array_equal(outputs(program, x), before)  # the original is as it was


def test_what_is_not_narrowed_stays(module: Importer) -> None:
    baselines = module("baselines")
    program = wide()
    x = smooth_images(8, 1, size=4).reshape(8, 16)
    widths = baselines.hidden_layers(program)
    np.testing.assert_allclose(
        outputs(baselines.narrowed(program, widths), x), outputs(program, x), atol=1e-5
    )


def test_grams_are_not_centred(module: Importer) -> None:
    baselines = module("baselines")
    program = wide()
    x = 5 + np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    ((value, gram),) = baselines.gram_matrices(
        program, list(baselines.hidden_layers(program)), Rows(x)
    ).items()
    (hidden,) = Executable(program, None, [value])({program.graph.inputs[0].name: x})
    np.testing.assert_allclose(gram, hidden.T @ hidden, rtol=1e-4)


def test_units_with_the_largest_weights_stay(module: Importer) -> None:
    baselines = module("baselines")
    program = wide()
    (value,) = baselines.hidden_layers(program)
    ((_, kept),) = baselines.largest_units(program, {value: 5}).items()
    weight = next(node for node in program.graph.nodes).inputs[1].values
    norms = np.linalg.norm(weight, axis=0)
    assert sorted(kept) == sorted(np.argsort(norms)[-5:])


@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_widths_are_within_the_limits_and_close_to_them(module: Importer, share: float) -> None:
    baselines = module("baselines")
    program = wide()
    bills, layers = Bills(program), baselines.hidden_layers(program)
    limits = Limits(macs=int(share * program_cost(program).macs))
    even = baselines.even_widths(bills, layers, limits)
    (value,) = even
    assert baselines.within(bills, even, limits)
    assert not baselines.within(bills, {value: even[value] + 1}, limits)
    drawn = baselines.random_widths(bills, layers, limits, 0)
    assert drawn is not None and baselines.within(bills, drawn, limits)
    assert drawn == baselines.random_widths(bills, layers, limits, 0)


def test_limits_out_of_reach_are_told(module: Importer) -> None:
    baselines = module("baselines")
    program = wide()
    bills, layers = Bills(program), baselines.hidden_layers(program)
    assert baselines.even_widths(bills, layers, Limits(macs=1)) is None
    assert baselines.random_widths(bills, layers, Limits(macs=1), 0) is None
    found = baselines.limits_of({"budget": "50%", "max_macs": "25%"}, program)
    cost = program_cost(program)
    assert found == Limits(cost.weights_nbytes // 2, cost.macs // 4)


# -- plain passes ----------------------------------------------------------------------------------


def test_a_pass_runs_every_frame_once(
    module: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = module("plain_passes")
    net = Net(1)
    net.head(net.relu(net.conv("x", 1, 8)), 8, 10)
    np.savez(tmp_path / "frames.npz", input=smooth_images(150, 1))
    runs: list[int] = []

    class Counting(plain.ort.InferenceSession):  # type: ignore[misc, name-defined]
        def run(self, names: Any, feeds: Any) -> Any:
            runs.append(len(next(iter(feeds.values()))))
            return super().run(names, feeds)

    monkeypatch.setattr(plain.ort, "InferenceSession", Counting)
    for name, batch, expected in (("free", "N", [64, 64, 64, 22]), ("fixed", 60, [60, 60, 60])):
        onnx.save(net.model(x=(batch, 1, 8, 8)), tmp_path / f"{name}.onnx")
        runs.clear()
        assert plain.pass_seconds([(name, tmp_path / f"{name}.onnx")], tmp_path / "frames.npz") > 0
        assert runs == expected  # the first opens the session's memory, and is not counted


def test_batches_are_those_of_the_compiler(module: Importer) -> None:
    plain = module("plain_passes")
    x = {"x": np.zeros((600, 3, 224, 224), np.float32)}
    assert plain.batch_of("N", x) * x["x"][:1].nbytes <= 8 << 20
    assert plain.batch_of(1, x) == 1
    assert plain.batch_of(-1, {"x": x["x"][..., :2, :2]}) == 64


def test_a_compilation_tells_its_stages_and_what_it_started(module: Importer) -> None:
    models = [("digit", DIGITS / "digit.onnx")]
    found = module("compiling").compiled(models, exact_only=True, dry_run=True)
    assert "reading models" in found.stages
    assert all(seconds >= 0 for seconds in found.stages.values())
    # The files are opened in a process of their own, and it imports ONNX Runtime.
    assert found.processor_seconds > sum(found.stages.values())


def test_stages_that_come_again_are_added_up(
    module: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling = module("compiling")
    clock = iter([1.0, 3.0, 3.0, 4.0, 4.0, 9.0])
    monkeypatch.setattr(compiling.time, "process_time", lambda: next(clock))
    stages = compiling.Stages()
    for title in ("a", "b", "a"):
        stages.stage(title, None)
    stages.done()
    stages.done()
    assert stages.seconds == {"a": 7.0, "b": 1.0}


def counted(module: Importer, stages: dict[str, float], refusal: str = "") -> Any:
    compiled = module("compiling").Compiled(
        None, None, {}, refusal, 9.0, 8.0, 1 << 20, 12.0, stages
    )
    return module("plain_passes").Counted(compiled, 2.0)


def test_evidence_is_counted_in_passes(module: Importer) -> None:
    planning = module("planning")
    first = counted(module, {planning.EVIDENCE[0]: 8.0, planning.EVIDENCE[1]: 4.0})
    second = counted(module, {planning.EVIDENCE[1]: 1.0, "fitting": 5.0})
    assert first.passes == 6.0 and first.in_stages(*planning.EVIDENCE) == 6.0
    record = planning.resume_records("again", first, second, 1.0)[0]
    assert record.value == 0.5 and record.met
    assert not planning.resume_records("again", first, first, 1.0)[0].met
    refused = counted(module, {}, "BudgetError: too small")
    record = planning.resume_records("again", first, refused, 1.0)[0]
    assert record.value is None and record.met is False and "too small" in record.extra


def test_a_refusal_is_no_fast_compilation(module: Importer) -> None:
    plain, planning = module("plain_passes"), module("planning")
    made, refused = counted(module, {"fits": 3.0}), counted(module, {}, "BudgetError: too small")
    assert [record.met for record in plain.passes_records("a", made, 6, 2)] == [True, True]
    assert [record.met for record in plain.passes_records("a", made, 5, 0.5)] == [False, False]
    assert [record.met for record in plain.passes_records("a", refused, 6, 2)] == [False, False]
    assert planning.refusal_record("a", refused, 6).met
    assert not planning.refusal_record("a", refused, 5).met
    assert not planning.refusal_record("a", made, 6).met


# -- predictions -----------------------------------------------------------------------------------


def test_agreement_is_of_logarithms(module: Importer) -> None:
    agreement = module("combined_damage").agreement
    exact = [(10.0**-k, 2 * 10.0**-k) for k in range(5)]
    r, ratio = agreement(exact)
    assert r == pytest.approx(1) and ratio == pytest.approx(2)
    assert agreement(exact[:2]) == (None, None)
    assert agreement([(0.1, 0.1)] * 4) == (None, pytest.approx(1))
    r, ratio = agreement([(0.0, 0.0), (0.1, 0.2), (0.4, 0.3)])
    assert r is not None and np.isfinite(r) and ratio == pytest.approx(1)


def test_combinations_are_drawn_tried_and_predicted(module: Importer, tmp_path: Path) -> None:
    combined_damage = module("combined_damage")
    net = Net(5)
    x = net.relu(net.conv("x", 1, 16))
    for _ in range(2):
        x = net.relu(net.node("Add", x, net.conv(net.relu(net.conv(x, 16, 32)), 32, 16)))
    net.head(x, 16, 10)
    onnx.save(net.model(x=("N", 1, 8, 8)), tmp_path / "net.onnx")
    np.savez(tmp_path / "frames.npz", input=smooth_images(160, 1))
    models = [("net", tmp_path / "net.onnx")]
    combined = combined_damage.Combined(models, tmp_path / "frames.npz")
    drawn = combined.drawn(4)
    assert len({frozenset(one) for one in drawn}) == len(drawn) >= 3
    assert all(combined.bench.bills.bill(one) is not None for one in drawn)
    found = combined.measured(drawn[:1])
    forecast = combined_damage.Forecast()
    predicted = combined.predicted(found[0], forecast)
    (error,) = predicted.values()
    assert error > 0
    forecast = combined_damage.Forecast({c.action.kind: 3.0 for c in found[0].candidates})
    (scaled,) = combined.predicted(found[0], forecast).values()
    assert scaled == pytest.approx(3 * error)


# -- the command -----------------------------------------------------------------------------------


def run(*arguments: str, zoo: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "planning.py"), *arguments],
        env={**os.environ, "REPSIMC_ZOO": str(zoo)},
        capture_output=True,
        text=True,
    )


def test_without_a_zoo_it_says_so(tmp_path: Path) -> None:
    done = run("--quick", "--json", str(tmp_path / "out.json"), zoo=tmp_path / "nowhere")
    assert done.returncode == 2
    assert "zoo not found" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_help_names_options_and_every_case(module: Importer) -> None:
    done = run("--help", zoo=Path())
    assert done.returncode == 0
    words = "".join(done.stdout.split())  # lines may break at any hyphen
    for word in ("--quick", "--json", "--case", "--strict", "REPSIMC_ZOO"):
        assert word in words
    planning, round_ = module("planning"), module("measuring").Round(False, Path(), None)
    assert set(planning.jobs(round_)) == {*planning.FULL, *planning.QUICK}
    for name in planning.jobs(round_):
        assert name in words


def test_the_short_round_holds_nothing_against_a_bar(module: Importer) -> None:
    figure = module("records").figure
    (record,) = module("planning").unjudged(lambda: [figure("a", 2.0, "passes", "<= 1", "why")])
    assert (record.value, record.bar, record.met, record.extra) == (2.0, None, None, "why")


def test_a_refused_case_misses_every_bar_it_has(module: Importer) -> None:
    planning, cases = module("planning"), module("planning_cases")
    refused = module("compiling").Compiled(None, None, {}, "BudgetError: too small", 1, 1, 1)
    for name, case in cases.CASES.items():
        bars = dataclasses.asdict(case.bars)
        asked = [key for key, bar in bars.items() if bar is not None]
        found = planning.result_records(name, case, [], refused, None)
        missed = [record for record in found if record.met is False]
        # What compiling takes is known of a refusal, too.
        assert len(missed) == len(set(asked) - {"passes", "peak_mib"})
        assert all("too small" in record.extra for record in missed)


def test_nothing_inexact_costs_nothing_and_losing_for_nothing_everything(module: Importer) -> None:
    price = module("planning").price_of
    assert price(1e-9, 0.3, 0) == 0
    assert price(0.01, 0.1, 2) == pytest.approx(0.1)
    assert price(0.01, 0.0, 1) == float("inf")


def test_what_is_exact_is_not_saved_by_the_plan(module: Importer) -> None:
    models = [(name, DIGITS / f"{name}.onnx") for name in ("digit", "parity")]
    found = module("compiling").compiled(models, exact_only=True, dry_run=True)
    saved_share = module("planning").saved_share
    assert saved_share(found) == 0
    expected = [
        {"weights_saved_nbytes": found.report.weights_before_nbytes // 10, "macs_saved": 0},
        {"weights_saved_nbytes": 0, "macs_saved": found.report.macs_before // 4},
    ]
    planned = dataclasses.replace(found, plan={"actions": [{"expected": e} for e in expected]})
    assert saved_share(planned) == pytest.approx(0.25, rel=1e-3)


def test_made_up_frames_are_smooth_and_the_same_each_time(module: Importer) -> None:
    frames = module("planning").smooth_frames(2, 56)
    assert frames.shape == (2, 3, 56, 56) and frames.dtype == np.float32
    assert np.array_equal(frames, module("planning").smooth_frames(2, 56))
    near = np.corrcoef(frames[..., 1:].ravel(), frames[..., :-1].ravel())[0, 1]
    assert near > 0.5
