"""What hidden layers lose with fewer units, from moments of what their readers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from ..execution.rows import Rows, positions_per_frame, sample_positions, value_rows
from ..graph.arrays import Array, Float32, Float64
from .operators import LinearOperator
from .reference import FitSize, row_count
from .regression import RIDGE, products_in_threads
from .unit_choice import eliminated

# Bytes that the Gram matrices of one pass may take.
GRAMS_NBYTES = 512 << 20


@dataclass(frozen=True)
class NarrowableLayer:
    """A hidden layer by what reads it: `reader` has `units` inputs and helps to make `goal`.

    `keeps` are numbers of units that may be left, falling.
    """

    reader: LinearOperator
    goal: str
    units: int
    keeps: tuple[int, ...]

    @property
    def gram_nbytes(self) -> int:
        """Bytes of the Gram matrix of what the reader reads."""
        return 4 * self.reader.fan_in**2


def parts_of(layers: Sequence[NarrowableLayer]) -> list[list[NarrowableLayer]]:
    """The layers in parts that go in one pass each: Gram matrices of at most GRAMS_NBYTES."""
    parts: list[list[NarrowableLayer]] = []
    left = 0
    for layer in layers:
        if layer.gram_nbytes > left or not parts:
            parts.append([])
            left = GRAMS_NBYTES
        parts[-1].append(layer)
        left -= layer.gram_nbytes
    return parts


@dataclass
class _Moments:
    """Sums over rows of x and x x^T, and of the goal and its squares, about the first batch's."""

    layer: NarrowableLayer
    rows: int = 0
    centre: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    goal_centre: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    sums: Float64 = field(default_factory=lambda: np.zeros(0))
    gram: Float32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    goals: Float64 = field(default_factory=lambda: np.zeros(0))
    power: float = 0.0

    def add(self, x: Float32, goal: Float32) -> None:
        """Add rows x [n, fan_in] (overwritten) and goal [n, channels]."""
        if not self.rows:
            self.centre, self.goal_centre = x.mean(axis=0), goal.mean(axis=0)
            fan_in, channels = len(self.centre), len(self.goal_centre)
            self.sums, self.goals = np.zeros(fan_in), np.zeros(channels)
            self.gram = np.zeros((fan_in, fan_in), np.float32)
        x -= self.centre
        goal = goal - self.goal_centre
        self.gram += x.T @ x
        self.sums += x.sum(axis=0, dtype=np.float64)
        self.goals += goal.sum(axis=0, dtype=np.float64)
        self.power += float(np.square(goal, dtype=np.float64).sum())
        self.rows += len(x)

    def curve(self) -> list[tuple[int, float]]:
        """(Units left, share of the goal's variance that is lost), most units first.

        The reader's own weights are the fit on all units: they made the rows.
        """
        power = self.power - float(self.goals @ self.goals) / self.rows
        gram = self.gram.astype(np.float64)
        gram -= np.outer(self.sums, self.sums / self.rows)
        size = len(gram)
        gram[np.diag_indices(size)] += max(RIDGE * np.trace(gram) / size, 1e-12 * self.rows)
        factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True)
        inverse = scipy.linalg.cho_solve(factor, np.eye(size), overwrite_b=True)
        weight = self.layer.reader.affine().weight[0]
        inverse = np.ascontiguousarray(inverse)
        return [
            (len(kept), risen / power if power > 0 else 0.0)
            for kept, risen in eliminated(weight, inverse, self.layer.units, self.layer.keeps)
        ]


class UnitCurves:
    """The share of variance that hidden layers lose with fewer units, from one pass over frames.

    It is that of the variance of what the layer helps to make (the sum that its block ends in).
    `curves` goes by the value that the reader reads. Memory: a Gram matrix [fan_in, fan_in] of 4
    bytes a number for each layer, and a batch of rows of one.
    """

    def __init__(
        self, layers: Sequence[NarrowableLayer], limit: int, size: FitSize, seed: int = 0
    ) -> None:
        self.limit = limit
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self._size, self._seed, self._frames = size, seed, 0
        self._moments = {layer.reader.source.name: _Moments(layer) for layer in layers}
        self._places: dict[tuple[int, int], Rows] = {}

    @property
    def values(self) -> Sequence[str]:
        """What the readers read, and what they help to make."""
        layers = [moments.layer for moments in self._moments.values()]
        return list(dict.fromkeys(v for x in layers for v in (x.reader.source.name, x.goal)))

    def begin(self, frames: int) -> None:
        """Rows are drawn from so many frames."""
        self._frames = frames

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        """Add the rows of one batch."""
        for name, moments in list(self._moments.items()):
            reader, goal = moments.layer.reader, arrays[moments.layer.goal]
            last = reader.channels_last
            size = positions_per_frame(goal, batch.stop - batch.start, last)
            if size is None:
                del self._moments[name]
                continue
            places = self._drawn(size, row_count(reader, self._size))[batch]
            rows = reader.rows(arrays[name], places)
            moments.add(rows[:, 0], value_rows(goal, places, last))

    def finish(self) -> None:
        """Work the curves out, one layer after another."""
        with products_in_threads():
            for name in list(self._moments):
                moments = self._moments.pop(name)
                if moments.rows:
                    self.curves[name] = moments.curve()

    def _drawn(self, size: int, rows: int) -> Rows:
        if (size, rows) not in self._places:
            drawn = sample_positions(self._frames, size, rows, self._seed)
            self._places[size, rows] = drawn
        return self._places[size, rows]
