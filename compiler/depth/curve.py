"""The depth curve: regions out of one model one by one, what each costs, and a pick compiled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...passes.pipeline import CLEANING, run_exact, run_passes
from ..actions.bill import Skeleton
from ..driver import CompileResult, compile_models, frames_of
from ..errors import FidelityError, ModelError, UsageError
from ..execution.latency import latencies
from ..execution.outputs import OutputComparison
from ..frames.calibration import Frames
from ..frontends.read import read_model
from ..graph.program import Program, own_name
from ..graph.regions import Regions, find_regions
from ..options import CompileOptions
from ..output_folders import check_output_folder
from ..planning.descent import LOOKS, Candidate, Descent, Step, find_candidates
from ..planning.plan import Action, CollapseAction, Plan, PlannedAction
from ..planning.trials import CURVE, CURVE_LOOKS, TRIAL, Trial, Trials
from ..progress import NoProgress, Progress
from ..reports.report import OutputFidelity
from .accuracy import Judge, Labelled
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
        return _depth(options, labelled, pick, keep, most, overwrite, progress)
    finally:
        progress.done()


def _depth(
    options: CompileOptions,
    labelled: Labelled | None,
    pick: int | None,
    keep: float | None,
    most: int | None,
    overwrite: bool,
    progress: Progress,
) -> DepthResult:
    _check(options, pick, keep, most)
    if options.output is not None:
        check_output_folder(options.output, RESULT, overwrite)
    progress.stage("reading the model", None)
    ((name, path),) = options.models
    original = read_model(path, name)
    frames = frames_of(options, [original])
    assert frames is not None
    judge = None if labelled is None else Judge(options, original, labelled)
    program = original.copy()
    run_exact(program)
    regions = find_regions(program)
    skeleton = Skeleton(program)
    candidates = find_candidates(program, regions, skeleton)
    if not candidates:
        raise ModelError(f"{name} has no region that could go: {_why_none(regions)}")
    if pick is not None and pick > len(candidates):
        raise UsageError(
            f"--pick {pick} is more than the {len(candidates)} regions of {name}",
            f"pick at most {len(candidates)}",
        )
    # Which regions go is decided with more care where one of the plans is compiled.
    effort = CURVE if pick is None and keep is None else TRIAL
    trials = Trials(
        original, program, frames, options.floor, options.metric, options.seed, progress, effort
    )
    steps, programs = _descended(trials, candidates, skeleton, most, pick, keep, progress)
    curve = _curve(name, skeleton, steps, programs, trials, frames, regions, judge, progress)
    plans = _plans(program, options, steps)
    result = DepthResult(curve, plans)
    if keep is not None or pick is not None:
        if keep is not None and pick is None:
            pick = _kept(curve, keep)
        assert pick is not None
        result = _compiled(options, result, min(pick, len(steps)), keep, progress)
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


def _why_none(regions: Regions) -> str:
    if regions.refused:
        return "; ".join(
            f"{own_name(one.entry)} .. {own_name(one.exit)}: {one.reason}"
            for one in regions.refused[:3]
        )
    return "no part of it has one value in, one value out and weights of its own"


def _descended(
    trials: Trials,
    candidates: Sequence[Candidate],
    skeleton: Skeleton,
    most: int | None,
    pick: int | None,
    keep: float | None,
    progress: Progress,
) -> tuple[list[Step], list[Trial]]:
    """The steps of the curve and the trial of each, the unchanged program's first."""
    tried: dict[tuple[Action, ...], Trial] = {}

    def measure(actions: tuple[Action, ...]) -> float:
        tried[actions] = trials.run(actions)
        return tried[actions].error

    progress.stage(f"trying {len(candidates)} regions", None)
    influence = trials.influence([candidate.region for candidate in candidates])
    descent = Descent(
        candidates,
        skeleton.bill,
        measure,
        lambda bill: float(bill.macs),
        influence,
        glance=trials.glance,
        looks=CURVE_LOOKS if trials.effort is CURVE else LOOKS,
    )
    steps: list[Step] = []
    kept = [trials.run(())]
    for step in descent.steps():
        steps.append(step)
        kept.append(tried[step.actions])
        for actions in [other for other in tried if len(other) <= len(step.actions)]:
            del tried[actions]
        limit = most if most is not None else pick
        if limit is not None and len(steps) >= limit:
            break
        # A floor needs no curve beyond it; the full fit may still win back a step or two.
        missed = keep is not None and _least(kept[-1].compared) < keep - 0.05
        if step.error > END_ERROR or (missed and pick is None and most is None):
            break
    return steps, kept


def _least(compared: Sequence[OutputComparison]) -> float:
    return min((output.value for output in compared), default=1.0)


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


def _plans(program: Program, options: CompileOptions, steps: Sequence[Step]) -> tuple[Plan, ...]:
    models = {name: model.source.sha256 for name, model in program.models.items()}
    plans = [Plan(models, (), options.seed)]
    for step in steps:
        chosen = step.chosen
        planned = PlannedAction(chosen.action, chosen.saved_nbytes, chosen.saved_macs, None, None)
        plans.append(Plan(models, (*plans[-1].actions, planned), options.seed))
    return tuple(plans)


def _curve(
    name: str,
    skeleton: Skeleton,
    steps: Sequence[Step],
    trials: Sequence[Trial],
    source: Trials,
    frames: Frames,
    regions: Regions,
    judge: Judge | None,
    progress: Progress,
) -> DepthCurve:
    progress.stage("measuring latency and accuracy", len(trials))
    for trial in trials:
        run_passes(trial.program, CLEANING)
    seconds = latencies([trial.program for trial in trials], frames)
    start = skeleton.bill([])
    assert start is not None
    bills = [start, *(step.bill for step in steps)]
    points: list[DepthPoint] = []
    for index, (trial, bill) in enumerate(zip(trials, bills)):
        action = steps[index - 1].chosen.action if index else None
        assert action is None or isinstance(action, CollapseAction)  # folds are not looked at
        points.append(
            DepthPoint(
                index,
                "" if action is None else f"{own_name(action.entry)} .. {own_name(action.exit)}",
                f"a {action.kernel}x{action.kernel} map instead"
                if action and action.kernel
                else "",
                bill.weights_nbytes,
                bill.macs,
                seconds[index],
                tuple(
                    OutputFidelity(c.output, c.metric, c.value, c.floor, c.frames)
                    for c in trial.compared
                ),
                trial.error,
                {} if judge is None else judge.accuracy(trial.program),
            )
        )
        progress.advance()
    reference = source.reference(name)
    refused = tuple(
        (f"{own_name(one.entry)} .. {own_name(one.exit)}", one.reason) for one in regions.refused
    )
    held_out = trials[0].compared[0].frames if trials[0].compared else 0
    return DepthCurve(name, tuple(points), refused, reference.frames.count, held_out)


def _write(result: DepthResult, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files: Mapping[str, bytes] = {
        PICTURE: depth_png(result.curve, result.picked),
        RESULT: _json({**result.curve.to_json(), "picked": result.picked}),
        PLAN: _json(result.plans[result.picked or len(result.plans) - 1].to_json()),
    }
    for name, content in files.items():
        beside = folder / f"{name}.part"
        beside.write_bytes(content)
        beside.replace(folder / name)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
