"""The depth curve: regions out of one model one by one, what each costs, and a pick compiled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...passes.pipeline import CLEANING, run_passes
from ..actions.action import Effect
from ..actions.kinds import chosen
from ..case import Case, case_of
from ..driver import CompileResult, compile_models
from ..errors import FidelityError, ModelError, UsageError
from ..execution.latency import latencies
from ..explore.accuracy import Judge, Labelled
from ..fitting.effort import CURVE, TRIAL, Effort
from ..frontends.read import read_model
from ..graph.program import own_name
from ..graph.regions import Refusal, find_regions
from ..options import CompileOptions
from ..output_folders import check_output_folder, write_together
from ..planning.damage import Output, error_of
from ..planning.plan import Plan, PlannedAction, plan_of
from ..planning.removals import (
    Removal,
    Trying,
    region_sites,
    regions_beside,
    removal_order,
)
from ..planning.trial import Trial
from ..planning.workbench import Workbench
from ..progress import NoProgress, Progress
from ..reports.report import OutputFidelity
from .plot import depth_png
from .report import DepthCurve, DepthPoint

RESULT, PICTURE, PLAN, BUNDLE = "depth.json", "depth.png", "plan.json", "bundle"
# Beyond this error the outputs tell little of the original's: the curve ends there.
END_ERROR = 0.5


@dataclass(frozen=True)
class DepthResult:
    """The curve, the regions' order as plans, and what was compiled where a point was picked.

    `plans[k]` takes `k` regions out.
    """

    curve: DepthCurve
    plans: tuple[Plan, ...]
    picked: int | None = None
    compiled: CompileResult | None = None


def depth(
    options: CompileOptions,
    *,
    labelled: Labelled | None = None,
    pick: int | None = None,
    keep: float | None = None,
    most: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DepthResult:
    """How a model's depth trades against its fidelity; compiles a point of the curve if asked.

    `options` name one model and its frames; `output` is the folder to write to (None: nothing).
    `pick` is a number of regions, `keep` the least fidelity: the most regions that keep it, when
    fitted on all frames, are compiled. At most `most` regions are taken out for the curve.

    Raises UsageError, ModelError (a model with no region), DataError, and FidelityError where
    every region costs more than `keep` allows.
    """
    progress = progress or NoProgress()
    try:
        return _depth(options, _Asked(labelled, pick, keep, most), overwrite, progress)
    finally:
        progress.done()


@dataclass(frozen=True)
class _Asked:
    """How far the curve is to go, what is compiled of it, and what accuracy is measured on."""

    labelled: Labelled | None
    pick: int | None
    keep: float | None
    most: int | None

    @property
    def effort(self) -> Effort:
        """Points are measured with more care where one of the plans is compiled."""
        return CURVE if self.pick is None and self.keep is None else TRIAL

    def check(self, options: CompileOptions) -> None:
        """Raises UsageError for what makes no sense."""
        _check(options, self.pick, self.keep, self.most)

    def enough(self, steps: int, error: float, least: float) -> bool:
        """Whether the curve ends after so many steps, with that error and least fidelity."""
        limit = self.most if self.most is not None else self.pick
        if limit is not None and steps >= limit:
            return True
        # A floor needs no curve beyond it; the full fit may still win back a step or two.
        missed = self.keep is not None and least < self.keep - 0.05
        return error > END_ERROR or (missed and self.pick is None and self.most is None)


def _depth(
    options: CompileOptions, asked: _Asked, overwrite: bool, progress: Progress
) -> DepthResult:
    asked.check(options)
    if options.output is not None:
        check_output_folder(options.output, RESULT, overwrite)
    progress.stage("reading the model", None)
    ((name, path),) = options.models
    original = read_model(path, name, options.parse_limits)
    case = case_of([original], options, progress)
    judge = None if asked.labelled is None else Judge(case, asked.labelled)
    bench = Workbench(case, progress)
    sites = regions_beside(region_sites(bench, chosen()), bench.bills, ())
    refused = find_regions(case.program).refused
    if not sites:
        raise ModelError(f"{name} has no region that could go: {_why_none(refused)}")
    if asked.pick is not None and asked.pick > len(sites):
        raise UsageError(
            f"--pick {asked.pick} is more than the {len(sites)} regions of {name}",
            f"pick at most {len(sites)}",
        )
    steps, trials = _measured(bench, removal_order(bench, sites, progress), asked, progress)
    points = _points(case, steps, trials, judge, progress)
    frames = bench.evidence.reference(name, asked.effort).frames.count
    held_out = trials[0].outputs[0].frames if trials[0].outputs else 0
    places = tuple(
        (f"{own_name(one.entry)} .. {own_name(one.exit)}", one.reason) for one in refused
    )
    curve = DepthCurve(name, points, places, frames, held_out)
    result = DepthResult(curve, _plans(case, steps))
    if asked.keep is not None or asked.pick is not None:
        pick = _kept(curve, asked.keep or 0.0) if asked.pick is None else asked.pick
        result = _compiled(options, result, min(pick, len(steps)), asked.keep, progress)
    if options.output is not None:
        _write(result, options.output)
    return result


def _check(options: CompileOptions, pick: int | None, keep: float | None, most: int | None) -> None:
    if len(options.models) != 1:
        raise UsageError("depth looks at one model", "give one ONNX file")
    if options.calibration is None:
        raise UsageError(
            "depth measures on frames, and none were given",
            "give --calib PATH (an .npz keyed by input name, a folder of them, or of images)",
        )
    for what, value in (("--pick", pick), ("--most", most)):
        if value is not None and value < 1:
            raise UsageError(f"{what} {value} takes nothing out", "give 1 or more")
    if pick is not None and most is not None and pick > most:
        raise UsageError(f"--pick {pick} is beyond --most {most}", "leave out --most")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"a fidelity of {keep:g} is not between 0 and 1", "give 0.99, say")


def _why_none(refused: Sequence[Refusal]) -> str:
    if refused:
        return "; ".join(
            f"{own_name(one.entry)} .. {own_name(one.exit)}: {one.reason}" for one in refused[:3]
        )
    return "no part of it has one value in, one value out and weights of its own"


def _measured(
    bench: Workbench, order: Sequence[Removal], asked: _Asked, progress: Progress
) -> tuple[list[Removal], list[Trial]]:
    """The removals of the curve and the trial of each, the unchanged program's first."""
    trying = Trying(bench, asked.effort)
    progress.stage("measuring points of the curve", len(order) + 1)
    trials = [trying(())]
    steps: list[Removal] = []
    for removal in order:
        steps.append(removal)
        trials.append(trying(tuple(one.site.action for one in steps)))
        if asked.enough(len(steps), trials[-1].error, trials[-1].least):
            break
    return steps, trials


