"""What a similarity analysis found: a value, its JSON, its table of best matches, its arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..graph.arrays import Array, Float64
from ..reports.table import Grid, figures, words
from .features import LayerStatistics
from .layers import Layer, Skipped
from .measures import CATALOG
from .pairs import PairMatrix

SCHEMA = "repsimc.similarity/1"
UNDEFINED = "undefined"
NOT_APPLICABLE = "not applicable"
# Rows of the table; the JSON has all.
_LISTED = 20


@dataclass(frozen=True)
class LayerReport:
    """A layer and what is known of it alone."""

    layer: Layer
    statistics: LayerStatistics


@dataclass(frozen=True)
class SiteMark:
    """A pair of layers, by index in a and b, at which the planner would try a swap.

    `into_b` tells whether b would take a's representation, or a would take b's. `r2` is the
    planner's own estimate.
    """

    a_layer: int
    b_layer: int
    into_b: bool
    r2: float


@dataclass(frozen=True)
class PairReport:
    """Every measure between all layers of model a and all layers of model b (a == b: within)."""

    a: str
    b: str
    matrices: Mapping[str, PairMatrix]
    sites: tuple[SiteMark, ...] = ()


@dataclass(frozen=True)
class Match:
    """The layer of another model (or, within, another layer) that is most like a layer.

    `value`, `null` and `spread` are of the first measure asked for; `r2` is the held-out R2 of the
    best affine map from the match to the layer. nan where undefined or not applicable.
    """

    model: str
    layer: str
    like_model: str
    like_layer: str
    measure: str
    value: float
    null: float
    spread: float
    r2: float


@dataclass(frozen=True)
class SimilarityResult:
    """A similarity analysis: layers by model, matrices by pair, best matches, what was left out."""

    models: Mapping[str, tuple[LayerReport, ...]]
    pairs: tuple[PairReport, ...]
    matches: tuple[Match, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    measures: tuple[str, ...]
    frames: int
    sketched: bool
    seed: int

    def pair(self, a: str, b: str) -> PairReport:
        """The pair of models, in the order it was computed. Raises KeyError."""
        for pair in self.pairs:
            if (pair.a, pair.b) == (a, b):
                return pair
        raise KeyError((a, b))

    def matrix(self, a: str, b: str, measure: str | None = None) -> Float64:
        """Values of a measure (default: the first) between layers of a and b; nan = undefined.

        For (b, a) of a pair (a, b) the transpose. Raises KeyError.
        """
        name = measure or self.measures[0]
        try:
            return self.pair(a, b).matrices[name].values
        except KeyError:
            return self.pair(b, a).matrices[name].values.T

    def layers(self, model: str) -> tuple[str, ...]:
        """Names of a model's layers in the order of matrices. Raises KeyError."""
        return tuple(report.layer.name for report in self.models[model])

    def best(self, count: int | None = None) -> tuple[Match, ...]:
        """The matches that are defined, most alike first."""
        known = [match for match in self.matches if match.value == match.value]
        sign = -1 if known and CATALOG[known[0].measure].similarity else 1
        known.sort(key=lambda m: (sign * m.value, m.model, m.layer))
        return tuple(known[:count])

    def to_json(self) -> dict[str, Any]:
        """The analysis as JSON types, without the matrices (`arrays` gives those)."""
        return {
            "schema": SCHEMA,
            "frames": self.frames,
            "mode": "sketch" if self.sketched else "exact",
            "seed": self.seed,
            "measures": [
                {
                    "name": name,
                    "title": CATALOG[name].title,
                    "larger_is_more_alike": CATALOG[name].similarity,
                    "null_shuffles": CATALOG[name].null,
                }
                for name in self.measures
            ],
            "models": [
                {"name": name, "layers": [_layer_json(report) for report in reports]}
                for name, reports in self.models.items()
            ],
            "pairs": [self._pair_json(pair) for pair in self.pairs],
            "matches": [_match_json(match) for match in self.matches],
            "skipped": [asdict(each) for each in self.skipped],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def _pair_json(self, pair: PairReport) -> dict[str, Any]:
        names = (self.layers(pair.a), self.layers(pair.b))
        sites: list[dict[str, Any]] = []
        for mark in pair.sites:
            ends = [(pair.a, names[0][mark.a_layer]), (pair.b, names[1][mark.b_layer])]
            donor, receiver = ends if mark.into_b else reversed(ends)
            sites.append(
                {
                    "donor": donor[0],
                    "donor_layer": donor[1],
                    "receiver": receiver[0],
                    "receiver_layer": receiver[1],
                    "r2": number(mark.r2),
                }
            )
        return {
            "a": pair.a,
            "b": pair.b,
            "measures": {name: _matrix_json(matrix) for name, matrix in pair.matrices.items()},
            "sites": sites,
        }


def arrays(result: SimilarityResult, pair: PairReport) -> dict[str, Array]:
    """The pair's matrices as arrays for an .npz: 'cka', 'cka.null', ..., and the layers' names."""
    found: dict[str, Array] = {
        "layers_a": np.array(result.layers(pair.a), dtype=np.str_),
        "layers_b": np.array(result.layers(pair.b), dtype=np.str_),
    }
    for name, matrix in pair.matrices.items():
        found[name] = matrix.values
        for part in ("null", "null_extreme", "spread", "applicable"):
            found[f"{name}.{part}"] = getattr(matrix, part)
    return found


def similarity_grid(result: SimilarityResult) -> Grid:
    """The best matches as a table, most alike first, with the null and the spread beside them."""
    best = result.best()
    distinct = _distinct(best)
    rows = tuple(
        (
            f"{match.model}/{match.layer}",
            f"{match.like_model}/{match.like_layer}",
            _text(match.value),
            _text(match.spread),
            _text(match.null),
            _text(match.r2),
        )
        for match in distinct[:_LISTED]
    )
    notes = [*result.notes]
    if len(distinct) > _LISTED:
        notes.append(f"{len(distinct) - _LISTED} more matches are in the JSON")
    undefined = len(result.matches) - len(best)
    if undefined:
        notes.append(f"{undefined} layers have no match: undefined, or nothing to compare with")
    notes += [f"{each.model}/{each.layer} is skipped: {each.reason}" for each in result.skipped]
    return Grid(
        title=_title(result),
        columns=words("layer", "most like")
        + figures(result.measures[0], "spread", "null", "affine R2"),
        rows=rows,
        notes=tuple(notes),
    )


def _distinct(best: Sequence[Match]) -> list[Match]:
    """Without the mirror image of a match: two layers that are each other's best are one line."""
    found: list[Match] = []
    seen: set[frozenset[tuple[str, str]]] = set()
    for match in best:
        ends = frozenset(((match.model, match.layer), (match.like_model, match.like_layer)))
        if ends not in seen:
            seen.add(ends)
            found.append(match)
    return found


def number(value: float) -> float | str:
    """The number, or 'undefined'."""
    return float(value) if math.isfinite(value) else UNDEFINED


def _title(result: SimilarityResult) -> str:
    counts = ", ".join(f"{name} {len(layers)} layers" for name, layers in result.models.items())
    how = ", sketched" if result.sketched else ""
    return f"{CATALOG[result.measures[0]].title}; {counts}; {result.frames} frames{how}"


def _text(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else UNDEFINED


def _layer_json(report: LayerReport) -> dict[str, Any]:
    known = report.statistics
    return {
        "name": report.layer.name,
        "shape": list(report.layer.shape),
        "channels": report.layer.channels,
        "constant": known.constant,
        "finite": known.finite,
        "activation_entropy": number(known.entropy),
        "sign_entropy": number(known.sign_entropy),
        "share_positive": number(known.positive),
        "share_negative": number(known.negative),
        "intrinsic_dimension": number(known.dimension),
        "block_influence": number(known.influence) if known.influence_of else NOT_APPLICABLE,
        "block_influence_after": known.influence_of or None,
    }


def _match_json(match: Match) -> dict[str, Any]:
    found = {
        name: number(value) if isinstance(value, float) else value
        for name, value in asdict(match).items()
    }
    found["affine_r2"] = found.pop("r2")
    return found


def _matrix_json(matrix: PairMatrix) -> dict[str, Any]:
    known = matrix.values[np.isfinite(matrix.values)]
    applicable = int(matrix.applicable.sum())
    summary: dict[str, Any] = {
        "pairs": int(matrix.values.size),
        "not_applicable": int(matrix.values.size) - applicable,
        "undefined": applicable - len(known),
        "sketch_error": float(matrix.sketch_error),
    }
    for name, part in (
        ("mean", matrix.values),
        ("mean_null", matrix.null),
        ("mean_spread", matrix.spread),
    ):
        finite = part[np.isfinite(part)]
        summary[name] = float(finite.mean()) if len(finite) else UNDEFINED
    return summary


def cell(matrix: PairMatrix, part: Float64, i: int, j: int) -> float | str:
    """One cell for people: the number, 'undefined' or 'not applicable'."""
    if not matrix.applicable[i, j]:
        return NOT_APPLICABLE
    return number(float(part[i, j]))


def best_rows(matrix: PairMatrix, within: bool) -> list[int]:
    """For every column the row that is most alike (not itself, `within`); -1 where undefined."""
    values = matrix.values if matrix.measure.similarity else -matrix.values
    filled = np.where(np.isnan(values), -np.inf, values)
    if within:
        np.fill_diagonal(filled, -np.inf)
    if not filled.shape[0]:
        return [-1] * filled.shape[1]
    best = filled.argmax(axis=0)
    known = np.isfinite(filled.max(axis=0))
    return [int(row) if ok else -1 for row, ok in zip(best, known)]
