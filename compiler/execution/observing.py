"""One pass over frames that several measurements look on at, each at the values that it asks for.

Memory: the values asked for of one batch of frames (feeds keep a batch within `VALUES_NBYTES` where
the model leaves its batch free), and whatever the observers keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..graph.arrays import Array
from ..graph.program import Program
from .executable import Executable
from .feeds import FrameSet

# Batches that have to be left for opening a graph anew.
_BATCHES_TO_OPEN = 5


class Observer(Protocol):
    """A measurement on frames that stream by."""

    @property
    def limit(self) -> int | None:
        """How many frames it wants to see (None: all)."""
        ...

    @property
    def values(self) -> Sequence[str]:
        """The program's values that it has still to see; none when it has seen enough."""
        ...

    def begin(self, frames: int) -> None:
        """So many frames will follow, or fewer where `values` runs out."""
        ...

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        """Look at `values` on the frames of one batch."""
        ...

    def finish(self) -> None:
        """Work out what was seen: no more frames follow."""
        ...


FeedsOf = Callable[[int | None], FrameSet]
"""The first so many frames (None: all) as feeds."""


def observe(program: Program, feeds_of: FeedsOf, observers: Sequence[Observer]) -> None:
    """Show the observers their frames in one pass.

    Where frames differ in size, those that want another number of frames get a pass of their own:
    the first so many are not the first in the order in which sizes run together. Raises ModelError
    where ONNX Runtime cannot run the models.
    """
    limits = sorted({observer.limit for observer in observers}, key=lambda n: (n is None, n or 0))
    if not limits:
        return
    widest = feeds_of(limits[-1])
    if widest.mixed:
        for limit in limits:
            feeds = feeds_of(limit)
            together = [one for one in observers if one.limit == limit]
            _Pass(program, feeds, together, [feeds.count] * len(together)).run()
    else:
        counts = {limit: feeds_of(limit).count for limit in limits}
        _Pass(program, widest, observers, [counts[one.limit] for one in observers]).run()


class _Pass:
    """A pass over feeds; the observers see the first of the frames, as many as `ends` say."""

    def __init__(
        self,
        program: Program,
        feeds: FrameSet,
        observers: Sequence[Observer],
        ends: Sequence[int],
    ) -> None:
        self._program, self._feeds = program, feeds
        self._ends = list(zip(observers, ends, strict=True))

    def run(self) -> None:
        """Show the frames batch by batch, until all have seen enough."""
        for observer, end in self._ends:
            observer.begin(end)
        segment = self._segment(0)
        start = 0
        # What reads no input is the same whatever the frame.
        counts = self._feeds.counts if segment.inputs else ()
        for count, feeds in zip(counts, self._feeds.batches(segment.inputs)):
            wanted = self._wanted(start)
            if not wanted:
                break
            # A graph that brings out fewer values is fused better and copies less, but opening it
            # takes as long as a batch or two.
            left = self._feeds.count - start
            if 2 * len(wanted) <= len(segment.outputs) and left > _BATCHES_TO_OPEN * count:
                segment = self._segment(start)
            arrays = dict(zip(segment.outputs, segment(feeds)))
            for observer, end in self._ends:
                seen = min(count, end - start)
                if seen > 0 and observer.values:
                    shown = {name: _first(arrays[name], seen, count) for name in observer.values}
                    observer.take(slice(start, start + seen), shown)
            start += count
        for observer, _ in self._ends:
            observer.finish()

    def _segment(self, start: int) -> Executable:
        return Executable(self._program, None, self._wanted(start))

    def _wanted(self, start: int) -> list[str]:
        values = [one.values for one, end in self._ends if start < end]
        return sorted({name for names in values for name in names})


def _first(array: Array, frames: int, count: int) -> Array:
    """What belongs to the first frames of a batch, where its first axis counts them."""
    if frames == count or not array.ndim or len(array) % count:
        return array
    return array[: len(array) // count * frames]
