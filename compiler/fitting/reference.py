"""Rows of the original program's values: what fits have to reach, and how many rows they get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..execution.executable import Activations, Executable
from ..execution.feeds import FrameSet, run_on
from ..execution.rows import Rows, positions_per_frame, sample_positions, value_rows
from ..graph.arrays import Float32
from ..graph.program import Program
from .landmarks import Landmarks
from .operators import LinearOperator
from .regression import RIDGE

# Rows per unknown in a least-squares problem. Twenty rank swaps as well as more do; the fit that
# is kept takes more: 60 for 20 won 0.3 points for resnet20 -> resnet44 at a third of the depth, 120
# for 60 leave 3 % less error in networks with blocks out.
ROWS_PER_UNKNOWN = 120
MIN_ROWS = 4096
# Bytes one problem's rows may take; bites above about 650 inputs, which get fewer rows each then.
ROWS_NBYTES = 192 << 20


@dataclass(frozen=True)
class FitSize:
    """How large least-squares problems are, and how freely they may move weights.

    Rows a problem: `rows_per_unknown` times its unknowns per output, at least `min_rows`. `ridge`
    holds refitted operators to their old weights; with few frames it has to be strong. With
    `pools_behind`, layers behind a gap may choose removed units too: a sixth longer, 2 to 6 % less
    error. `reach` is how many operators of those that a change disturbs are fitted, the first in
    topological order (None: all of them).
    """

    rows_per_unknown: int = ROWS_PER_UNKNOWN
    min_rows: int = MIN_ROWS
    ridge: float = RIDGE
    pools_behind: bool = True
    reach: int | None = None


class Reference:
    """Rows of the original program's values on the fit frames, computed once and kept.

    Rows are drawn per frame at seeded positions, and the same positions are used for an
    operator's inputs. Memory: rows x channels x 4 bytes a value; beyond the activation cache they
    live in temporary files. With `landmarks`, of the same program and frames, fits run only what
    a rewrite moved.
    """

    def __init__(
        self,
        program: Program,
        frames: FrameSet,
        seed: int = 0,
        size: FitSize | None = None,
        landmarks: Landmarks | None = None,
    ) -> None:
        self.program = program
        self.frames = frames
        self.landmarks = landmarks
        self.seed = seed
        self.size = size or FitSize()
        self._rows = Activations()
        self._wanted: dict[str, int] = {}
        self._positions: dict[tuple[int, int], Rows] = {}
        # Per value and batch, since frames may differ in size from batch to batch.
        self._sizes: dict[str, dict[int, int] | None] = {}

    def collect(self, wanted: Mapping[str, tuple[int, bool]]) -> None:
        """Make sure the rows of `wanted` ({value: (number of rows, channels last)}) are there.

        One forward pass for all that are missing. Exactly as many rows as asked for: a fit then
        depends on nothing that was fitted before, and a replayed plan gives the same bytes.
        Values whose rows do not divide evenly among the frames are left out: see `has`.
        """
        missing = {
            name: request
            for name, request in wanted.items()
            if self._wanted.get(name) != request[0]
        }
        if not missing:
            return
        names = sorted(missing)
        self._rows.keep_only(set(self._rows.names()) - set(names))
        if self.landmarks is not None:
            batches = self.landmarks.run(self.program, names)
        else:
            batches = run_on(self.frames, Executable(self.program, None, names))
        for batch, arrays in batches:
            for name in names:
                array = arrays[name]
                rows, channels_last = missing[name]
                size = positions_per_frame(array, batch.stop - batch.start, channels_last)
                self._wanted[name] = rows
                if not batch.start:
                    self._sizes[name] = {}
                sizes = self._sizes[name]
                # What changes its size with the content of frames has no places to compare.
                moved = sizes and not self.frames.mixed and size != sizes[0]
                if size is None or sizes is None or moved:
                    self._sizes[name] = None
                    continue
                sizes[batch.start] = size
                positions = self.positions(name, batch)
                self._rows.append(name, value_rows(array, positions, channels_last))

    def has(self, value: str) -> bool:
        """Whether the collected value has rows that belong to frames."""
        return bool(self._sizes.get(value))

    def positions(self, value: str, batch: slice) -> Rows:
        """Sampled flat positions [frames, p] of a collected value, for the frames of one batch."""
        sizes, rows = self._sizes[value], self._wanted[value]
        assert sizes is not None
        size = sizes[batch.start]
        if size != sizes[0]:
            # Another size than the first: drawn for these frames alone, since there may be many.
            frames = batch.stop - batch.start
            share = -(-rows * frames // self.frames.count)
            return sample_positions(frames, size, share, (self.seed, batch.start))
        if (size, rows) not in self._positions:
            drawn = sample_positions(self.frames.count, size, rows, self.seed)
            self._positions[size, rows] = drawn
        return self._positions[size, rows][batch]

    def rows(self, value: str) -> Float32:
        """Rows [frames * p, channels] of a collected value."""
        return np.concatenate(self._rows.batches(value))


def row_count(operator: LinearOperator, size: FitSize, columns: int | None = None) -> int:
    """How many rows the operator's least-squares problem gets; `columns` widens its input."""
    fan_in = columns or operator.fan_in
    row_nbytes = 4 * (fan_in * operator.groups + operator.fan_out)
    wanted = max(size.min_rows, size.rows_per_unknown * (fan_in + 1))
    return max(1, min(wanted, ROWS_NBYTES // row_nbytes))
