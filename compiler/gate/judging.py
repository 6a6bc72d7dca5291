"""The gate: a bundle measured, held against its baseline and against what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.json_values import JsonValue
from ...runtime.rig import Rig, Timed, find_originals, rig
from ...runtime.session import Bundle
from ..errors import (
    BudgetError,
    FidelityError,
    RegressionError,
    RepsimcError,
    UndecidedError,
    UsageError,
)
from ..progress import NoProgress, Progress
from ..units import Budget, format_bytes
from .baseline import (
    APART,
    FIXED,
    Baseline,
    Shares,
    interface_of,
    machine_here,
    shares_quiet,
)
from .figures import reference_figures, stated_figures
from .ranks import FEWEST
from .verdicts import (
    IMPROVED,
    KEPT,
    MISSED,
    REGRESSED,
    TOO_FEW,
    TOO_NOISY,
    Verdict,
    judge_exact,
    judge_latency,
    judge_memory,
)

SCHEMA = "repsimc.check/1"


@dataclass(frozen=True)
class GateOptions:
    """How much is measured, and what the bundle is held to.

    `rounds` fresh processes with `runs` turns each, on `threads`; `repeats` for memory.
    `most_slower` is the regression of latency that is let pass (0.05 is 5 %). `budget` is of
    predicted and measured memory, or a share of the weights apart. Raises UsageError for less than
    nothing.
    """

    rounds: int = 10
    runs: int = 60
    warmup: int = 5
    repeats: int = 5
    threads: int = 1
    most_slower: float = 0.05
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.runs < 1 or self.repeats < 1 or self.warmup < 0:
            raise UsageError("rounds, runs and repeats must be 1 or more, warmup 0 or more")
        if self.most_slower <= 0:
            raise UsageError("a regression of 0 % or less can't be told from none", "write 5%")


@dataclass(frozen=True)
class AccuracyFloor(JsonValue):
    """The least accuracy that was asked of a model, and what was measured."""

    model: str
    floor: float
    accuracy: float


@dataclass(frozen=True)
class Check(JsonValue):
    """A bundle at the gate: a verdict per figure, and what was measured, to be a baseline.

    `notes` say what a reader of the verdicts should know; `machine` what else ran, in words.
    """

    verdicts: tuple[Verdict, ...]
    measured: Baseline
    machine: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, with schema version."""
        return {
            "schema": SCHEMA,
            "passed": self.error is None,
            "verdicts": [one.to_json() for one in self.verdicts],
            "measured": self.measured.to_json(),
            "machine": self.machine,
            "notes": list(self.notes),
        }

    def of(self, *words: str) -> list[Verdict]:
        """The verdicts that are one of these words."""
        return [one for one in self.verdicts if one.verdict in words]

    @property
    def error(self) -> RepsimcError | None:
        """What the call ends with: the first of a budget or floor, a regression, noise; or None."""
        missed, regressed = self.of(MISSED), self.of(REGRESSED)
        if missed:
            kind = BudgetError if missed[0].unit == "B" else FidelityError
            return kind(f"{missed[0].name}: {missed[0].why}{_more(missed)}")
        if regressed:
            first = regressed[0]
            return RegressionError(
                f"{first.name} regressed: {verdict_text(first)}{_more(regressed)}",
                "if that is meant, accept it with --update",
            )
        if unsure := self.of(TOO_FEW, TOO_NOISY):
            first = unsure[0]
            return UndecidedError(
                f"{first.name} can't be judged, {first.verdict}: {first.why}{_more(unsure)}",
                "more --rounds, fewer programs beside it, or a greater --max-latency-regression"
                if first.verdict == TOO_NOISY
                else f"give --rounds {FEWEST} or more, here and for --update",
            )
        return None


def check_bundle(
    bundle: Bundle,
    baseline: Baseline | None,
    options: GateOptions,
    originals: Mapping[str, Path] | None = None,
    accuracy: Sequence[AccuracyFloor] = (),
    progress: Progress | None = None,
) -> Check:
    """The bundle's figures, each with its verdict; without a baseline only what was asked for.

    `originals` are files by model, where they are not where the manifest says. A regression of
    latency is measured a second time, in as many other processes, and counts only if it is seen
    again. Raises UsageError, ModelError, BackendError.
    """
    steps = progress or NoProgress()
    with rig(bundle, originals, threads=options.threads) as found:
        steps.stage("running the reference frames", None)
        paths, _ = find_originals(bundle, originals or {})
        figures = [*stated_figures(bundle), *reference_figures(bundle, paths, options.threads)]
        sessions = _measure(found, options, steps, "measuring latency")
        steps.stage("measuring memory", None)
        memory = found.memories(options.repeats)[0]
        measured = Baseline(
            bundle.manifest.repsimc,
            {entry.name: entry.source.sha256 for entry in bundle.manifest.models},
            interface_of(bundle.manifest),
            tuple(figures),
            tuple(one.uss_nbytes for one in memory),
            _shares(sessions, found.has_apart),
            options.threads,
            found.frame,
            machine_here(),
        )
        verdicts: list[Verdict] = []
        notes = [note for note in found.notes if not note.startswith("apart:")]
        if baseline is not None:
            latency, yardstick = _latency(baseline, measured, options)
            if latency.verdict == REGRESSED:
                again = _measure(found, options, steps, "measuring latency again")
                second, _ = _latency(
                    baseline, replace(measured, latency=_shares(again, found.has_apart)), options
                )
                if second.verdict != REGRESSED:
                    why = f"{latency.why}; measured again: {second.verdict}, {second.why}"
                    latency = replace(latency, verdict=TOO_NOISY, why=why)
            verdicts += _held_against(baseline, measured)
            verdicts.append(latency)
            notes += _differences(baseline, measured, yardstick)
    verdicts += _asked(bundle, measured, options.budget, accuracy)
    stale = [one.name for one in verdicts if one.verdict == IMPROVED]
    if stale:
        notes.append(f"better than the baseline: keep it so with --update ({', '.join(stale)})")
    worst = max(sessions, key=lambda one: one.conditions.waited or 0)
    return Check(tuple(verdicts), measured, str(worst.conditions), tuple(notes))


