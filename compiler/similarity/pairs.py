"""Every layer of one model with every layer of another: values, nulls and spreads in matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .features import ModelFeatures
from .gram_pairs import GRAM_MEASURES
from .measures import CATALOG
from .pair_matrix import PairMatrix
from .row_pairs import row_measure

__all__ = ["PairMatrix", "compare"]


def compare(
    a: ModelFeatures,
    b: ModelFeatures,
    names: Sequence[str],
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, PairMatrix]:
    """The matrices of the measures named, all on the same frames. Advances once per measure.

    Raises ValueError when the models were not run on equally many frames, KeyError for a measure
    that is not in the catalog.
    """
    if a.frames != b.frames:
        raise ValueError(f"{a.model} has {a.frames} frames, {b.model} {b.frames}")
    found: dict[str, PairMatrix] = {}
    for name in names:
        measure = CATALOG[name]
        if name in GRAM_MEASURES:
            matrix = GRAM_MEASURES[name](measure, a, b, seed)
        else:
            matrix = row_measure(measure, a, b, seed)
        found[name] = _with_itself(matrix, b) if a.model == b.model else matrix
        advance(1)
    return found


def _with_itself(matrix: PairMatrix, model: ModelFeatures) -> PairMatrix:
    """A layer beside itself is known without measuring, where anything is defined of it."""
    values, spread = matrix.values.copy(), matrix.spread.copy()
    for index, layer in enumerate(model.layers):
        if layer.statistics.finite and not layer.statistics.constant:
            values[index, index] = 1.0 if matrix.measure.similarity else 0.0
            spread[index, index] = 0.0
    return replace(matrix, values=values, spread=spread)
