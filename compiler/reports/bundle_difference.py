"""What changed from one bundle to another, and which rewrites and files make the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.files import inside
from ...runtime.json_values import JsonValue
from ...runtime.manifest import Manifest, ModelEntry
from ...runtime.session import Bundle
from ...runtime.wire import GraphFile
from ..units import format_bytes, format_count
from .bundle_contents import read_report
from .report import ActionReport, Report
from .table import Grid, figures, words

SCHEMA = "repsimc.diff/1"
_DIGEST = 12  # characters of a sha256 that tell two apart
_UNKNOWN_OPERATOR = "other domains"


@dataclass(frozen=True)
class AmountChange(JsonValue):
    """A figure in either bundle; None where one does not have it."""

    name: str
    unit: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class TextChange(JsonValue):
    """What is said in either bundle, where that differs; '' where one says nothing."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class RewriteChange(JsonValue):
    """An inexact rewrite that only one of the bundles has: `came` says whether it is the later."""

    came: bool
    kind: str
    place: str
    weights_saved_nbytes: int
    macs_saved: int


@dataclass(frozen=True)
class BundleDifference(JsonValue):
    """All that differs: amounts, rewrites that came or went, and texts (versions, digests)."""

    amounts: tuple[AmountChange, ...]
    rewrites: tuple[RewriteChange, ...]
    texts: tuple[TextChange, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.amounts or self.rewrites or self.texts)

    def to_json(self) -> dict[str, Any]:
        """The difference as JSON values, with schema version."""
        return {"schema": SCHEMA, "same": self.same, **super().to_json()}


def difference_of(before: Bundle, after: Bundle) -> BundleDifference:
    """What differs, by the manifests, reports and graphs; nothing is run.

    Raises ModelError for a bundle that is damaged.
    """
    bundles = (before, after)
    reports = tuple(read_report(one.path, one.manifest) for one in bundles)
    amounts = [dict(_amounts(one, report)) for one, report in zip(bundles, reports, strict=True)]
    texts = [
        dict(_texts(one.manifest, report)) for one, report in zip(bundles, reports, strict=True)
    ]
    return BundleDifference(
        tuple(
            AmountChange(name, unit, amounts[0].get((name, unit)), amounts[1].get((name, unit)))
            for name, unit in dict.fromkeys((*amounts[0], *amounts[1]))
            if amounts[0].get((name, unit)) != amounts[1].get((name, unit))
        ),
        tuple(_rewrites(reports[0].actions, reports[1].actions)),
        tuple(
            TextChange(name, texts[0].get(name, ""), texts[1].get(name, ""))
            for name in dict.fromkeys((*texts[0], *texts[1]))
            if texts[0].get(name, "") != texts[1].get(name, "")
        ),
    )


def _amounts(bundle: Bundle, report: Report) -> Iterator[tuple[tuple[str, str], float]]:
    manifest = bundle.manifest
    yield ("weights", "B"), report.weights_after_nbytes
    for bits, nbytes in sorted(report.weights_by_bits.items()):
        yield (f"weights in {bits} bits", "B"), nbytes
    yield ("memory, predicted", "B"), report.memory_after_nbytes
    if not report.sizes_unknown:
        yield ("MACs", "MACs"), report.macs_after
    nodes = GraphFile(inside(bundle.path, manifest.graph).read_bytes()).nodes
    yield ("operators", ""), len(nodes)
    for name, count in sorted(Counter(n.operator or _UNKNOWN_OPERATOR for n in nodes).items()):
        yield (f"operators, {name}", ""), count
    for model in report.models:
        yield (f"weights of {model.name}", "B"), model.weights_after_nbytes
        yield (f"MACs of {model.name}", "MACs"), model.macs_after
        for one in model.fidelity:
            yield (f"fidelity {model.name}/{one.output}, {one.metric}", "share"), one.value
            if one.lower is not None:
                yield (f"fidelity {model.name}/{one.output}, at least", "share"), one.lower


def _texts(manifest: Manifest, report: Report) -> Iterator[tuple[str, str]]:
    yield "repsimc", manifest.repsimc
    yield "models", ", ".join(entry.name for entry in manifest.models)
    yield "precision", manifest.precision
    yield "layout", manifest.layout
    yield "frames to fit, held out", f"{report.frames_fit}, {report.frames_held_out}"
    if report.budget_nbytes is not None:
        yield "budget", f"{format_bytes(report.budget_nbytes)} of {report.budget_counts}"
    for entry in manifest.models:
        yield f"file of {entry.name}", f"{entry.source.file} {entry.source.sha256[:_DIGEST]}"
        yield f"interface of {entry.name}", _interface(entry)
    for name, file in sorted(manifest.files.items()):
        yield name, f"{file.nbytes} B, {file.sha256[:_DIGEST]}"
    for model in report.models:
        shared = (
            f"{one.donor} {100 * one.depth:.0f} % {'exact' if one.exact else 'adapted'}"
            for one in model.sharing
        )
        yield f"shared by {model.name}", ", ".join(shared)


def _interface(entry: ModelEntry) -> str:
    sides = (entry.inputs, entry.outputs)
    return " -> ".join(", ".join(f"{s.name} {s.dtype} {s.shape}" for s in side) for side in sides)


def _rewrites(
    before: tuple[ActionReport, ...], after: tuple[ActionReport, ...]
) -> Iterator[RewriteChange]:
    # Of equal ones, as many as there are more on one side.
    counts: Mapping[bool, Counter[tuple[str, str]]] = {
        came: Counter((one.kind, one.place) for one in actions)
        for came, actions in ((False, before), (True, after))
    }
    for came, actions in ((False, before), (True, after)):
        left = counts[came] - counts[not came]
        for one in actions:
            if left[one.kind, one.place] > 0:
                left[one.kind, one.place] -= 1
                yield RewriteChange(
                    came, one.kind, one.place, one.weights_saved_nbytes, one.macs_saved
                )


def difference_grids(found: BundleDifference) -> tuple[Grid, ...]:
    """Tables of what changed, of why, and of versions and digests; only those that have rows."""
    grids: list[Grid] = []
    if found.same:
        return (Grid("the bundles are the same", words("what"), (("nothing differs",),)),)
    if found.amounts:
        rows = tuple(
            (one.name, _amount(one.before, one.unit), _amount(one.after, one.unit), _percent(one))
            for one in found.amounts
        )
        columns = words("what changed") + figures("before", "after", "by")
        grids.append(Grid("", columns, rows))
    if found.rewrites:
        rows = tuple(
            (
                "came" if one.came else "went",
                one.kind,
                one.place,
                format_bytes(one.weights_saved_nbytes),
                format_count(one.macs_saved),
            )
            for one in found.rewrites
        )
        columns = words("rewrite", "kind", "place") + figures("weights", "MACs")
        grids.append(Grid("why: rewrites, and what each saves alone", columns, rows))
    if found.texts:
        rows = tuple((one.name, one.before or "-", one.after or "-") for one in found.texts)
        columns = words("what", "before", "after")
        grids.append(Grid("why: versions, files, what is shared", columns, rows))
    return tuple(grids)


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "B":
        return format_bytes(value)
    return format_count(value) if unit == "MACs" else f"{value:.6g}"


def _percent(one: AmountChange) -> str:
    if one.before is None or one.after is None or not one.before:
        return ""
    return f"{100 * (one.after / one.before - 1):+.2f} %"
