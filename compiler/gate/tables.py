"""What the gate found, as a table and as build services read it."""

from __future__ import annotations

from ..reports.outcome import FAILED, PASSED, TOLD, UNDECIDED, BuildFigure, Finding, Outcome
from ..reports.table import Grid, figures, words
from .judging import Check, amount_text, verdict_text
from .verdicts import KEPT, MISSED, REGRESSED, SAME, TOO_FEW, TOO_NOISY, Verdict


def check_grid(found: Check) -> Grid:
    """A row per figure: what it was, what it is, the verdict and why."""
    measured = found.measured
    # A first baseline has nothing to be held against: what it is made of is shown.
    verdicts = found.verdicts or tuple(
        Verdict(one.name, one.unit, None, one.value, "measured") for one in measured.figures
    )
    held = "held against the baseline and what was asked for" if found.verdicts else "measured"
    return Grid(
        f"{len(verdicts)} figures {held}",
        words("figure") + figures("before", "now") + words("verdict", "why"),
        tuple(
            (
                one.name,
                amount_text(one.before, one.unit),
                amount_text(one.now, one.unit),
                one.verdict,
                one.why,
            )
            for one in verdicts
        ),
        summary=(
            f"latency in {len(next(iter(measured.latency.values())).clock)} fresh processes on "
            f"{measured.threads} thread{'s' if measured.threads > 1 else ''}, fed with "
            f"{measured.frame}; the machine, at its busiest: {found.machine}",
        ),
        notes=found.notes,
    )


_STATES = {
    **dict.fromkeys((REGRESSED, MISSED), FAILED),
    **dict.fromkeys((TOO_FEW, TOO_NOISY), UNDECIDED),
    **dict.fromkeys((SAME, KEPT), PASSED),
}


def check_outcome(found: Check) -> Outcome:
    """A finding per verdict and per note; figures of which less is better."""
    findings = [
        Finding(one.name, _STATES.get(one.verdict, TOLD), f"{one.verdict}: {verdict_text(one)}")
        for one in found.verdicts
    ]
    findings += [Finding("note", TOLD, note) for note in found.notes]
    measured = [
        BuildFigure(f"{one.name}, lost", 1 - one.value, one.unit)
        if one.more_is_better
        else BuildFigure(one.name, one.value, one.unit)
        for one in found.measured.figures
    ]
    if uss := sorted(found.measured.uss_nbytes):
        measured.append(
            BuildFigure("memory, measured", uss[len(uss) // 2], "B", f"{uss[0]} to {uss[-1]}")
        )
    for yardstick, shares in found.measured.latency.items():
        clock = sorted(shares.clock)
        measured.append(
            BuildFigure(
                f"latency / {yardstick}",
                clock[len(clock) // 2],
                "ratio",
                f"{clock[0]:.4g} to {clock[-1]:.4g}",
            )
        )
    return Outcome("check", tuple(findings), tuple(measured))
