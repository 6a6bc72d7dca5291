"""A figure now beside what it was: regressed, improved, the same, or that nobody can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...runtime.json_values import JsonValue
from .baseline import ExactFigure, Shares
from .ranks import FEWEST, shift_of

REGRESSED, IMPROVED, SAME = "regressed", "improved", "same"
TOO_FEW, TOO_NOISY = "not enough samples", "machine too noisy"
NOT_COMPARABLE = "not comparable"  # nothing to hold it against: said, and no failure
MISSED, KEPT = "missed", "kept"  # of what was asked for, whatever a baseline says

# A processor of another kind runs one network faster than it does another, with nothing wrong.
OTHER_PROCESSOR = 0.25
# Fresh processes with the same models differ by a few pages, more on a busy machine.
_MEMORY_SHARE, _MEMORY_NBYTES = 0.02, 1 << 18


@dataclass(frozen=True)
class Verdict(JsonValue):
    """One figure: what it was (None: nothing known), what it is, and what that means.

    `limit` is what it may be at most or (of what is better the more) at least, where that is known.
    """

    name: str
    unit: str
    before: float | None
    now: float | None
    verdict: str
    why: str = ""
    limit: float | None = None


def judge_exact(before: ExactFigure | None, now: ExactFigure | None) -> Verdict:
    """Of a figure that nothing disturbs: any change beyond its slack counts."""
    if before is None or now is None:
        known = now or before
        assert known is not None
        why = "the baseline does not have it" if before is None else "only the baseline has it"
        return Verdict(
            known.name,
            known.unit,
            before and before.value,
            now and now.value,
            NOT_COMPARABLE,
            f"{why}: write it with --update",
        )
    worse = before.value - now.value if now.more_is_better else now.value - before.value
    word = SAME
    if math.isnan(now.value) != math.isnan(before.value):
        word = REGRESSED if math.isnan(now.value) else IMPROVED
    elif abs(worse) > now.slack:
        word = REGRESSED if worse > 0 else IMPROVED
    return Verdict(now.name, now.unit, before.value, now.value, word)


def judge_memory(before: Sequence[int], now: Sequence[int], comparable: bool) -> Verdict:
    """Of measured memory (bytes, a value per fresh process): beyond what both scatter over."""
    name = "memory, measured"
    if not before or not now or not comparable:
        why = "the baseline is of another system" if not comparable else "it can't be measured here"
        if comparable and not before:
            why = "the baseline does not have it: write it with --update"
        old, new = (float(sorted(each)[len(each) // 2]) if each else None for each in (before, now))
        return Verdict(name, "B", old, new, NOT_COMPARABLE, why)
    old, new = sorted(before)[len(before) // 2], sorted(now)[len(now) // 2]
    scatter = max(max(before) - min(before), max(now) - min(now))
    spread = max(scatter, _MEMORY_NBYTES, round(_MEMORY_SHARE * old))
    word = SAME
    if min(now) > max(before) and new > old + spread:
        word = REGRESSED
    elif max(now) < min(before) and new < old - spread:
        word = IMPROVED
    return Verdict(name, "B", old, new, word, limit=float(old + spread))


def judge_latency(
    before: Shares | None, now: Shares, most: float, yardstick: str, same_processor: bool
) -> Verdict:
    """Of latency as a share of the yardstick's, a value per fresh process on either side.

    Regressed: larger by ranks, by a factor above 1 + `most` (0.05 is 5 %), in the time of the
    clock and in that of the processor, and on a machine that had a core free whenever one was
    wanted, then and now. What is only partly so is told as noise, and is no failure.
    """
    name = f"latency / {yardstick}"
    new = _middle(now.clock)
    if before is None:
        why = "the baseline does not have it: write it with --update"
        return Verdict(name, "ratio", None, new, NOT_COMPARABLE, why)
    old = _middle(before.clock)
    found = shift_of(_logs(now.clock), _logs(before.clock))
    used = shift_of(_logs(now.processor), _logs(before.processor))
    if found is None or used is None:
        why = f"{min(len(now.clock), len(before.clock))} processes, and {FEWEST} are the least"
        return Verdict(name, "ratio", old, new, TOO_FEW, why)
    allowed = most if same_processor else max(most, OTHER_PROCESSOR)
    bound = math.log1p(allowed)
    told = (
        f"{_percent(found.value)} ({_percent(found.low)} to {_percent(found.high)}), "
        f"{100 * allowed:g} % allowed"
        + ("" if same_processor else " as the baseline is of another processor")
    )
    verdict = Verdict(
        name, "ratio", old, new, SAME, told, None if old is None else old * (1 + allowed)
    )
    busy = [when for when, each in (("then", before), ("now", now)) if not each.quiet]
    if not busy and found.low > 0 and found.value > bound and used.value > bound / 2:
        return replace(verdict, verdict=REGRESSED)
    if not busy and found.high < 0 and found.value < -bound and used.value < -bound / 2:
        return replace(verdict, verdict=IMPROVED)
    # Nothing beyond the limit in sight, and the interval is narrow enough to see it.
    reach = found.high - found.value
    if found.value <= bound and reach <= bound and (not busy or found.value >= -bound):
        return verdict
    if busy:
        told += f"; other programs had the cores {' and '.join(busy)}"
    return replace(verdict, verdict=TOO_NOISY, why=told)


def _logs(shares: Sequence[float]) -> list[float]:
    return [math.log(share) for share in shares]


def _middle(shares: Sequence[float]) -> float | None:
    return sorted(shares)[len(shares) // 2] if shares else None


def _percent(shift: float) -> str:
    return f"{100 * math.expm1(shift):+.1f} %"
