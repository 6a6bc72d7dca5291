"""Closed-form reconstruction: give linear operators new weights so that they produce, on what the
rewritten network feeds them, what the original network produced there.

W <- W0 + (G + lambda D)^-1 (H - G W0), G = sum x'x'^T, H = sum x't^T, with x' the operator's
input in the rewritten network and t its target in the original one. No labels, no gradients.
Related: PLeaS (arXiv 2407.02447), ReplaceMe (2505.02819), He et al. 2017 (channel pruning).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..execution.executable import Activations, Executable
from ..graph.program import Program, node_inputs
from .operators import (
    LinearOperator,
    Rows,
    linear_operator,
    positions_per_frame,
    sample_positions,
    value_rows,
)
from .pooling import Pool
from .regression import RIDGE, Affine, fit, products_in_threads
from .unit_choice import columns_of, select_units

Array = NDArray[Any]

# Rows per unknown in a least-squares problem. Twenty rank swaps as well as more do; the fit that
# is kept takes more: 60 for 20 won 0.3 points for resnet20 -> resnet44 at a third of the depth, 120
# for 60 leave 3 % less error in networks with blocks out.
ROWS_PER_UNKNOWN = 120
SEARCH_ROWS_PER_UNKNOWN = 16
MIN_ROWS = 4096
# Bytes one problem's rows may take; bites above about 2 000 inputs per unknown.
ROWS_NBYTES = 384 << 20


Visit = Callable[[int, int, dict[str, Array]], None]


class FrameSet(Protocol):
    """The frames a reconstruction may look at: feeds for the program, batch by batch."""

    @property
    def count(self) -> int:
        """Number of frames."""
        ...

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays for the graph inputs named in `values`, in a fixed order of frames."""
        ...


@dataclass(frozen=True)
class Target:
    """What an operator is fitted to.

    `value` is a value of the original program. Where the operator feeds an Add, `value` is the
    original's sum and `other` the rewritten program's other addend, so that the fit also repairs
    the skip path. `rectified` says that nothing but a ReLU reads the value. `pool` is set where
    the operator takes over what removed blocks did: its hidden layer then chooses its units anew.
    """

    value: str
    other: str | None = None
    rectified: bool = False
    pool: Pool | None = None


class Reference:
    """Rows of the original program's values on the fit frames, computed once and kept.

    Rows are drawn per frame at seeded positions, and the same positions are used for an
    operator's inputs. `ridge` holds refitted operators to their old weights; with few frames it has
    to be strong. With `pools_behind`, layers behind a gap may choose removed units too: a sixth
    longer, 2 to 6 % less error. Memory: rows x channels x 4 bytes a value; beyond the activation
    cache they live in temporary files.
    """

    def __init__(
        self,
        program: Program,
        frames: FrameSet,
        seed: int = 0,
        rows_per_unknown: int = ROWS_PER_UNKNOWN,
        min_rows: int = MIN_ROWS,
        ridge: float = RIDGE,
        pools_behind: bool = True,
    ) -> None:
        self.program = program
        self.frames = frames
        self.seed = seed
        self.rows_per_unknown = rows_per_unknown
        self.min_rows = min_rows
        self.ridge = ridge
        self.pools_behind = pools_behind
        self._rows = Activations()
        self._wanted: dict[str, int] = {}
        self._positions: dict[tuple[int, int], Rows] = {}
        self._sizes: dict[str, int | None] = {}

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
        segment = Executable(self.program, None, names)
        start = 0
        for feeds in self.frames.batches(segment.inputs):
            arrays = segment(feeds)
            count = len(next(iter(feeds.values())))
            for name, array in zip(names, arrays):
                rows, channels_last = missing[name]
                size = positions_per_frame(array, count, channels_last)
                self._wanted[name] = rows
                if start and self._sizes[name] != size:
                    size = None
                self._sizes[name] = size
                if size is not None:
                    positions = self.positions(name)[start : start + count]
                    self._rows.append(name, value_rows(array, positions, channels_last))
            start += count

    def has(self, value: str) -> bool:
        """Whether the collected value has rows that belong to frames."""
        return self._sizes.get(value) is not None

    def positions(self, value: str) -> Rows:
        """Sampled flat positions [frames, p] of a collected value."""
        size = self._sizes[value]
        assert size is not None
        key = (size, self._wanted[value])
        if key not in self._positions:
            self._positions[key] = sample_positions(self.frames.count, *key, self.seed)
        return self._positions[key]

    def rows(self, value: str) -> NDArray[np.float32]:
        """Rows [frames * p, channels] of a collected value."""
        return np.concatenate(self._rows.batches(value))