def _kept(curve: DepthCurve, keep: float) -> int:
    """The most regions whose trial kept the fidelity, at least one: the full fit may keep it."""
    good = [p.regions for p in curve.points if all(o.value >= keep for o in p.fidelity)]
    return max(1, max(good, default=0))


def _compiled(
    options: CompileOptions, result: DepthResult, pick: int, keep: float | None, progress: Progress
) -> DepthResult:
    """The pick as a bundle, fitted on all frames; one region fewer while the floor is missed."""
    floor = 0.0 if keep is None else keep
    with_plan = replace(options, min_fidelity=max(floor, 1e-9), output_fidelity={})
    while True:
        output = None if options.output is None else options.output / BUNDLE
        try:
            compiled = compile_models(
                replace(with_plan, output=output, overwrite=True),
                progress,
                result.plans[pick],
            )
            return replace(result, picked=pick, compiled=compiled)
        except FidelityError as error:
            if pick > 1:
                pick -= 1
                continue
            first = result.curve.points[1]
            raise FidelityError(
                f"every region of {result.curve.model} matters: without the one that matters "
                f"least, {first.removed}, {first.worst.metric} is {first.worst.value:.4f}, "
                f"below {floor:g}",
                f"lower --min-fidelity below {first.worst.value:.4f}, or give more frames",
            ) from error


def _plans(case: Case, steps: Sequence[Removal]) -> tuple[Plan, ...]:
    plans = [plan_of(case)]
    for step in steps:
        saved, predicted = step.site.saved, round(error_of(step.cost), 6)
        planned = PlannedAction(
            step.site.action, saved.weights_nbytes, saved.macs, None, None, predicted
        )
        plans.append(plan_of(case, (*plans[-1].actions, planned)))
    return tuple(plans)


def _points(
    case: Case,
    steps: Sequence[Removal],
    trials: Sequence[Trial],
    judge: Judge | None,
    progress: Progress,
) -> tuple[DepthPoint, ...]:
    """A point for the unchanged program, and one after each step."""
    progress.stage("measuring latency and accuracy", len(trials))
    for trial in trials:
        run_passes(trial.program, CLEANING)
    assert case.frames is not None
    seconds = latencies([trial.program for trial in trials], case.frames)
    points: list[DepthPoint] = []
    for index, trial in enumerate(trials):
        removed, instead = _gone(case, steps[index - 1]) if index else ("", "")
        assert trial.bill is not None
        points.append(
            DepthPoint(
                index,
                removed,
                instead,
                trial.bill.weights_nbytes,
                trial.bill.macs,
                seconds[index],
                tuple(map(OutputFidelity.of, trial.outputs)),
                trial.error,
                {} if judge is None else _by_output(judge.accuracy(trial.program)),
            )
        )
        progress.advance()
    return tuple(points)


def _by_output(accuracy: Mapping[Output, float]) -> dict[str, float]:
    """The accuracy of the one model, by its outputs."""
    return {own: value for (_, own), value in accuracy.items()}


def _gone(case: Case, step: Removal) -> tuple[str, str]:
    """The region that a step takes out, in the model's own names, and what takes its place."""
    effect = step.site.action.effect(case.program)
    assert isinstance(effect, Effect)
    (swap,) = effect.swaps
    window = f"a {swap.kernel}x{swap.kernel} map instead" if swap.kernel else ""
    return f"{own_name(swap.sources[0])} .. {own_name(swap.value)}", window


def _write(result: DepthResult, folder: Path) -> None:
    files: Mapping[str, bytes] = {
        PICTURE: depth_png(result.curve, result.picked),
        PLAN: _json(result.plans[result.picked or len(result.plans) - 1].to_json()),
        RESULT: _json({**result.curve.to_json(), "picked": result.picked}),
    }
    write_together(folder, files)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
