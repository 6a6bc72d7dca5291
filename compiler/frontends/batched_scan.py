"""Scan of opset 8, which goes over a batch, as two Scans of opset 9."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from ..errors import ModelError
from ..graph.program import Note, Program


def split_batch(program: Program, node: gs.Node, free: Callable[[str], str], where: str) -> None:
    """Makes a Scan of opset 8 one over the batch, in place; its body is one over the sequence.

    `free` gives names that nothing has. Raises ModelError where sequences have lengths of their
    own, which no newer Scan can take.
    """
    lengths, *given = node.inputs
    if not lengths.is_empty():
        raise ModelError(
            f"node '{node.name}' (Scan) of {where} takes a length for every sequence, which no "
            "opset after 8 does",
            "export the model with opset 9 or newer",
        )
    taken = [_one_of_batch(value, free(f"{node.name}/{value.name}")) for value in given]
    made = [_one_of_batch(value, free(f"{node.name}/made/{value.name}")) for value in node.outputs]
    attrs = {"num_scan_inputs": node.attrs["num_scan_inputs"], "body": node.attrs["body"]}
    if "directions" in node.attrs:
        attrs["scan_input_directions"] = node.attrs["directions"]
    name = free(f"{node.name}/of_one")
    inner = gs.Node("Scan", name, attrs, taken, made)
    program.notes[name] = Note(sources=program.note(node.name).sources)
    body = gs.Graph([inner], taken, made, name=f"{attrs['body'].name or 'body'}_of_one")
    node.inputs = given
    node.attrs = {"num_scan_inputs": len(given), "body": body}


def _one_of_batch(value: gs.Tensor, name: str) -> gs.Variable:
    shape = None if value.shape is None else list(value.shape)[1:]
    return gs.Variable(name, value.dtype, shape)