class Walk:
    """A forward pass over all fit frames that can stop at a value, change weights, and go on.

    Every node runs once. What later nodes still need is held between stops: the live values at
    the stop, for all frames.
    """

    def __init__(self, program: Program, frames: FrameSet, outputs: Sequence[str]) -> None:
        self.program = program
        self.frames = frames
        values = program.values()
        self._needed = program.needed_nodes([values[name] for name in outputs])
        self._done: set[int] = set()
        self._held = Activations()
        self._counts: list[int] = []  # frames in each batch, known once frames were read

    def advance(self, stops: Sequence[str], visit: Visit) -> None:
        """Run up to the values `stops`; `visit(first frame, frames, {value: array})` per batch."""
        values = self.program.values()
        wanted = [name for name in dict.fromkeys(stops) if name not in self._held]
        graph_inputs = {value.name for value in self.program.graph.inputs}
        compute = [name for name in wanted if name not in graph_inputs]
        held = self._held.names()
        nodes = self.program.needed_nodes([values[name] for name in compute], stop=held)
        self._done |= {id(node) for node in nodes}
        produced = {tensor.name for node in nodes for tensor in node.outputs}
        live = self._live()
        kept = sorted((produced & live) - set(compute))
        segment = Executable(self.program, held, compute + kept) if compute + kept else None
        from_frames = [
            name
            for name in dict.fromkeys([*(segment.inputs if segment else ()), *wanted])
            if name in graph_inputs
        ]
        start = 0
        batches: Iterable[dict[str, Array]] = (
            self.frames.batches(from_frames)
            if from_frames or not held
            else [{} for _ in range(self._held.batch_count(held[0]))]
        )
        for index, feeds in enumerate(batches):
            arrays = dict(feeds)
            if segment is not None:
                for name in segment.inputs:
                    if name not in arrays:
                        arrays[name] = self._held.batch(name, index)
                arrays |= dict(zip(segment.outputs, segment(arrays)))
            shown = {
                name: arrays[name] if name in arrays else self._held.batch(name, index)
                for name in stops
            }
            if index == len(self._counts):
                self._counts.append(len(next(iter(feeds.values()))))
            visit(start, self._counts[index], shown)
            start += self._counts[index]
            for name in (*kept, *compute):
                if name in live:
                    self._held.append(name, arrays[name])
        self._held.keep_only(live)

    def keep_channels(self, value: str, kept: NDArray[np.int64], axis: int) -> None:
        """Leave only some channels of a value that was stopped at, if later nodes need it."""
        if value in self._held:
            self._held.keep_channels(value, kept, axis)

    def _live(self) -> set[str]:
        return {
            tensor.name
            for node in self._needed
            if id(node) not in self._done
            for tensor in node_inputs(node)
        }


def reconstruct(
    program: Program,
    operators: Sequence[tuple[LinearOperator, Target]],
    reference: Reference,
    outputs: Sequence[str],
) -> list[LinearOperator]:
    """Fit the operators, in the order given (topological), and write their new weights.

    `outputs` are the values the rewritten program is asked for later: they decide what has to
    be held while walking. Operators whose rows do not belong to frames keep their weights.
    Returns those that were fitted.
    """
    with products_in_threads():
        return _reconstructed(program, operators, reference, outputs)


def _reconstructed(
    program: Program,
    operators: Sequence[tuple[LinearOperator, Target]],
    reference: Reference,
    outputs: Sequence[str],
) -> list[LinearOperator]:
    fitted: list[LinearOperator] = []
    pools = {id(t.pool.layer.maker.node): t.pool for _, t in operators if t.pool is not None}
    reference.collect(_wanted(operators, pools, reference))
    walk = Walk(program, reference.frames, outputs)
    fits = {id(operator.node) for operator, _ in operators}
    # Readers whose units are to be chosen: their layer is wide, or is not fitted anew.
    pooled = {id(p.layer.reader.node) for node, p in pools.items() if node not in fits}
    for operator, target in operators:
        if not reference.has(target.value):
            continue
        pool = pools.get(id(operator.node))
        if pool is not None and all(reference.has(unit.result.name) for unit in pool.units):
            rows = gathered(walk, reference, operator, target)
            # The layer's own units last: a fit overwrites its rows.
            units = list(_unit_solutions(rows, pool, reference))
            pool.widen(program, [_solution(rows, operator, reference), *units])
            pooled.add(id(pool.layer.reader.node))
        elif id(operator.node) in pooled:
            assert target.pool is not None
            _choose_units(program, walk, reference, target, target.pool)
        else:
            rows = gathered(walk, reference, operator, target)
            operator.write(program, _solution(rows, operator, reference))
        fitted.append(operator)
    return fitted


@dataclass
class ProblemRows:
    """Rows of one problem: inputs [rows, groups, fan_in], targets, and what is added to them."""

    x: NDArray[np.float32]
    wanted: NDArray[np.float32]
    other: NDArray[np.float32] | None
    rectified: bool


