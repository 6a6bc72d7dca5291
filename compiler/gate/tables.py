"""What the gate found, as a table."""

from __future__ import annotations

from ..reports.table import Grid, figures, words
from .judging import Check, amount_text


def check_grid(found: Check) -> Grid:
    """A row per figure: what it was, what it is, the verdict and why."""
    measured = found.measured
    return Grid(
        f"{len(found.verdicts)} figures held against the baseline and what was asked for",
        words("figure") + figures("before", "now") + words("verdict", "why"),
        tuple(
            (
                one.name,
                amount_text(one.before, one.unit),
                amount_text(one.now, one.unit),
                one.verdict,
                one.why,
            )
            for one in found.verdicts
        ),
        summary=(
            f"latency in {len(next(iter(measured.latency.values())).clock)} fresh processes on "
            f"{measured.threads} thread{'s' if measured.threads > 1 else ''}, fed with "
            f"{measured.frame}; the machine, at its busiest: {found.machine}",
        ),
        notes=found.notes,
    )
