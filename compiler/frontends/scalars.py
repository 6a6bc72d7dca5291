"""Ends of a Range that ONNX Runtime takes for scalars, made scalars."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.export import every_node
from ..graph.program import Note, Program, free_name, is_standard


def make_ranges_scalar(program: Program) -> None:
    """Puts a Reshape before every end of a Range that is not known to be a scalar, in place.

    ONNX Runtime runs a Range of tensors with one element and an axis, unless they turn out to be
    constants as it opens the model: then it refuses. Folding makes constants of what were none.
    """
    everything = list(every_node(program.graph.nodes))
    taken = {node.name for node in everything}
    taken |= {t.name for node in everything for t in (*node.inputs, *node.outputs)}
    scopes = [program.graph, *(body for node in everything for body in node.subgraphs())]
    for scope in scopes:
        for index in reversed(range(len(scope.nodes))):
            node = scope.nodes[index]
            if node.op == "Range" and is_standard(node):
                scope.nodes[index:index] = _reshapes(program, node, taken)


def _reshapes(program: Program, node: gs.Node, taken: set[str]) -> list[gs.Node]:
    made: list[gs.Node] = []
    for place, end in enumerate(node.inputs):
        if end.shape is not None and len(end.shape) == 0:
            continue
        names = [
            free_name(f"{node.name}/{what}_{place}", taken) for what in ("scalar", "end", "shape")
        ]
        taken.update(names)
        scalar = gs.Variable(names[1], end.dtype, [])
        shape = gs.Constant(names[2], np.zeros(0, np.int64))
        made.append(gs.Node("Reshape", names[0], {}, [end, shape], [scalar]))
        program.notes[names[0]] = Note(sources=program.note(node.name).sources)
        node.inputs[place] = scalar
    return made
