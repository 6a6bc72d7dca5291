"""Stored weights as nodes: a DequantizeLinear for each makes its values when the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import ModelError
from .program import Note, Program, bodies_of, is_standard
from .stored_weight import StoredWeight

DEQUANTISE = "DequantizeLinear"


def stored_weights(nodes: Iterable[gs.Node]) -> list[StoredWeight]:
    """The stored weights that the nodes and their bodies read, in order and once each, by name."""
    read = (tensor for _, tensor in _reads(nodes) if isinstance(tensor, StoredWeight))
    return list({tensor.name: tensor for tensor in read}.values())


def opset_of_stored(program: Program) -> int:
    """The first opset that can say how the program's weights are stored; 0 where none is."""
    return max((weight.opset for weight in stored_weights(program.graph.nodes)), default=0)


def dequantising(program: Program) -> Program:
    """The program with a node that makes each stored weight, by the weight's name.

    A copy, unless nothing is stored. Codes and scales are constants beside it; the zero point is
    left out, which means 0. All readers, of several models too, read the one node's output. Raises
    ModelError where the program's opset cannot say it.
    """
    weights = stored_weights(program.graph.nodes)
    if not weights:
        return program
    newest = max(weights, key=lambda weight: weight.opset)
    if program.graph.opset < newest.opset:
        what = f"{newest.bits} bits" + (f" in blocks of {newest.block}" if newest.block else "")
        raise ModelError(
            f"weight '{newest.name}' is stored in {what}, which ONNX has from opset "
            f"{newest.opset} on, and the graph has opset {program.graph.opset}",
            f"raise the models to opset {newest.opset}, or store it in 8 bits without blocks"
            if newest.opset > 13
            else f"raise the models to opset {newest.opset}",
        )
    lowered = program.copy()
    names = lowered.names()
    made: dict[str, gs.Variable] = {}
    nodes: list[gs.Node] = []
    for weight in stored_weights(lowered.graph.nodes):
        value = gs.Variable(weight.name, np.dtype(np.float32), weight.codes.shape)
        inputs = [
            gs.Constant(names.free(f"{weight.name}.codes"), weight.written_codes()),
            gs.Constant(names.free(f"{weight.name}.scales"), weight.scales),
        ]
        name = names.free(f"{weight.name}.dequantise")
        nodes.append(gs.Node(DEQUANTISE, name, _attributes(weight), inputs, [value]))
        made[weight.name] = value
        sources = (
            source for reader in weight.outputs for source in lowered.note(reader.name).sources
        )
        lowered.notes[name] = Note(tuple(dict.fromkeys(sources)))
    for node, tensor in list(_reads(lowered.graph.nodes)):
        if isinstance(tensor, StoredWeight):
            for place in [place for place, read in enumerate(node.inputs) if read is tensor]:
                node.inputs[place] = made[tensor.name]
    # At the front: ONNX Runtime (1.31) takes of a node's inputs that of the node written last
    # first, so that a weight made just before its reader would be made before all that the reader
    # waits for, and the floats of all layers would be alive at once.
    lowered.graph.nodes = [*nodes, *lowered.graph.nodes]
    return lowered


def makes_weight(node: gs.Node) -> bool:
    """Whether the node makes a weight from constants alone: it belongs to whoever reads it."""
    return (
        node.op == DEQUANTISE
        and is_standard(node)
        and all(isinstance(t, gs.Constant) for t in node.inputs if not t.is_empty())
    )


def _attributes(weight: StoredWeight) -> dict[str, int]:
    if weight.block:
        return {"axis": weight.axis, "block_size": weight.block}
    return {"axis": weight.axis} if weight.scales.ndim else {}


def _reads(nodes: Iterable[gs.Node]) -> Iterator[tuple[gs.Node, gs.Tensor]]:
    """Every node, those of bodies too, with each tensor that it reads."""
    for node in nodes:
        yield from ((node, tensor) for tensor in node.inputs)
        for body in bodies_of(node):
            yield from _reads(body.nodes)
