"""Linear programs with whole-numbered variables: built row by row, solved by HiGHS."""

from __future__ import annotations

import copy
import ctypes
import math
import os
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from ...graph.arrays import Float64

Terms = Mapping[int, float]
"""A linear expression: coefficients by variable."""

ONE = 0
"""The variable that is 1: what is constant in an expression."""

# The objective is handed over in this size, far from the solver's absolute tolerance of 1e-6.
_SIZE = 1e3


class Ending(Enum):
    """How a search for the minimum ended."""

    PROVEN = "proven"
    STOPPED = "stopped"  # a solution, after as many nodes as are looked at
    INFEASIBLE = "infeasible"
    FAILED = "failed"  # out of time: another run may find another solution, or one at all


@dataclass(frozen=True)
class Minimum:
    """How the search ended, and the values of all variables where it found some."""

    ending: Ending
    values: Float64 | None = None


@dataclass
class LinearProgram:
    """Variables with their bounds, and rows that bound linear expressions of them."""

    lower: list[float] = field(default_factory=lambda: [1.0])
    upper: list[float] = field(default_factory=lambda: [1.0])
    whole: list[bool] = field(default_factory=lambda: [False])
    _columns: list[int] = field(default_factory=list[int])
    _coefficients: list[float] = field(default_factory=list[float])
    _starts: list[int] = field(default_factory=lambda: [0])
    _least: list[float] = field(default_factory=list[float])
    _most: list[float] = field(default_factory=list[float])

    def copy(self) -> LinearProgram:
        """One to which rows and variables can be added."""
        own = {name: copy.copy(value) for name, value in vars(self).items()}
        return LinearProgram(*own.values())

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._least)

    def variable(self, upper: float = 1.0, whole: bool = False) -> int:
        """A new variable from 0 to `upper`."""
        self.lower.append(0.0)
        self.upper.append(upper)
        self.whole.append(whole)
        return len(self.lower) - 1

    def at_least(self, terms: Iterable[tuple[int, float]], bound: float = 0.0) -> None:
        """Terms of one variable add up."""
        self._row(terms, bound, math.inf)

    def at_most(self, terms: Iterable[tuple[int, float]], bound: float) -> None:
        """Terms of one variable add up."""
        self._row(terms, -math.inf, bound)

    def _row(self, terms: Iterable[tuple[int, float]], least: float, most: float) -> None:
        row: dict[int, float] = {}
        for column, coefficient in terms:
            row[column] = row.get(column, 0.0) + coefficient
        self._columns += row.keys()
        self._coefficients += row.values()
        self._starts.append(len(self._columns))
        self._least.append(least)
        self._most.append(most)

    def minimum(
        self,
        objective: Terms,
        *,
        size: float = 1.0,
        gap: float = 0.0,
        nodes: int = 20_000,
        seconds: float = math.inf,
    ) -> Minimum:
        """The least of the objective, which is expected to be about `size`, within a relative gap.

        The best of so many `nodes` of the search tree: the same on every call and machine, unless
        it takes longer than `seconds`.
        """
        costs = np.zeros(len(self.lower))
        costs[list(objective)] = list(objective.values())
        costs *= _SIZE / size
        options = {"mip_rel_gap": gap, "node_limit": nodes}
        if math.isfinite(seconds):
            options["time_limit"] = max(seconds, 0.0)
        found = self._solved(costs, options)
        if found.status == 4 and found.x is None:
            # "Infeasible or unbounded" is all that presolving can say; nothing here is unbounded.
            found = self._solved(costs, options | {"presolve": False})
        if found.status == 2:
            return Minimum(Ending.INFEASIBLE)
        if found.x is None or found.status not in (0, 4):
            return Minimum(Ending.FAILED, found.x)
        return Minimum(Ending.PROVEN if found.status == 0 else Ending.STOPPED, found.x)

    def _solved(self, costs: Float64, options: Mapping[str, float]) -> OptimizeResult:
        matrix = csr_array(
            (
                np.array(self._coefficients, np.float64),
                np.array(self._columns, np.int32),
                np.array(self._starts, np.int32),
            ),
            shape=(self.rows, len(self.lower)),
        )
        rows = LinearConstraint(matrix, np.array(self._least), np.array(self._most))
        with _nothing_printed():
            return milp(
                costs,
                integrality=np.array(self.whole, np.int8),
                bounds=Bounds(np.array(self.lower), np.array(self.upper)),
                constraints=rows,
                options=options,
            )


@contextmanager
def _nothing_printed() -> Generator[None]:
    """Keeps what C code prints off stdout, which is our results'.

    HiGHS of SciPy 1.17 prints the name of a function where it mends a solution
    (transformNewIntegerFeasibleSolution), whatever its options say.
    """
    flush = getattr(ctypes.CDLL(None), "fflush", None) if os.name == "posix" else None
    try:
        kept = os.dup(1) if flush is not None else None
    except OSError:  # there is no stdout
        kept = None
    if flush is None or kept is None:
        yield
        return
    sys.stdout.flush()
    flush(None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        flush(None)  # what it printed is still in the C library's buffer
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
