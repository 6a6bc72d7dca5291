"""Remove nodes that do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ..compiler.graph.edit import remove_nodes
from ..compiler.graph.program import Program
from ..compiler.graph.weights import element_type
from .base import Change, is_rewritable


@dataclass(frozen=True)
class RemoveNoOps:
    """Readers of what a node only hands on read what it is given; the node goes.

    Identity, inference-time Dropout, and Cast, Reshape, Flatten, Transpose and Concat that change
    nothing, unless they give a model output its name.
    """

    name: ClassVar[str] = "remove-no-ops"
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> list[Change]:
        """One change for every node removed."""
        outputs = program.output_names
        removed: list[gs.Node] = []
        for node in program.graph.nodes:
            if (
                is_rewritable(node)
                and _does_nothing(node, program.graph.opset)
                and not any(value.name in outputs for value in node.outputs)
            ):
                program.replace_uses(node.outputs[0], node.inputs[0])
                removed.append(node)
        remove_nodes(program, removed)
        return [Change(f"{node.op} '{node.name}' changes nothing", node.name) for node in removed]


def _does_nothing(node: gs.Node, opset: int) -> bool:
    if not node.inputs or node.inputs[0].is_empty() or node.outputs[0].is_empty():
        return False
    given, made = node.inputs[0], node.outputs[0]
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        mode = node.inputs[2] if len(node.inputs) > 2 and opset >= 12 else None
        infers = mode is None or mode.is_empty()
        infers = infers or (isinstance(mode, gs.Constant) and not mode.values.any())
        return infers and not any(mask.name and mask.outputs for mask in node.outputs[1:])
    if node.op == "Cast":
        return given.dtype is not None and element_type(given.dtype) == node.attrs.get("to")
    if node.op == "Concat":
        return len(node.inputs) == 1
    if given.shape is None:
        return False
    if node.op == "Transpose":
        return list(node.attrs.get("perm", ())) == list(range(len(given.shape)))
    if node.op in {"Reshape", "Flatten"} and made.shape is not None:
        pairs = list(zip(given.shape, made.shape, strict=False))
        known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        # One unknown dimension among equal ones is equal too, by the number of elements.
        return (
            len(given.shape) == len(made.shape)
            and len(pairs) - len(known) <= 1
            and all(a == b and a > 0 for a, b in known)
        )
    return False
