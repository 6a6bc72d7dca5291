"""One measure between all layers of two models, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..graph.arrays import Float64
from .measures import Measure

# Permutations for a null, and the frames it looks at: its width shrinks with more frames, so on
# long sets the null is if anything too wide.
PERMUTATIONS = 3
NULL_FRAMES = 256
# Blocks of frames that the jackknife leaves out in turn.
BLOCKS = 8


@dataclass(frozen=True)
class PairMatrix:
    """One measure between all layers of a [rows] and of b [columns]; nan where undefined.

    `null` is the mean over permutations, `null_extreme` the one most alike of them, `spread` the
    jackknife standard error. `applicable` is False where the measure asks for equal shapes or
    kinds and the layers differ. `sketch_error` is the standard error that sketching adds, over
    all pairs (0 if nothing was sketched).
    """

    measure: Measure
    values: Float64
    null: Float64
    null_extreme: Float64
    spread: Float64
    applicable: NDArray[np.bool_]
    sketch_error: float = 0.0


def matrix_of(
    measure: Measure,
    values: Float64,
    null: Sequence[Float64],
    spread: Float64,
    sketch_error: float = 0.0,
) -> PairMatrix:
    """The matrices of a measure that applies to all layers, from one matrix per permutation."""
    undefined = np.full(values.shape, np.nan)
    mean = np.mean(np.stack(null), axis=0) if null else undefined
    extreme = np.max(np.stack(null), axis=0) if null else undefined
    return PairMatrix(
        measure,
        values,
        mean,
        extreme,
        np.where(np.isnan(values), np.nan, spread),
        np.ones(values.shape, bool),
        sketch_error,
    )


def undefined_matrix(measure: Measure, shape: tuple[int, int]) -> PairMatrix:
    """Matrices of a measure of which too few frames tell nothing."""
    return matrix_of(measure, np.full(shape, np.nan), [], np.full(shape, np.nan))
