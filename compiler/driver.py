"""The whole way from model files to a bundle: read, share exactly, plan, rewrite, verify, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from ..runtime import arguments
from ..runtime.session import Bundle, load
from .actions.kinds import chosen
from .bundle.lowering import is_quantised
from .bundle.references import references_of
from .bundle.rehearsal import Rehearsal
from .bundle.writing import BundleContents, check_output, write_bundle
from .case import Case, case_of, read_models
from .errors import FidelityError, UsageError
from .execution.outputs import OutputComparison
from .execution.stress import Blended, stressed, with_stress
from .frames.calibration import Preprocessing
from .frames.warnings import frame_warnings
from .frontends.check import foreign_domains
from .graph.program import Program
from .naming import model_names
from .options import ANY, FEW_BITS, CompileOptions
from .planning.arithmetic import in_eight_bits
from .planning.deadline import Deadline
from .planning.limits import Budgets
from .planning.plan import Plan, check_plan, plan_from_json, read_plan
from .planning.planner import Planner
from .planning.trial import Trial
from .planning.workbench import Workbench
from .progress import NoProgress, Progress
from .reports.promises import promise_notes
from .reports.report import Report
from .reports.summary import Compilation, report_of
from .structure.cost import predicted_memory
from .units import Budget, MacsLimit

if TYPE_CHECKING:
    from typing import Unpack

    from .options import Calibration


@dataclass(frozen=True)
class CompileResult:
    """What a compilation made: `bundle` is None when nothing was asked to be written."""

    report: Report
    plan: Plan
    program: Program
    bundle: Path | None


def compile_models(
    options: CompileOptions,
    progress: Progress | None = None,
    plan: Plan | None = None,
    deadline: Deadline | None = None,
) -> CompileResult:
    """Compile the models as `options` say; writes the bundle unless it is a dry run.

    `plan` is replayed as the file `options.plan` would be. `deadline` is that of the time limit,
    where it began to run before this call.

    Raises UsageError, ModelError, DataError, FidelityError (a replayed plan misses the floor) or
    BudgetError (no plan within the floors meets the budget); nothing is written then.
    """
    progress = progress or NoProgress()
    try:
        return _compile(options, progress, plan, deadline or Deadline(options.time_limit))
    finally:
        progress.done()


def _compile(
    options: CompileOptions, progress: Progress, plan: Plan | None, deadline: Deadline
) -> CompileResult:
    writing = options.output is not None and not options.dry_run
    if writing:
        assert options.output is not None
        check_output(options.output, options.overwrite)
    if options.plan is not None:
        plan = read_plan(options.plan)

    chosen(options.only, options.without)  # refused before any work
    apart = read_models(options, progress)
    case = case_of(apart, options, progress)
    budgets = Budgets(case, predicted_memory(case.program, apart))
    bench = Workbench(case, progress, deadline)
    told: tuple[str, ...] = ()
    lost: Mapping[str, float] = {}
    if plan is not None:
        check_plan(plan, case.program)
        trial = bench.replay(plan)
        _enforce_floors(trial.outputs, case, plan, replayed=True)
        budgets.enforce(trial.program)
    else:
        planner = Planner(bench, budgets, progress)
        plan, trial = planner.planned()
        told, lost = planner.notes, planner.lost_by_rounding
        if options.target != ANY and case.frames is not None and not options.exact_only:
            (plan, trial), more = in_eight_bits(bench, (plan, trial), options.target, progress)
            told += more
        _enforce_floors(trial.outputs, case, plan, replayed=False)

    compared = _on_blends(case, plan, trial, progress)
    program, frames = trial.program, case.frames
    memory = predicted_memory(program, apart)
    notes = (*told, *_remarks(program), *_notes(case, plan))
    rounds = options.precision in FEW_BITS and case.frames is not None and not options.exact_only
    compiled = Compilation(
        case.original, program, plan, compared, case.unverified, lost if rounds else None
    )
    report = report_of(compiled, memory, frames, case.tying, notes, options.budget)
    report = replace(report, notes=(*promise_notes(report.models), *report.notes))
    bundle = None
    if writing:
        assert options.output is not None
        progress.stage("writing the bundle", None)
        bundle = write_bundle(
            options.output,
            BundleContents(
                program,
                plan.to_json(),
                report.to_json(),
                memory,
                {
                    model.name: [output.to_json() for output in model.fidelity]
                    for model in report.models
                },
                options.layout,
                _precision_of(options.precision, program),
                None if frames is None else references_of(program, frames),
                _check_of(case, program, _moved(bench, plan)),
            ),
            options.overwrite,
        )
    return CompileResult(report, plan, program, bundle)


def _precision_of(asked: str, program: Program) -> str:
    """What engines of the bundle compute in, by what was asked for and what came of it."""
    if asked not in FEW_BITS:
        return asked
    return "int8" if is_quantised(program) else "fp32"


def _moved(bench: Workbench, plan: Plan) -> set[str]:
    """The models whose outputs inexact rewrites move."""
    return {name for one in plan.actions for name in bench.bills.affected(one.action)}


def _check_of(case: Case, program: Program, moved: set[str]) -> Callable[[Path], None] | None:
    """What a finished bundle is held against; nothing can be where operators are not known here."""
    if any(foreign_domains(one) for one in case.apart):
        return None
    return Rehearsal(program, case.probes, case.given, moved).check


def _on_blends(
    case: Case, plan: Plan, trial: Trial, progress: Progress
) -> Sequence[OutputComparison]:
    """The outputs as compared, with what blends prove of those that the plan moves.

    Raises FidelityError where that misses its floor.
    """
    options, frames = case.options, case.frames
    moved = list(dict.fromkeys(c.model for c in trial.outputs if c.lower is not None))
    if frames is None or not plan.actions or not moved:
        return trial.outputs
    progress.stage("comparing outputs on blended frames", None)
    originals = Blended(case.original, case.given, frames)
    values = stressed(originals, trial.program, moved, options.metric, options.confidence)
    found = with_stress(trial.outputs, values, options.min_stressed)
    cracked = [c for c in found if c.cracks]
    if cracked:
        worst = min(cracked, key=lambda c: c.stressed or 0.0)
        raise FidelityError(
            f"blends of held-out frames prove {worst.metric} {worst.stressed or 0.0:.4f} of "
            f"{worst.model}/{worst.output}, and --min-stressed asks for {worst.stressed_floor:g}",
            "raise --min-fidelity, give frames that the models were not trained on, or lower "
            "--min-stressed",
        )
    return found


def _enforce_floors(
    compared: Sequence[OutputComparison], case: Case, plan: Plan, replayed: bool
) -> None:
    # What is random in the file itself is no output's loss.
    missed = [one for one in compared if not one.met and one.model not in case.unverified]
    if missed:
        lines = ", ".join(
            f"{output.model}/{output.output} {output.metric} {output.judged:.4f} < {output.floor:g}"
            for output in missed
        )
        if replayed:
            hint = "edit the plan, lower --min-fidelity, or let repsimc plan by leaving out --plan"
        else:
            hint = "lower --min-fidelity, choose another metric, or give more frames"
        what = "the plan" if plan.actions else "what is exact but for rounding"
        raise FidelityError(f"{what} misses the fidelity floor: {lines}", hint)


def _remarks(program: Program) -> tuple[str, ...]:
    return tuple(remark for model in program.models.values() for remark in model.remarks)


def _notes(case: Case, plan: Plan) -> tuple[str, ...]:
    options, frames = case.options, case.frames
    notes = [f"{name} is unverified: {why}" for name, why in case.unverified.items()]
    if case.left_out:
        notes.append(
            f"left out: {', '.join(case.left_out)}, after which outputs were not those of the files"
        )
    if frames is None and len(case.unverified) < len(options.models):
        notes.append(
            "on made-up inputs every output was that of its file, run by ONNX Runtime, but for "
            f"rounding ({case.allowed:g} of an output's largest value is allowed)"
        )
    if frames is None and len(options.models) > 1:
        notes.append(
            "no frames were given, so only what is exact was shared and no fidelity was measured; "
            "--calib PATH lets models share approximately too"
        )
    if frames is None and options.precision in FEW_BITS and not is_quantised(case.program):
        notes.append(
            "no frames were given, so no weight was stored in few bits; --calib PATH lets some be"
        )
    notes += case.tying.notes
    if frames is not None and (states := frames.still_states()):
        zeros = frames.left_out()
        names = [".".join(ref) + (" (left out: zeros)" if ref in zeros else "") for ref in states]
        notes.append(
            "states were the same in every frame, so their models were only rewritten exactly: "
            + ", ".join(names)
        )
    notes += [f"{name} is left alone: {why}" for name, why in plan.left_alone.items()]
    if frames is not None and plan.actions:
        # Only now: what is exact does not rest on frames.
        for stream in frames.streams:
            every = [frames.fit_rows(stream[0]), frames.held_out_rows(stream[0])]
            notes += frame_warnings(frames, stream[0], np.sort(np.concatenate(every)))
    return tuple(notes)


class Wishes(TypedDict, total=False):
    """Further options of `compile`, by name: the fields of Settings, as Python callers give them.

    What the command line takes as text is taken as text here too.
    """

    min_fidelity: float
    confidence: float
    strict: bool
    min_stressed: float | None
    output_fidelity: Mapping[str, float]
    metrics: Mapping[str, str]
    exact_only: bool
    only: str | None
    without: Sequence[str]
    max_macs: str | int | MacsLimit | None
    max_latency: str | float | None
    time_limit: str | float | None
    resume: bool
    plan: str | Path | Mapping[str, Any] | Plan | None
    seed: int
    same_frames: bool
    tie_inputs: bool
    tie: Sequence[str]
    frame_axis: Sequence[str]
    layout: str
    precision: str
    target: str
    size: Mapping[str, Sequence[int]] | Sequence[str]
    frames: int | None
    held_out: float
    allow_script: bool
    overwrite: bool
    parse_memory: str | int | None
    parse_seconds: str | float | None
    preprocessing: Mapping[str, Preprocessing | Mapping[str, Any]]


def compile(
    models: Sequence[str | Path] | str | Path,
    *,
    budget: str | int | Budget | None = None,
    calibration: Calibration | str | Mapping[str, str] | None = None,
    output: str | Path | None = "bundle",
    names: Mapping[str, str | Path] | None = None,
    **wishes: Unpack[Wishes],
) -> Bundle:
    """Compile models into a bundle at `output` and open it: `compile` from Python.

    `models` are paths; `names` maps names to paths where a file's stem will not do. `budget` is
    as on the command line ('2GB', '60%') or bytes. `calibration` is a path, an array [N, ...], or
    a mapping of input or model names to either. `wishes` are the further fields of
    CompileOptions (min_fidelity, exact_only, seed, ...); a `plan` may be a path, its JSON, or a
    Plan. Raises the errors of `compile_models`, UsageError for a value of another type.
    """
    if output is None:
        raise UsageError("repsimc.compile needs an output folder", "give output='bundle/'")
    told: dict[str, Any] = dict(wishes)
    unknown = set(told) - set(CompileOptions.__dataclass_fields__)
    if unknown:
        raise UsageError(f"repsimc.compile knows no option {', '.join(sorted(unknown))}")
    if told.get("dry_run"):
        raise UsageError("repsimc.compile writes a bundle and opens it", "leave out dry_run")
    plan = told.pop("plan", None)
    if isinstance(plan, Mapping):
        plan = plan_from_json(cast("object", plan))
    elif plan is not None and not isinstance(plan, Plan):
        told["plan"], plan = plan, None
    told |= {"budget": budget, "calibration": calibration, "output": output}
    options = options_of(models, names, told)
    result = compile_models(options, plan=plan)
    assert result.bundle is not None
    return load(result.bundle)


def options_of(
    models: Sequence[str | Path] | str | Path,
    names: Mapping[str, str | Path] | None,
    told: Mapping[str, Any],
) -> CompileOptions:
    """The options of a Python call: models as paths, names for them, and fields of CompileOptions.

    Raises UsageError for a value of another type.
    """
    given = dict(told)
    if (preprocessing := given.pop("preprocessing", None)) is not None:
        given["preprocessing"] = arguments.table("preprocessing", preprocessing, _preprocessing)
    paths = arguments.several("models", models, arguments.path)
    named = arguments.table("names", {} if names is None else names, arguments.path)
    return CompileOptions(models=model_names(paths, named), **given)


def _preprocessing(name: str, value: object) -> Preprocessing:
    """Preprocessing as a value or as the table of its fields. Raises UsageError."""
    if isinstance(value, Preprocessing):
        return value
    known = [field.name for field in fields(Preprocessing)]
    table: Any = value
    if isinstance(table, Mapping) and set(cast("Mapping[Any, Any]", table)) <= set(known):
        return Preprocessing(**cast("Mapping[str, Any]", table))
    raise arguments.wrong(name, value, f"Preprocessing, or a table of {', '.join(known)}")
