"""The whole way from model files to a bundle: read, share exactly, plan, rewrite, verify, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..passes.pipeline import run_exact
from ..runtime.session import Bundle, load
from .bundle.lowering import is_quantised
from .bundle.references import references_of
from .bundle.writing import check_output, write_bundle
from .errors import FidelityError, UsageError
from .execution.outputs import OutputComparison
from .frames.calibration import Frames, InputRef, InputSpec, load_frames
from .frames.warnings import frame_warnings
from .frontends.join import join
from .frontends.onnx import read_model
from .graph.program import Program
from .naming import model_names
from .options import CompileOptions
from .planning.plan import Plan, SharePrefixAction, check_plan, read_plan
from .planning.planner import Budgets, Planner
from .planning.workbench import Workbench
from .progress import NoProgress, Progress
from .reports.report import Report
from .reports.summary import report_of
from .structure.cost import predicted_memory
from .units import Budget, format_bytes, format_count, parse_budget

if TYPE_CHECKING:
    from .options import Calibration


@dataclass(frozen=True)
class CompileResult:
    """What a compilation made: `bundle` is None when nothing was asked to be written."""

    report: Report
    plan: Plan
    program: Program
    bundle: Path | None


def compile_models(
    options: CompileOptions, progress: Progress | None = None, plan: Plan | None = None
) -> CompileResult:
    """Compile the models as `options` say; writes the bundle unless it is a dry run.

    `plan` is replayed as the file `options.plan` would be.

    Raises UsageError, ModelError, DataError, FidelityError (a replayed plan misses the floor) or
    BudgetError (no plan within the floors meets the budget); nothing is written then.
    """
    progress = progress or NoProgress()
    try:
        return _compile(options, progress, plan)
    finally:
        progress.done()


def _compile(options: CompileOptions, progress: Progress, plan: Plan | None) -> CompileResult:
    writing = options.output is not None and not options.dry_run
    if writing:
        assert options.output is not None
        check_output(options.output, options.overwrite)
    if options.plan is not None:
        plan = read_plan(options.plan)

    progress.stage("reading models", len(options.models))
    apart: list[Program] = []
    for name, path in options.models:
        apart.append(read_model(path, name))
        progress.advance()
    if options.precision == "int8" and not any(is_quantised(program) for program in apart):
        raise UsageError(
            "int8 was asked for, and none of the models is quantised",
            "quantise them first (QuantizeLinear and DequantizeLinear nodes), or choose fp16",
        )
    frames = frames_of(options, apart)
    tied = _tied(options, apart, frames)
    original = join(apart, tied)

    progress.stage("sharing what is equal", None)
    program = original.copy()
    run_exact(program)

    memory = predicted_memory(program, apart)
    budgets = Budgets(options, original, memory, frames)
    bench = Workbench(original, program, frames, options, progress)
    if plan is not None:
        check_plan(plan, program)
        program, compared = bench.replay(plan)
        _enforce_floors(compared)
        budgets.enforce(program)
    else:
        planner = Planner(options, original, bench, budgets, frames, progress)
        program, plan, compared = planner.planned()

    memory = predicted_memory(program, apart)
    notes = _notes(options, frames, tied, plan)
    report = report_of(
        original, program, plan, compared, memory, frames, tied, notes, options.budget
    )
    bundle = None
    if writing:
        assert options.output is not None
        progress.stage("writing the bundle", None)
        bundle = write_bundle(
            options.output,
            program,
            plan=plan.to_json(),
            report=report.to_json(),
            memory=memory,
            fidelity={
                model.name: [output.to_json() for output in model.fidelity]
                for model in report.models
            },
            layout=options.layout,
            precision=options.precision,
            references=None if frames is None else references_of(program, frames),
            overwrite=options.overwrite,
        )
    return CompileResult(report, plan, program, bundle)


def _enforce_floors(compared: Sequence[OutputComparison]) -> None:
    missed = [output for output in compared if not output.met]
    if missed:
        lines = ", ".join(
            f"{output.model}/{output.output} {output.metric} {output.value:.4f} < {output.floor:g}"
            for output in missed
        )
        raise FidelityError(
            f"the plan misses the fidelity floor: {lines}",
            "edit the plan, lower --min-fidelity, or let repsimc plan by leaving out --plan",
        )


def frames_of(options: CompileOptions, apart: Sequence[Program]) -> Frames | None:
    """The frames that the options give for the models, None without any. Raises DataError."""
    if options.calibration is None:
        return None
    specs: dict[str, list[InputSpec]] = {}
    for program in apart:
        (model,) = program.models.values()
        values = program.values()
        specs[model.name] = [
            InputSpec(own, values[value].dtype, tuple(values[value].shape or ()))
            for own, value in model.inputs.items()
        ]
    return load_frames(
        options.calibration,
        specs,
        preprocessing=options.preprocessing,
        same_frames=options.same_frames,
        allow_script=options.allow_script,
        seed=options.seed,
        held_out_share=options.held_out,
        limit=options.frames,
    )


def _tied(
    options: CompileOptions, apart: Sequence[Program], frames: Frames | None
) -> list[list[InputRef]]:
    """Which inputs one frame feeds: as the frames say, else those of equal name, dtype, shape."""
    if not options.tie_inputs:
        return []
    if frames is not None:
        return frames.tied_groups()
    alike: dict[object, list[InputRef]] = {}
    for program in apart:
        (model,) = program.models.values()
        values = program.values()
        for own, value in model.inputs.items():
            shape = tuple(
                size if isinstance(size, int) else None for size in values[value].shape or ()
            )
            alike.setdefault((own, str(values[value].dtype), shape), []).append((model.name, own))
    return [group for group in alike.values() if len(group) > 1]


def _notes(
    options: CompileOptions,
    frames: Frames | None,
    tied: Sequence[Sequence[InputRef]],
    plan: Plan,
) -> tuple[str, ...]:
    notes: list[str] = []
    if frames is None and len(options.models) > 1:
        notes.append(
            "no frames were given, so only what is exact was shared and nothing was measured; "
            "--calib PATH lets models share approximately too"
        )
        if tied:
            names = ", ".join(dict.fromkeys(own for group in tied for _, own in group))
            notes.append(
                f"one frame feeds input '{names}' of the models; --separate-inputs keeps them apart"
            )
    for planned in plan.actions:
        if not isinstance(planned.action, SharePrefixAction):
            nbytes, macs = planned.weights_saved_nbytes, planned.macs_saved
            amounts = [f"{format_bytes(nbytes)} of weights"] if nbytes > 0 else []
            amounts += [f"{format_count(macs)} MACs"] if macs > 0 else []
            saved = " and ".join(amounts) or "nothing"
            kept = f", fidelity then {planned.fidelity:.4f}" if planned.fidelity else ""
            notes.append(f"{planned.action}: {saved} less{kept}")
    notes += [f"{name} is left alone: {why}" for name, why in plan.left_alone.items()]
    if frames is not None and plan.actions:
        # Only now: what is exact does not rest on frames.
        for stream in frames.streams:
            every = [frames.fit_rows(stream[0]), frames.held_out_rows(stream[0])]
            notes += frame_warnings(frames, stream[0], np.sort(np.concatenate(every)))
    return tuple(notes)


def compile(
    models: Sequence[str | Path],
    *,
    budget: str | int | Budget | None = None,
    calibration: Calibration | str | None = None,
    output: str | Path | None = "bundle",
    names: Mapping[str, str | Path] | None = None,
    **wishes: Any,
) -> Bundle:
    """Compile models into a bundle at `output` and open it: `compile` from Python.

    `models` are paths; `names` maps names to paths where a file's stem will not do. `budget` is
    as on the command line ('2GB', '60%') or bytes. `calibration` is a path, an array [N, ...], or
    a mapping of input or model names to either. `wishes` are the further fields of
    CompileOptions (min_fidelity, exact_only, seed, ...). Raises the errors of `compile_models`.
    """
    if output is None:
        raise UsageError("repsimc.compile needs an output folder", "give output='bundle/'")
    if isinstance(budget, str):
        budget = parse_budget(budget)
    elif isinstance(budget, int):
        budget = Budget(nbytes=budget)
    if isinstance(calibration, str):
        calibration = Path(calibration)
    unknown = set(wishes) - set(CompileOptions.__dataclass_fields__)
    if unknown:
        raise UsageError(f"repsimc.compile knows no option {', '.join(sorted(unknown))}")
    if wishes.get("dry_run"):
        raise UsageError("repsimc.compile writes a bundle and opens it", "leave out dry_run")
    if isinstance(wishes.get("plan"), str):
        wishes["plan"] = Path(wishes["plan"])
    named = {name: Path(path) for name, path in (names or {}).items()}
    options = CompileOptions(
        models=tuple(model_names([Path(path) for path in models], named)),
        budget=budget,
        calibration=calibration,
        output=Path(output),
        **wishes,
    )
    result = compile_models(options)
    assert result.bundle is not None
    return load(result.bundle)
