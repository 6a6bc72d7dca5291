"""Frames as the program's graph inputs want them, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..frames.calibration import Frames, InputSpec
from ..graph.arrays import Array, Int64
from ..graph.program import Program
from .executable import BATCH, BATCH_NBYTES, Executable, batches_of


class FrameSet(Protocol):
    """Frames that something is measured or fitted on: feeds for the program, batch by batch."""

    @property
    def count(self) -> int:
        """Number of frames."""
        ...

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays for the graph inputs named in `values`, in a fixed order of frames."""
        ...


@dataclass(frozen=True)
class StreamFeeds:
    """The fit or held-out frames of models whose row k is the same frame, in one batch size.

    Iterates in a fixed order; the last batch may be short unless a model's batch is fixed.
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
    def fixed(self) -> int | None:
        """The models' fixed batch, None when any number of frames will do."""
        sizes = [size for name in self.models if (size := self.frames.batch(name)) is not None]
        return max(sizes, default=None)

    @property
    def batch(self) -> int:
        """Frames per batch: the models' fixed one, else enough to keep the cores busy."""
        if self.fixed:
            return self.fixed
        frame_nbytes = sum(
            spec.dtype.itemsize * math.prod(n for n in spec.shape[1:] if isinstance(n, int))
            for name in self.models
            for spec in self.frames.inputs[name]
        )
        return max(1, min(BATCH, BATCH_NBYTES // max(frame_nbytes, 1)))

    def batches(self, values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Arrays [batch, ...] for the graph inputs named in `values`."""
        wanted = set(values)
        owners = {name: self.program.models[name].inputs for name in self.models}
        for rows in batches_of(self.rows, self.batch):
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
    for feeds in frames.batches(segment.inputs):
        stop = start + len(next(iter(feeds.values())))
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
    return [
        InputSpec(own, values[value].dtype, tuple(values[value].shape or ()))
        for own, value in model.inputs.items()
    ]
