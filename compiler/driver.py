"""The whole way from model files to a bundle: read, share exactly, plan, rewrite, verify, write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..passes.pipeline import EXACT, run_passes
from ..runtime.session import Bundle, load
from .analysis.calibration import Frames, InputRef, InputSpec, load_frames
from .analysis.cost import predicted_memory, program_cost
from .backends.bundle import check_output, write_bundle
from .errors import BudgetError, FidelityError, UsageError
from .frontends.join import join
from .frontends.onnx import read_model
from .graph.program import Program
from .options import CompileOptions, model_names
from .planning.comparison import OutputComparison
from .planning.plan import Plan, check_plan, read_plan
from .reports.progress import NoProgress, Progress
from .reports.report import Report
from .rewriting import Workbench
from .summary import report_of
from .units import Budget, format_bytes, parse_budget

if TYPE_CHECKING:
    from .options import Calibration


@dataclass(frozen=True)
class CompileResult:
    """What a compilation made: `bundle` is None when nothing was asked to be written."""

    report: Report
    plan: Plan
    program: Program
    bundle: Path | None


def compile_models(options: CompileOptions, progress: Progress | None = None) -> CompileResult:
    """Compile the models as `options` say; writes the bundle unless it is a dry run.

    Raises UsageError, ModelError, DataError, FidelityError (a replayed plan misses the floor) or
    BudgetError (no plan within the floors meets the budget); nothing is written then.
    """
    progress = progress or NoProgress()
    try:
        return _compile(options, progress)
    finally:
        progress.done()


def _compile(options: CompileOptions, progress: Progress) -> CompileResult:
    writing = options.output is not None and not options.dry_run
    if writing:
        assert options.output is not None
        check_output(options.output, options.overwrite)
    plan = read_plan(options.plan) if options.plan is not None else None

    progress.stage("reading models", len(options.models))
    apart: list[Program] = []
    for name, path in options.models:
        apart.append(read_model(path, name))
        progress.advance()
    frames = _frames(options, apart)
    tied = _tied(options, apart, frames)
    original = join(apart, tied)

    progress.stage("sharing what is equal", None)
    program = original.copy()
    run_passes(program, EXACT)

    memory = predicted_memory(program, apart)
    limit = _limit(options.budget, memory)

    def excess(program: Program) -> int:
        return _excess(options.budget, program, memory)

    bench = Workbench(original, program, frames, options, progress)
    if plan is not None:
        check_plan(plan, program)
        program, compared = bench.replay(plan)
        _enforce_floors(compared)
        _enforce_budget(excess(program))
    else:
        try:
            program, plan, compared = _planned(options, bench, program, limit, excess, frames)
        except _OverBudget as over:
            raise _budget_error(options, over, memory, frames, bench) from None

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
            overwrite=options.overwrite,
        )
    return CompileResult(report, plan, program, bundle)


class _OverBudget(Exception):
    """No plan fits: the weight bytes that the budget leaves, and those of the smallest plan."""

    def __init__(self, limit: int, smallest: int) -> None:
        super().__init__(limit, smallest)
        self.limit = limit
        self.smallest = smallest


def _planned(
    options: CompileOptions,
    bench: Workbench,
    program: Program,
    limit: int | None,
    excess: Callable[[Program], int],
    frames: Frames | None,
) -> tuple[Program, Plan, list[OutputComparison]]:
    """The program within the budget with the least damage, exact means first."""
    exact_nbytes = program_cost(program).weights_nbytes
    enough = limit is not None and exact_nbytes <= limit
    if enough or options.exact_only or frames is None or len(program.models) < 2:
        if limit is not None and not enough:
            raise _OverBudget(limit, exact_nbytes)
        return program, bench.exact_plan(), bench.compare(program)
    planned = bench.plan(limit, excess)
    if planned is None:
        assert limit is not None
        raise _OverBudget(limit, bench.smallest_nbytes())
    return planned


def _budget_error(
    options: CompileOptions,
    over: _OverBudget,
    memory: Mapping[str, int],
    frames: Frames | None,
    bench: Workbench,
) -> BudgetError:
    assert options.budget is not None
    if options.budget.share is not None:
        apart = memory["apart_weights_nbytes"]
        needed = f"{math.ceil(100 * over.smallest / max(apart, 1))}%"
        found = f"the smallest plan found needs {format_bytes(over.smallest)} of weights"
    else:
        total = over.smallest + memory["merged_nbytes"] - memory["merged_weights_nbytes"]
        needed = format_bytes(total * 1.005)  # printed with three digits: not below the need
        found = (
            f"the smallest plan found needs {format_bytes(over.smallest)} of weights, "
            f"{format_bytes(total)} in all"
        )
    if frames is None:
        hint = (
            "approximate sharing needs frames to measure on: give --calib PATH (an .npz keyed by "
            "input name, a folder of them, or a folder of images), or raise the budget "
            f"to {needed}"
        )
    elif options.exact_only:
        hint = f"leave out --exact-only to share approximately, or raise the budget to {needed}"
    else:
        hint = (
            f"raise the budget to {needed}, lower --min-fidelity below "
            f"{options.min_fidelity:g}, or give more calibration frames"
        )
    detail = bench.explanation()
    left = format_bytes(over.limit) if over.limit > 0 else "nothing"
    return BudgetError(
        f"the budget of {options.budget} leaves {left} for weights; within the fidelity floor "
        f"{found}" + (f"\n{detail}" if detail else ""),
        hint,
    )


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


def _enforce_budget(excess: int) -> None:
    if excess > 0:
        raise BudgetError(
            f"the plan needs {format_bytes(excess)} more than the budget",
            "raise the budget, edit the plan, or let repsimc plan by leaving out --plan",
        )


def _frames(options: CompileOptions, apart: Sequence[Program]) -> Frames | None:
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


def _limit(budget: Budget | None, memory: Mapping[str, int]) -> int | None:
    """The weight bytes that the budget leaves.

    A share is one of the models' weights apart. Bytes are of all that is predicted to be needed,
    so live activations and the backend come off first.
    """
    if budget is None:
        return None
    if budget.nbytes is None:
        return budget.limit(memory["apart_weights_nbytes"])
    return budget.nbytes - _beside(memory)


def _excess(budget: Budget | None, program: Program, memory: Mapping[str, int]) -> int:
    """Bytes by which a program exceeds the budget: of weights or of predicted memory."""
    if budget is None:
        return 0
    cost = program_cost(program)
    used = cost.weights_nbytes if budget.nbytes is None else cost.predicted_nbytes
    return used - budget.limit(memory["apart_weights_nbytes"])


def _beside(memory: Mapping[str, int]) -> int:
    """Predicted bytes of the merged program that are not weights."""
    return memory["merged_nbytes"] - memory["merged_weights_nbytes"]


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
    notes += [f"{name} is left alone: {why}" for name, why in plan.left_alone.items()]
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
