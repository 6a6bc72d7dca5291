"""What was measured on a bundle, beside its originals: tables and JSON of verify and bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from ...runtime.json_values import json_number
from ..errors import FidelityError
from ..units import format_bytes
from .report import OutputFidelity
from .table import Grid, fidelity_value, figures, floor_text, shown_share, words

if TYPE_CHECKING:
    from ...runtime.bench import BenchResult, Side

VERIFICATION_SCHEMA = "repsimc.verification/1"


@dataclass(frozen=True)
class OutputVerification:
    """One output of one model: compiled beside original.

    `fidelity` compares the two; `max_difference` is the largest absolute difference of finite
    values. `stated` is what compile's own frames proved, `stated_stressed` what blends of them did,
    None where it says nothing. The
    accuracies (top-1 against the labels, 0..1) are None where no labels were given.
    """

    model: str
    fidelity: OutputFidelity
    max_difference: float
    accuracy_original: float | None = None
    accuracy_compiled: float | None = None
    stated: float | None = None
    stated_stressed: float | None = None

    @property
    def as_stated(self) -> bool | None:
        """Of an output that misses its floor, whether compile's bound allowed that much."""
        if self.fidelity.met or self.stated is None:
            return None
        return self.fidelity.value >= self.stated

    @property
    def by_chance(self) -> bool:
        """Whether these frames are so few that they may well show less than was stated."""
        shown, lower = self.fidelity.value, self.fidelity.lower
        # As far above what they show as their own bound lies below.
        return self.stated is not None and lower is not None and 2 * shown - lower >= self.stated


def missed_floor(found: Sequence[OutputVerification]) -> FidelityError | None:
    """The error of a verification in which an output misses its floor: the one that is worst."""
    missed = [item for item in found if not item.fidelity.met]
    if not missed:
        return None
    worst = min(missed, key=lambda item: item.fidelity.margin)
    fidelity = worst.fidelity
    more = f", and {len(missed) - 1} more miss theirs" if len(missed) > 1 else ""
    return FidelityError(
        f"output '{fidelity.output}' of model '{worst.model}' has a fidelity of "
        f"{fidelity_value(fidelity)} on these frames, below its floor of {fidelity.floor:g}"
        f"{_beside_stated(worst)}{more}",
        "compile with more calibration frames, or with --strict, which proves the floor"
        if worst.as_stated
        else "compile with calibration frames like these, or with a higher --min-fidelity",
    )


def _beside_stated(item: OutputVerification) -> str:
    if item.as_stated is None:
        return ""
    assert item.stated is not None
    bound = shown_share(item.stated)
    if item.as_stated:
        return f" and within the bound that compile stated, {bound}"
    below = f" and below the bound that compile stated, {bound}"
    if item.by_chance:
        return f"{below}, as {item.fidelity.frames} frames may be by chance"
    blends = item.stated_stressed
    if blends is not None and blends < item.stated:
        return (
            f"{below}: blends of its frames proved {shown_share(blends)}, so the models may have "
            "been trained on those, or these frames are of another kind"
        )
    return f"{below}: these frames are of another kind"


def verification_json(found: Sequence[OutputVerification]) -> dict[str, Any]:
    """A verification as JSON types; `met` tells whether every output keeps its floor."""
    return {
        "schema": VERIFICATION_SCHEMA,
        "met": all(item.fidelity.met for item in found),
        "outputs": [
            {
                "model": item.model,
                **item.fidelity.to_json(),
                "met": item.fidelity.met,
                "max_difference": json_number(item.max_difference),
                "stated": item.stated,
                "stated_stressed": item.stated_stressed,
                "as_stated": item.as_stated,
                "accuracy_original": item.accuracy_original,
                "accuracy_compiled": item.accuracy_compiled,
            }
            for item in found
        ],
    }


def verification_grid(found: Sequence[OutputVerification]) -> Grid:
    """A row per output: fidelity against its floor and, with labels, accuracy before and after."""
    judged = any(item.accuracy_original is not None for item in found)
    columns = words("model", "output", "fidelity") + figures("at least", "floor") + words("")
    columns += figures("max diff", "frames")
    if judged:
        columns += figures("accuracy")
    rows: list[tuple[str, ...]] = []
    for item in found:
        row = [
            item.model,
            item.fidelity.output,
            fidelity_value(item.fidelity),
            "-" if item.fidelity.lower is None else shown_share(item.fidelity.lower),
            floor_text(item.fidelity.floor),
            _verdict(item),
            f"{item.max_difference:.1e}",
            str(item.fidelity.frames),
        ]
        if judged:
            row.append(_accuracy(item))
        rows.append(tuple(row))
    title = "compiled beside original" + ("; accuracy: original -> compiled" if judged else "")
    return Grid(title, columns, tuple(rows))


def _verdict(item: OutputVerification) -> str:
    if item.as_stated is None:
        return "kept" if item.fidelity.met else "MISSED"
    return f"MISSED, {'within' if item.as_stated else 'below'} compile's bound"


def _accuracy(item: OutputVerification) -> str:
    if item.accuracy_original is None or item.accuracy_compiled is None:
        return "-"
    points = 100 * (item.accuracy_compiled - item.accuracy_original)
    return (
        f"{100 * item.accuracy_original:.2f} -> {100 * item.accuracy_compiled:.2f} % "
        f"({points:+.2f})"
    )


def bench_grid(result: BenchResult) -> Grid:
    """Latency and memory: the merged graph, the models apart, and the one as share of the other."""
    sides = [("merged", result.merged)]
    if result.apart is not None:
        sides.append(("apart", result.apart))
    rows = [_side_row(name, side) for name, side in sides]
    threads = "all cores" if result.threads is None else f"threads: {result.threads}"
    summary = [
        f"fed with {result.frame}; processor is p10 of the time on all threads, memory is USS "
        "above an empty process",
        f"the machine: {result.conditions}",
    ]
    if (ratio := result.ratio) is not None:
        summary.insert(
            0,
            f"latency, merged / apart: {ratio.value:.3f} of the p10s ({ratio.low:.3f} to "
            f"{ratio.high:.3f} with {100 * ratio.confidence:g} % confidence)",
        )
    return Grid(
        f"one frame through all models: {result.runs} runs, {threads}, "
        f"ONNX Runtime {result.onnxruntime}",
        words("") + figures("p10", "p50", "p90", "p99", "processor", "memory", "predicted"),
        tuple(rows),
        total=None if result.apart is None else _share_row(result.merged, result.apart),
        summary=tuple(summary),
        notes=(*result.notes, *([result.doubt] if result.doubt else [])),
    )


def _side_row(name: str, side: Side) -> tuple[str, ...]:
    *seconds, measured, predicted = _figures(side)
    return (
        name,
        *("-" if value is None else f"{1000 * value:.3g} ms" for value in seconds),
        *("-" if nbytes is None else format_bytes(nbytes) for nbytes in (measured, predicted)),
    )


def _figures(side: Side) -> tuple[float | None, ...]:
    """Seconds at the percentiles and of the processor; bytes measured and predicted."""
    *percentiles, _ = astuple(side.latency)
    measured = None if side.memory is None else side.memory.uss_nbytes
    return (*percentiles, side.processor.p10_seconds, measured, side.predicted_nbytes)


def _share_row(merged: Side, apart: Side) -> tuple[str, ...]:
    pairs = zip(_figures(merged), _figures(apart))
    return (
        "merged / apart",
        *(f"{one / other:.2f}" if one is not None and other else "-" for one, other in pairs),
    )