def gathered(
    walk: Walk, reference: Reference, operator: LinearOperator, target: Target
) -> ProblemRows:
    """The operator's rows, once the walk has come to what it reads."""
    positions = reference.positions(target.value)
    inputs: list[NDArray[np.float32]] = []
    others: list[NDArray[np.float32]] = []

    def visit(start: int, count: int, arrays: dict[str, Array]) -> None:
        picked = positions[start : start + count]
        inputs.append(operator.rows(arrays[operator.source.name], picked))
        if target.other is not None:
            others.append(value_rows(arrays[target.other], picked, operator.channels_last))

    walk.advance([operator.source.name, *([target.other] if target.other else [])], visit)
    x = np.concatenate(inputs)
    wanted = reference.rows(target.value).reshape(len(x), x.shape[1], -1)
    other = np.concatenate(others).reshape(wanted.shape) if others else None
    return ProblemRows(x, wanted, other, target.rectified)


def _solution(
    rows: ProblemRows, operator: LinearOperator, reference: Reference, start: Affine | None = None
) -> Affine:
    start = start or operator.affine()
    return fit(
        rows.x,
        rows.wanted,
        start=start,
        other=rows.other,
        rectified=rows.rectified,
        fit_bias=operator.node.op != "MatMul" or operator.bias is not None,
        # A new adapter has no old weights to be held to.
        ridge=reference.ridge if bool(start.weight.any()) else RIDGE,
    )


def _unit_solutions(rows: ProblemRows, pool: Pool, reference: Reference) -> Iterator[Affine]:
    """Weights that make the removed blocks' units from what the layer reads."""
    for unit, start in zip(pool.units, pool.starts()):
        wanted = reference.rows(unit.result.name)[:, None]
        rectified = all(node.op == "Relu" for node in unit.result.outputs)
        ridge = RIDGE if start is None else reference.ridge
        yield fit(rows.x.copy(), wanted, start=start, rectified=rectified, ridge=ridge)


def _choose_units(
    program: Program, walk: Walk, reference: Reference, target: Target, pool: Pool
) -> None:
    """Leave a layer the best of its units, as many as it is to have, and fit what reads them."""
    wide = linear_operator(pool.layer.reader.node)
    assert wide is not None
    rows = gathered(walk, reference, wide, target)
    x, wanted = rows.x[:, 0], rows.wanted[:, 0]
    other = None if rows.other is None else rows.other[:, 0]
    start = pool.sum_of_readers()
    kept = select_units(
        x.copy(),
        wanted,
        pool.width,
        pool.kept,
        other=other,
        rectified=rows.rectified,
        start=start.weight[0],
    )
    source = wide.source.name
    reader = pool.narrow(program, kept)
    walk.keep_channels(source, kept, -1 if reader.channels_last else 1)
    columns = columns_of(kept, x.shape[1] // pool.width)
    rows.x = np.ascontiguousarray(x[:, columns])[:, None]
    near = Affine(start.weight[:, columns], start.bias)
    reader.write(program, _solution(rows, reader, reference, near))


def _wanted(
    operators: Sequence[tuple[LinearOperator, Target]],
    pools: Mapping[int, Pool],
    reference: Reference,
) -> dict[str, tuple[int, bool]]:
    """How many rows of which values the fits need."""
    wanted: dict[str, tuple[int, bool]] = {}

    def want(value: str, rows: int, channels_last: bool) -> None:
        wanted[value] = (max(rows, wanted.get(value, (0, False))[0]), channels_last)

    for operator, target in operators:
        columns = target.pool.columns if target.pool is not None else None
        rows = row_count(operator, reference.rows_per_unknown, columns, reference.min_rows)
        want(target.value, rows, operator.channels_last)
    # Units at the positions of the layer's own rows, which the same inputs explain; so layers that
    # may choose the same units need the same rows, and so do those that they share others with.
    for _ in pools:
        for operator, target in operators:
            pool = pools.get(id(operator.node))
            for unit in pool.units if pool is not None else ():
                want(unit.result.name, *wanted[target.value])
                want(target.value, *wanted[unit.result.name])
    return wanted


def row_count(
    operator: LinearOperator,
    per_unknown: int = ROWS_PER_UNKNOWN,
    columns: int | None = None,
    min_rows: int = MIN_ROWS,
) -> int:
    """How many rows the operator's least-squares problem gets; `columns` widens its input."""
    groups = int(operator.node.attrs.get("group", 1)) if operator.node.op == "Conv" else 1
    fan_in = columns or operator.fan_in
    row_nbytes = 4 * (fan_in * groups + operator.fan_out)
    wanted = max(min_rows, per_unknown * (fan_in + 1))
    return max(1, min(wanted, ROWS_NBYTES // row_nbytes))


def downstream(program: Program, values: Sequence[str]) -> list[gs.Node]:
    """The nodes that depend on any of `values`, in topological order."""
    reached = set(values)
    found: list[gs.Node] = []
    for node in program.graph.nodes:
        if any(tensor.name in reached for tensor in node_inputs(node)):
            found.append(node)
            reached.update(tensor.name for tensor in node.outputs)
    return found
