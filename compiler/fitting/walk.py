"""A forward pass over all fit frames that stops where weights are to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..execution.executable import Activations, Executable
from ..execution.feeds import FrameSet
from ..execution.rows import RowMemory
from ..graph.arrays import Array, Int64
from ..graph.program import Program, node_inputs

Visit = Callable[[int, int, dict[str, Array]], None]


class Walk:
    """A forward pass over all fit frames that can stop at a value, change weights, and go on.

    Every node runs once. What later nodes still need is held between stops: the live values at
    the stop, for all frames. What is `known` of the program already is not run: nothing before it
    may be stopped at. `memory` is for the rows that are taken at one stop.
    """

    def __init__(
        self,
        program: Program,
        frames: FrameSet,
        outputs: Sequence[str],
        known: Mapping[str, list[Array]] | None = None,
    ) -> None:
        self.program = program
        self.frames = frames
        values = program.values()
        self._held = Activations()
        for name, batches in (known or {}).items():
            self._held.adopt(name, batches)
        self._needed = program.needed_nodes([values[name] for name in outputs], known or ())
        self._done: set[int] = set()
        self._counts = list(frames.counts)
        self.memory = RowMemory()

    def advance(self, stops: Sequence[str], visit: Visit) -> None:
        """Run up to the values `stops`; `visit(first frame, frames, {value: array})` per batch."""
        values = self.program.values()
        wanted = [name for name in dict.fromkeys(stops) if name not in self._held]
        graph_inputs = self.program.input_names
        held = self._held.names()
        nodes = self.program.needed_nodes([values[name] for name in wanted], stop=held)
        self._done |= {id(node) for node in nodes}
        produced = {tensor.name for node in nodes for tensor in node.outputs}
        live = self._live()
        segment = Executable(self.program, held, wanted + sorted((produced & live) - set(wanted)))
        from_frames = [name for name in segment.inputs if name in graph_inputs]
        start = 0
        batches: Iterable[dict[str, Array]] = (
            self.frames.batches(from_frames)
            if from_frames or not held
            else [{} for _ in self._held.batches(held[0])]
        )
        for index, feeds in enumerate(batches):
            arrays = dict(feeds)
            for name in segment.inputs:
                if name not in arrays:
                    arrays[name] = self._held.batches(name)[index]
            arrays |= dict(zip(segment.outputs, segment(arrays)))
            shown = {
                name: arrays[name] if name in arrays else self._held.batches(name)[index]
                for name in stops
            }
            visit(start, self._counts[index], shown)
            start += self._counts[index]
            for name in segment.outputs:
                if name in live and name not in graph_inputs:
                    self._held.append(name, arrays[name])
        self._held.keep_only(live)

    def keep_channels(self, value: str, kept: Int64, axis: int) -> None:
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
