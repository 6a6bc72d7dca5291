"""Values of a program kept on a few frames, so that a look at a rewrite runs only what it moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from ..execution.executable import Activations, Executable, frame_nbytes
from ..execution.feeds import FrameSet, run_on
from ..graph.arrays import Array
from ..graph.program import Program, node_inputs
from .operators import linear_operator

# Bytes that the kept values of one set of frames may take.
LANDMARKS_NBYTES = 384 << 20


class Landmarks:
    """Values of a program on some frames of `models`, from one pass: their outputs, and what their
    linear operators read, as far as `limit` bytes go (every second, third, ... where they do not).
    """

    def __init__(
        self,
        program: Program,
        frames: FrameSet,
        models: Sequence[str],
        limit: int = LANDMARKS_NBYTES,
    ) -> None:
        self.program = program
        self.frames = frames
        self._kept = Activations()
        values = program.values()
        outputs = [value for model in models for value in program.models[model].outputs.values()]
        nodes = program.needed_nodes([values[name] for name in outputs])
        read = _thinned(nodes, program.input_names, frames.count, limit)
        names = list(dict.fromkeys([*outputs, *read]))
        segment = Executable(program, None, names)
        for _, arrays in run_on(frames, segment):
            for name in segment.outputs:
                self._kept.append(name, arrays[name])

    def batches(self, name: str) -> list[Array]:
        """All batches of a kept value."""
        return self._kept.batches(name)

    def run(
        self, rewritten: Program, outputs: Sequence[str]
    ) -> Iterator[tuple[slice, dict[str, Array]]]:
        """Values of `rewritten` by name, batch by batch with the frames of each."""
        known = self.before(rewritten)
        segment = Executable(rewritten, sorted(known), [n for n in outputs if n not in known])
        inputs = [name for name in segment.inputs if name not in known]
        counts = self.frames.counts
        nothing: list[dict[str, Array]] = [{} for _ in counts]
        batches = self.frames.batches(inputs) if inputs else nothing
        start = 0
        for index, (count, feeds) in enumerate(zip(counts, batches)):
            held = {n: known[n][index] for n in (*segment.inputs, *outputs) if n in known}
            made = zip(segment.outputs, segment({**feeds, **held}))
            yield slice(start, start + count), {**held, **dict(made)}
            start += count

    def before(self, rewritten: Program) -> dict[str, list[Array]]:
        """The kept values that `rewritten`, made of the program, still computes alike."""
        same = values_alike(rewritten, self.program)
        return {name: self._kept.batches(name) for name in self._kept.names() if name in same}


def values_alike(rewritten: Program, original: Program) -> set[str]:
    """The values that both programs compute by the same nodes from the same constants."""
    alike = rewritten.input_names & original.input_names
    known = original.nodes()
    for node in rewritten.graph.nodes:
        other = known.get(node.name)
        if other is not None and _same_node(node, other) and _alike_inputs(node, alike):
            alike.update(value.name for value in node.outputs)
    return alike


def _alike_inputs(node: gs.Node, alike: set[str]) -> bool:
    return all(
        isinstance(t, gs.Constant) or t.is_empty() or t.name in alike for t in node_inputs(node)
    )


def _same_node(one: gs.Node, other: gs.Node) -> bool:
    """Whether two nodes are copies of each other, their constants not exchanged since."""
    if one.op != other.op or len(one.inputs) != len(other.inputs):
        return False
    if [t.name for t in one.outputs] != [t.name for t in other.outputs]:
        return False
    if any(one.attrs.get(key) is not value for key, value in other.attrs.items()):
        return False
    for mine, theirs in zip(one.inputs, other.inputs):
        if mine.name != theirs.name or isinstance(mine, gs.Constant) != isinstance(
            theirs, gs.Constant
        ):
            return False
        # Copies share their arrays.
        if (
            isinstance(mine, gs.Constant)
            and isinstance(theirs, gs.Constant)
            and mine.values is not theirs.values
        ):
            return False
    return True


def _thinned(nodes: Sequence[gs.Node], inputs: set[str], frames: int, limit: int) -> list[str]:
    """What the linear operators among the nodes read, in order, thinned until it fits."""
    read: dict[str, gs.Tensor] = {}
    for node in nodes:
        operator = linear_operator(node)
        if operator is not None and operator.source.name not in inputs:
            read[operator.source.name] = operator.source
    names = list(read)
    for step in range(1, len(names) + 1):
        kept = names[step - 1 :: step]
        if frames * sum(frame_nbytes(read[name]) for name in kept) <= limit:
            return kept
    return []
