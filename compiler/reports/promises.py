"""What a report's figures do not promise, in words: bounds below floors, fidelity that flatters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..execution.confidence import agreement_bound
from ..execution.fidelity import TOP1
from .report import ModelReport, OutputFidelity
from .table import shown_share

# Blends prove 1 to 3 points less than frames as they are where one of the zoo's networks was
# fine-tuned from the other, and 11 where both were trained apart on these frames.
_FAR = 0.04
_MOST_FRAMES = 10_000_000


def promise_notes(models: Sequence[ModelReport]) -> list[str]:
    """A note each on the output whose floor is farthest from proved, on the most flattered, and on
    one judged as class scores that may be none."""
    rows = [(model.name, output) for model in models for output in model.fidelity]
    found: list[str] = []
    unproved = [(name, o) for name, o in rows if o.lower is not None and o.lower < o.floor]
    if unproved:
        name, output = min(unproved, key=lambda row: (row[1].lower or 0.0) - row[1].floor)
        needed = frames_needed(output)
        what = "no number of them" if needed is None else f"about {needed} held-out ones"
        found.append(
            f"{output.frames} held-out frames prove {shown_share(output.lower or 0.0)} of "
            f"{name}/{output.output} at {100 * output.confidence:g} %, below its floor of "
            f"{output.floor:g}{_more(unproved)}; {what} with this fidelity would prove it"
        )
    flattered = [
        (name, o) for name, o in rows if o.stressed is not None and o.stressed < _shown(o) - _FAR
    ]
    if flattered:
        name, output = min(flattered, key=lambda row: (row[1].stressed or 0.0) - _shown(row[1]))
        found.append(
            f"held-out frames prove {shown_share(_shown(output))} of {name}/{output.output}, and "
            f"blends of them {shown_share(output.stressed or 0.0)}{_more(flattered)}: if the "
            "models were trained on frames like these, others will show as little; give frames "
            "that none was trained on, or a floor for blends with --min-stressed"
        )
    scores = [
        (name, o)
        for name, o in rows
        if o.metric == TOP1 and o.explained is not None and o.explained < o.floor
    ]
    if scores:
        name, output = min(scores, key=lambda row: row[1].explained or 0.0)
        found.append(
            f"{name}/{output.output} is judged as class scores, by which number is largest, and of "
            f"its variance {shown_share(output.explained or 0.0)} is kept{_more(scores)}: if it "
            "holds no scores (landmarks, an embedding), say so with "
            f"'{name}/{output.output}' = 'variance' under [metrics] in repsimc.toml"
        )
    return found


def frames_needed(output: OutputFidelity) -> int | None:
    """About how many held-out frames of this fidelity would prove the floor; None: none do."""
    room = output.value - output.floor
    if room <= 0 or output.lower is None:
        return None
    if output.metric != TOP1:
        wanted = output.frames * ((output.value - output.lower) / room) ** 2
        return _rounded(wanted) if wanted < _MOST_FRAMES else None
    low, high = 0, 1
    while agreement_bound(output.value, high, output.confidence) < output.floor:
        low, high = high, 2 * high
        if high > _MOST_FRAMES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        proved = agreement_bound(output.value, middle, output.confidence) >= output.floor
        low, high = (low, middle) if proved else (middle, high)
    return _rounded(high)


def _shown(output: OutputFidelity) -> float:
    """What the frames as they are prove: blends are held against it, few frames prove as little."""
    return output.value if output.lower is None else output.lower


def _rounded(count: float) -> int:
    """Up to two digits: it is a guess."""
    step = 10 ** max(len(str(math.ceil(count))) - 2, 0)
    return math.ceil(count / step) * step


def _more(rows: Sequence[object]) -> str:
    return f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
