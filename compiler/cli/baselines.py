"""Commands that hold a bundle against another time: check, diff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BudgetError, DataError, FidelityError, UsageError
from ..naming import paths_per_model, per_model
from ..units import parse_budget, parse_share
from .console import call_of, error_json, tell_error
from .options import BundleArgument, FormatOption, Originals, Quiet, Verbose, examples

if TYPE_CHECKING:
    from ...runtime.session import Bundle
    from ..gate.judging import AccuracyFloor, Check

CHECK_EXAMPLES = examples(
    "repsimc check bundle/ --baseline baseline.json --update",
    "repsimc check bundle/ --baseline baseline.json",
    "repsimc check bundle/ --baseline baseline.json --budget 2GB --max-latency-regression 5%",
    "repsimc check bundle/ --min-accuracy a=0.91 --data labelled.npz --labels a=digit",
)


def check(
    ctx: typer.Context,
    bundle: BundleArgument,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Figures to hold the bundle against."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline, and tell what changed.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Memory: 2GB (predicted and measured), or 60% of the weights apart."
        ),
    ] = None,
    max_latency_regression: Annotated[
        str,
        typer.Option("--max-latency-regression", help="How much slower passes."),
    ] = "5%",
    min_accuracy: Annotated[
        list[str] | None,
        typer.Option(
            "--min-accuracy", metavar="[MODEL=]SHARE", help="The least accuracy on labelled --data."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="[MODEL=]PATH", help="Frames, as for verify."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels", metavar="[MODEL=]NAME", help="The array of class indices in the data."
        ),
    ] = None,
    originals: Originals = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Fresh processes to measure latency in.")
    ] = 10,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs in each.")] = 60,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads to use.")] = 1,
    format: FormatOption = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Hold a bundle against a baseline; exit 7 if it regressed, 8 if nobody can tell."""
    call = call_of(ctx).take(format, verbose, quiet, judges=True)
    floors = _floors(min_accuracy, data, labels)
    if baseline is None and (update or (budget is None and not floors)):
        raise UsageError(
            "there is nothing to hold the bundle against",
            "give --baseline FILE (--update writes it), --budget or --min-accuracy",
        )
    limit = None if budget is None else parse_budget(budget)
    most = parse_share(max_latency_regression, "--max-latency-regression")
    from ...runtime.session import load
    from ..gate.baseline import read_baseline, write_baseline
    from ..gate.judging import GateOptions, check_bundle
    from ..gate.tables import check_grid, check_outcome

    opened = load(bundle)
    options = GateOptions(rounds, runs, threads=threads, most_slower=most, budget=limit)
    known = None
    if baseline is not None and (not update or baseline.exists()):
        try:
            known = read_baseline(baseline, opened.manifest)
        except DataError as error:
            if not update:
                raise
            call.warn(f"what was there says nothing of this bundle: {error.message}")
    with call.progress() as progress:
        judged = _accuracies(opened, floors, data or [], labels or [], originals)
        found = check_bundle(opened, known, options, _paths(opened, originals), judged, progress)
    error = found.error
    written = None
    if update and baseline is not None:
        # What was asked for besides the baseline still counts; what changed is only told.
        error = error if isinstance(error, BudgetError | FidelityError) else None
        if error is None:
            write_baseline(baseline, found.measured)
            written = baseline
    value = found.to_json() | {"written": None if written is None else str(written)}
    if error is not None:
        value |= {"error": error_json(error)}
    call.show(value, check_grid(found), outcome=check_outcome(found))
    if written is not None:
        call.say(f"baseline written to {written}: {_changed(found, known is not None)}")
    if error is not None:
        tell_error(error)
        raise typer.Exit(error.exit_code)


DIFF_EXAMPLES = examples(
    "repsimc diff released/ bundle/",
    "repsimc diff released/ bundle/ --format json",
)


def diff(
    ctx: typer.Context,
    before: Annotated[Path, typer.Argument(metavar="A", help="A compiled bundle.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The one to compare with it.")],
    format: FormatOption = None,
    verbose: Verbose = False,
) -> None:
    """Tell what changed from one bundle to another, and why."""
    call = call_of(ctx).take(format, verbose)
    from ...runtime.session import load
    from ..reports.bundle_difference import difference_grids, difference_of

    found = difference_of(load(before), load(after))
    call.show(found.to_json(), *difference_grids(found))


def _changed(found: Check, known: bool) -> str:
    """What an update changes, in words."""
    if not known:
        return "there was none for this bundle"
    from ..gate.verdicts import SAME

    names = [f"{one.name} {one.verdict}" for one in found.verdicts if one.verdict != SAME]
    return ", ".join(names) if names else "nothing changed"


def _floors(
    asked: Sequence[str] | None, data: Sequence[str] | None, labels: Sequence[str] | None
) -> list[str]:
    if asked and not (data and labels):
        raise UsageError("accuracy is measured on labelled frames", "give --data and --labels")
    if (data or labels) and not asked:
        raise UsageError("--data and --labels are for accuracy", "give --min-accuracy")
    return list(asked or [])


def _accuracies(
    bundle: Bundle,
    asked: Sequence[str],
    data: Sequence[str],
    labels: Sequence[str],
    originals: Path | None,
) -> list[AccuracyFloor]:
    if not asked:
        return []
    from ..bundle.verification import VerificationOptions, verify_bundle
    from ..gate.judging import AccuracyFloor

    names = list(bundle.models)
    said = per_model(list(asked), "--min-accuracy", names)
    floors = dict.fromkeys(names, said) if isinstance(said, str) else said
    least = {name: parse_share(text, "--min-accuracy") for name, text in floors.items()}
    options = VerificationOptions(originals, per_model(list(labels), "--labels", names))
    found = verify_bundle(bundle, paths_per_model(list(data), "--data", names), options)
    measured = {
        one.model: one.accuracy_compiled for one in found if one.accuracy_compiled is not None
    }
    judged: list[AccuracyFloor] = []
    for name, floor in least.items():
        if name in measured:
            judged.append(AccuracyFloor(name, floor, measured[name]))
        elif not isinstance(said, str):
            raise UsageError(
                f"--min-accuracy is given for '{name}', which has no labels",
                f"--labels {name}=NAME",
            )
    return judged


def _paths(bundle: Bundle, originals: Path | None) -> Mapping[str, Path] | None:
    if originals is None:
        return None
    from ..bundle.verification import original_path

    return {entry.name: original_path(bundle, entry, originals) for entry in bundle.manifest.models}