def _measure(found: Rig, options: GateOptions, steps: Progress, title: str) -> list[Timed]:
    steps.stage(title, options.rounds)
    made: list[Timed] = []
    for _ in range(options.rounds):
        made.append(found.timed(options.runs, options.warmup, yardstick=True))
        steps.advance()
    return made


def _shares(sessions: Sequence[Timed], has_apart: bool) -> dict[str, Shares]:
    """By yardstick, the bundle's latency by its own in every process."""
    places = {FIXED: -1} | ({APART: 1} if has_apart else {})
    quiet = shares_quiet([one.conditions for one in sessions])
    return {
        name: Shares(
            tuple(one.share(0, place) for one in sessions),
            tuple(one.processor_share(0, place) for one in sessions),
            quiet,
        )
        for name, place in places.items()
    }


def _latency(baseline: Baseline, measured: Baseline, options: GateOptions) -> tuple[Verdict, str]:
    """The verdict on latency, beside the models apart where those are the same files, and known.

    They do what the bundle does, so what else goes on moves both alike.
    """
    before, now = baseline.latency, measured.latency
    same = baseline.models == measured.models and baseline.frame == measured.frame
    name = APART if same and APART in before and APART in now else FIXED
    same_processor = baseline.machine.processor == measured.machine.processor
    known = before.get(name) if baseline.threads == measured.threads else None
    verdict = judge_latency(known, now[name], options.most_slower, name, same_processor)
    if baseline.threads != measured.threads:
        why = f"the baseline ran on {baseline.threads} threads, this on {measured.threads}"
        verdict = replace(verdict, why=why)
    return verdict, name


def _held_against(baseline: Baseline, measured: Baseline) -> list[Verdict]:
    names = dict.fromkeys(one.name for one in (*measured.figures, *baseline.figures))
    found = [judge_exact(baseline.figure(name), measured.figure(name)) for name in names]
    same_system = baseline.machine.system == measured.machine.system
    found.append(judge_memory(baseline.uss_nbytes, measured.uss_nbytes, same_system))
    return found


def _differences(baseline: Baseline, measured: Baseline, yardstick: str) -> list[str]:
    found: list[str] = []
    was, here = baseline.machine, measured.machine
    for what, old, new in (
        ("processor", was.processor, here.processor),
        ("ONNX Runtime", was.onnxruntime, here.onnxruntime),
        ("system", was.system, here.system),
    ):
        if old != new:
            found.append(f"the baseline is of another {what}: {old} there, {new} here")
    changed = sorted(k for k, v in measured.models.items() if baseline.models.get(k) != v)
    if changed:
        found.append(f"compiled from other files than the baseline's: {', '.join(changed)}")
    if yardstick == FIXED:
        found.append(
            "latency is held beside a fixed network: beside the models apart, which must lie "
            "where the bundle says or in --originals, then and now, less would disturb it"
        )
    return found


def _asked(
    bundle: Bundle, measured: Baseline, budget: Budget | None, accuracy: Sequence[AccuracyFloor]
) -> list[Verdict]:
    found: list[Verdict] = []
    memory = bundle.manifest.memory
    if budget is not None and budget.share is not None:
        if "apart_weights_nbytes" not in memory or "merged_weights_nbytes" not in memory:
            raise UsageError(
                "this bundle does not tell its weights apart", "give --budget in bytes"
            )
        limit = budget.limit(memory["apart_weights_nbytes"])
        found.append(_within("budget of weights", memory["merged_weights_nbytes"], limit))
    elif budget is not None:
        limit = budget.limit(0)
        if "merged_nbytes" in memory:
            found.append(_within("budget, predicted memory", memory["merged_nbytes"], limit))
        if uss := sorted(measured.uss_nbytes):
            found.append(_within("budget, measured memory", uss[len(uss) // 2], limit))
    for one in accuracy:
        word = KEPT if one.accuracy >= one.floor else MISSED
        why = f"{one.accuracy:.4f} where {one.floor:g} is the least"
        name = f"accuracy {one.model}"
        found.append(Verdict(name, "", None, one.accuracy, word, why, one.floor))
    return found


def _within(name: str, nbytes: int, limit: int) -> Verdict:
    word = KEPT if nbytes <= limit else MISSED
    why = f"{format_bytes(nbytes)} where {format_bytes(limit)} is the most"
    return Verdict(name, "B", None, nbytes, word, why, limit)


def verdict_text(one: Verdict) -> str:
    """'1.05 -> 1.1 MiB', with what else is to be said."""
    change = f"{amount_text(one.before, one.unit)} -> {amount_text(one.now, one.unit)}"
    return f"{change}, {one.why}" if one.why else change


def amount_text(value: float | None, unit: str) -> str:
    """A figure as people read it; what no unit scales keeps six digits."""
    if value is None:
        return "-"
    if unit == "B":
        return format_bytes(value)
    return f"{value:,.0f}".replace(",", " ") if unit in ("MACs", "operators") else f"{value:.6g}"


def _more(found: Sequence[Verdict]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
