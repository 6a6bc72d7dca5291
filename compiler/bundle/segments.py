"""The segments of a program: which nodes several models need together, which one needs alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_graphsurgeon as gs

from ...runtime.manifest import Segment
from ..graph.dequantising import makes_weight
from ..graph.export import held_nbytes
from ..graph.program import Program, node_inputs
from ..structure.cost import node_macs


def segments_of(program: Program) -> tuple[Segment, ...]:
    """One segment per set of models that need the same nodes, in an order in which they can run.

    Where one model forks off another, the plan's sites or what was equal, a segment ends. What
    several models need is a trunk, what one needs its head. A weight that a node makes of its codes
    is in each that reads it, as other weights are. The runtime cuts the file by the same rule
    (`runtime.wire`), without onnx. MACs are of one frame, with 1 for symbolic dimensions.
    """
    asked = {value for model in program.models.values() for value in model.outputs.values()}
    made_weights = {
        node.outputs[0].name: node
        for node in program.graph.nodes
        if makes_weight(node) and node.outputs[0].name not in asked
    }
    apart = {id(node) for node in made_weights.values()}
    needed_by: dict[int, set[str]] = {}
    for name in program.models:
        for node in program.nodes_of(name):
            needed_by.setdefault(id(node), set()).add(name)
    groups: dict[frozenset[str], list[gs.Node]] = {}
    for node in program.graph.nodes:
        if (models := needed_by.get(id(node))) and id(node) not in apart:
            groups.setdefault(frozenset(models), []).append(node)
    for nodes in groups.values():
        read = _read(nodes)
        nodes[:0] = [node for name, node in made_weights.items() if name in read]
    order = sorted(groups, key=lambda models: (-len(models), sorted(models)))
    reads = {models: _read(groups[models]) for models in order}
    return tuple(
        _segment(
            models,
            groups[models],
            asked.union(*(reads[other] for other in order if other != models)) - set(made_weights),
        )
        for models in order
    )


def _segment(models: frozenset[str], nodes: list[gs.Node], elsewhere: set[str]) -> Segment:
    made = [value.name for node in nodes for value in node.outputs if not value.is_empty()]
    tensors = {t.name: t for node in nodes for t in node_inputs(node)}
    inside = {*made, *_inner(nodes)}
    given = [n for n, t in tensors.items() if n not in inside and not isinstance(t, gs.Constant)]
    return Segment(
        models=tuple(sorted(models)),
        inputs=tuple(sorted(given)),
        outputs=tuple(name for name in made if name in elsewhere),
        macs=sum(node_macs(node, 1) for node in nodes),
        weights_nbytes=held_nbytes(nodes),
    )


def _read(nodes: Iterable[gs.Node]) -> set[str]:
    return {tensor.name for node in nodes for tensor in node_inputs(node)}


def _inner(nodes: Iterable[gs.Node]) -> Iterator[str]:
    """The values that bodies (If, Loop, Scan) of these nodes make themselves."""
    for node in nodes:
        for body in node.subgraphs(recursive=True):
            yield from (value.name for value in body.inputs)
            yield from (value.name for inner in body.nodes for value in inner.outputs)
