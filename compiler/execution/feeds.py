"""Frames as the program's graph inputs want them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ..frames.axes import interface
from ..frames.calibration import Frames, InputSpec
from ..graph.arrays import Array, Int64
from ..graph.free_size import FreeSize
from ..graph.program import Program, node_inputs
from .executable import BATCH, BATCH_NBYTES, VALUES_NBYTES, Executable, batches_of, frame_nbytes


class FrameSet(Protocol):
    """Frames that something is measured or fitted on: feeds for the program, batch by batch."""

    @property
    def count(self) -> int:
        """Number of frames."""
        ...

    @property
    def groups(self) -> Int64 | None:
        """A number for each frame, equal for those that show the same; None where none do."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Number of frames in each batch."""
        ...

    @property
    def mixed(self) -> bool:
        """Whether frames differ in size; those of a batch never do."""
        ...

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays for the graph inputs named in `values`, in a fixed order of frames."""
        ...


@dataclass(frozen=True)
class StreamFeeds:
    """The fit or held-out frames of models whose row k is the same frame, in one batch size.

    Iterates in a fixed order, that of `ordered`: frames of one size run together, so that a batch
    never mixes sizes. The last batch of a size may be short unless a model's batch is fixed.
    """

    program: Program
    frames: Frames
    models: tuple[str, ...]
    rows: Int64

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.rows)

    @property
    def groups(self) -> Int64 | None:
        """The scene of each frame."""
        return self.frames.scenes_of(self.models[0], self.ordered)

    @property
    def fixed(self) -> int | None:
        """The models' fixed batch, None when any number of frames will do."""
        sizes = [size for name in self.models if (size := self.frames.batch(name)) is not None]
        inputs = {v for name in self.models for v in self.program.models[name].inputs.values()}
        for value in self.program.graph.inputs:
            # Free by name, but the model did not run with more of them.
            first = value.shape[0] if value.shape else None
            if value.name in inputs and isinstance(first, FreeSize) and not first.per_frame:
                sizes.append(first.sizes[0])
        return max(sizes, default=None)

    @property
    def batch(self) -> int:
        """Frames per batch: the models' fixed one, else enough to keep the cores busy."""
        return self.fixed or self._most_frames

    @cached_property
    def _most_frames(self) -> int:
        """As many frames as their inputs and all that the models make of them allow."""
        inputs = {v for name in self.models for v in self.program.models[name].inputs.values()}
        given = made = 0
        for value in self.program.graph.inputs:
            given += frame_nbytes(value) if value.name in inputs else 0
        reached = set(inputs)
        for node in self.program.graph.nodes:
            if any(tensor.name in reached for tensor in node_inputs(node)):
                reached.update(tensor.name for tensor in node.outputs)
                made += sum(map(frame_nbytes, node.outputs))
        by_size = min(BATCH_NBYTES // max(given, 1), VALUES_NBYTES // max(made, 1))
        return max(1, min(BATCH, by_size))

    @cached_property
    def alike(self) -> list[Int64]:
        """The rows, by which of them can run together: those of one size."""
        return self.frames.alike(self.models, self.rows)

    @property
    def ordered(self) -> Int64:
        """The rows in the order in which they run."""
        return np.concatenate(self.alike)

    @property
    def mixed(self) -> bool:
        """Whether frames differ in size; those of a batch never do."""
        return len(self.alike) > 1

    @property
    def counts(self) -> list[int]:
        """Number of frames in each batch."""
        return [len(rows) for rows in self._batches()]

    def _batches(self) -> Iterator[Int64]:
        for rows in self.alike:
            yield from batches_of(rows, self.batch)

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays for the graph inputs named in `values`, a batch of frames on each one's axis."""
        wanted = set(values)
        owners = {name: self.program.models[name].inputs for name in self.models}
        for rows in self._batches():
            feeds: dict[str, Array] = {}
            for name in self.models:
                missing = wanted & set(owners[name].values()) - set(feeds)
                if not missing and wanted:
                    continue
                arrays = self.frames.feed(name, rows)
                feeds.update(
                    {
                        value: arrays[own]
                        for own, value in owners[name].items()
                        if value in wanted and value not in feeds
                    }
                )
            yield feeds


def run_groups(frames: Frames) -> tuple[tuple[str, ...], ...]:
    """The models that can run on one batch: the streams, divided where fixed batches differ.

    A model that takes any batch goes with the first of them.
    """
    groups: list[tuple[str, ...]] = []
    for stream in frames.streams:
        batches = {name: frames.batch(name) for name in stream}
        first, *others = dict.fromkeys(b for b in batches.values() if b is not None) or [None]
        groups.append(tuple(name for name in stream if batches[name] in (first, None)))
        groups += [tuple(n for n in stream if batches[n] == batch) for batch in others]
    return tuple(groups)


def run_on(frames: FrameSet, segment: Executable) -> Iterator[tuple[slice, dict[str, Array]]]:
    """The segment's outputs by value name, batch by batch, each with the frames it holds.

    Nothing where no frame decides the outputs.
    """
    start = 0
    if not segment.inputs:
        return
    for count, feeds in zip(frames.counts, frames.batches(segment.inputs)):
        stop = start + count
        yield slice(start, stop), dict(zip(segment.outputs, segment(feeds)))
        start = stop


def fit_feeds(
    program: Program, frames: Frames, model: str, limit: int | None = None
) -> StreamFeeds:
    """The frames that fits may see, for `model` and its group.

    At most `limit` of them, but at least one batch where the batch is fixed.
    """
    return _feeds(program, frames, model, frames.fit_rows(model), limit)


def judging_feeds(
    program: Program, frames: Frames, model: str, skip: int, limit: int
) -> StreamFeeds:
    """At most `limit` of the fit frames after the first `skip`, for `model` and its group.

    What a fit on the first `skip` frames is judged by while held-out frames stay unseen. Where
    nothing is left, all fit frames.
    """
    rows = frames.fit_rows(model)
    seen = fit_feeds(program, frames, model, skip).count
    left = rows[seen:]
    return _feeds(program, frames, model, left if len(left) else rows, limit)


def held_out_feeds(program: Program, frames: Frames, model: str) -> StreamFeeds:
    """The frames that no fit sees, for `model` and its group."""
    return _feeds(program, frames, model, frames.held_out_rows(model), None)


def _feeds(
    program: Program,
    frames: Frames,
    model: str,
    rows: Int64,
    limit: int | None,
) -> StreamFeeds:
    models = next(group for group in run_groups(frames) if model in group)
    feeds = StreamFeeds(program, frames, models, rows)
    if limit is None or limit >= len(rows):
        return feeds
    unit = feeds.batch if feeds.fixed else 1
    return StreamFeeds(program, frames, models, rows[: max(limit // unit, 1) * unit])


def input_specs(program: Program) -> list[InputSpec]:
    """What the inputs of a program's one model take, in its order."""
    (model,) = program.models.values()
    values = program.values()

    def specs(names: Mapping[str, str]) -> list[InputSpec]:
        return [
            InputSpec(own, values[value].dtype, tuple(values[value].shape or ()))
            for own, value in names.items()
            if value in values
        ]

    return list(interface(specs(model.inputs), specs(model.outputs)))
