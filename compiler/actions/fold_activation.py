"""Fold a (nearly) linear activation: its neighbours become one operator (Layer Folding)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...passes.fold_activation import FoldActivation
from ..execution.statistics import StatisticsObserver, StraightMeasure
from ..fitting.operators import linear_operator
from ..fitting.reference import Reference
from ..graph.arrays import Float64
from ..graph.free_size import size_of
from ..graph.program import Program, own_name
from ..structure.activation_functions import Activation, activations_of
from ..structure.cost import node_macs
from ..structure.linear_maps import Linear, fixed_values, linear_at, reader_of
from ..structure.merging import freed_nbytes, merged
from .action import Disturbed, Effect, Merging, OneModel
from .bill import Bill
from .evidence import STATISTICS_FRAMES, Evidence
from .site import Site, Sites, owners_of


@dataclass(frozen=True)
class FoldActivationAction(OneModel):
    """An activation function becomes the affine map per channel that fits it best on the frames.

    `given` and `value` are what the function reads and makes. arXiv 2106.09309.
    """

    kind: ClassVar[str] = "fold-activation"

    given: str
    value: str

    def __str__(self) -> str:
        return f"{self.model} folds the activation that makes {own_name(self.value)}"

    def effect(self, program: Program) -> Effect | str:
        """The activation goes, and with it one of the operators around where they merge."""
        for activation in activations_of(program, program.nodes_of(self.model)):
            if (activation.given, activation.value) != (self.given, self.value):
                continue
            size = size_of(program.values()[self.value].shape[activation.axis]) or 0
            merging = merging_of(program, activation, np.ones(size), np.zeros(size))
            nodes = activation.nodes if isinstance(merging, str) else merging.nodes
            return Effect(
                frozenset({self.value}),
                merging=None if isinstance(merging, str) else merging,
                owns=frozenset(node.name for node in nodes),
            )
        return f"no activation function makes '{own_name(self.value)}'"

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The fold; merging is what the stage ends in."""
        return [FoldActivation(self.model, self.given, self.value, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """What the linear operators that read the value make: names that a merge keeps."""
        known = program.values().get(self.value)
        readers = [] if known is None else known.outputs
        operators = [linear_operator(node) for node in readers]
        made = dict.fromkeys(op.result.name for op in operators if op is not None)
        return Disturbed(made=tuple(made))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have it measured how straight the activations are that could be folded."""
    evidence.request(group, FoldActivationAction.kind, lambda: _Activations(evidence, group))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Activations whose folding lets their neighbours merge, with the variance that it loses."""
    program = evidence.program
    name = FoldActivationAction.kind
    measured = evidence.seen(group, name, lambda: _Activations(evidence, group))
    sites = Sites(refused=measured.refused)
    owners = owners_of(program)
    for value, straightness in measured.found.activations.items():
        activation = straightness.activation
        merging = merging_of(program, activation, straightness.slope, straightness.offset)
        if isinstance(merging, str):
            sites.refused[value] = merging
            continue
        action = FoldActivationAction(owners[value], activation.given, activation.value)
        saved = Bill(merging.nbytes_saved, merging.macs_saved)
        sites.found.append(Site(action, saved, straightness.damage))
    return sites


class _Activations(StatisticsObserver):
    """How straight a group's activations are, of those whose neighbours could merge.

    `refused` says of the others why not.
    """

    def __init__(self, evidence: Evidence, group: tuple[str, ...]) -> None:
        program, owners = evidence.program, owners_of(evidence.program)
        nodes = {id(node): node for model in group for node in program.nodes_of(model)}
        self.refused: dict[str, str] = {}
        measures: list[StraightMeasure] = []
        for activation in activations_of(program, list(nodes.values())):
            if activation.value not in owners:
                continue
            size = size_of(program.values()[activation.value].shape[activation.axis]) or 0
            merging = merging_of(program, activation, np.ones(size), np.zeros(size))
            if isinstance(merging, str):
                self.refused[activation.value] = merging
            else:
                measures.append(StraightMeasure(activation))
        super().__init__(measures, STATISTICS_FRAMES)


def merging_of(
    program: Program, activation: Activation, slope: Float64, offset: Float64
) -> Merging | str:
    """How the neighbours of the activation merge once it is `slope` x + `offset` per channel.

    Or why they would not merge: then folding the activation saves next to nothing.
    """
    values = program.values()
    outputs = fixed_values(program)
    given, value = values[activation.given], values[activation.value]
    name = own_name(activation.value)
    inside = {id(node) for node in activation.nodes}
    if given.name in outputs or any(id(node) not in inside for node in given.outputs):
        return f"something else reads what goes into the activation that makes '{name}'"
    reader = reader_of(value, outputs)
    first = _made_by(given, outputs)
    if first is None:
        return f"no linear operator feeds the activation that makes '{name}'"
    second = None if reader is None else linear_at(reader, outputs, first.channels_first)
    if second is None or second.is_scale:
        return f"no linear operator alone reads '{name}'"
    if first.channels != len(slope):
        return f"the channels of '{name}' are on another axis"
    one = merged(replace(first.scaled(slope, offset), result=value), second)
    if isinstance(one, str):
        return one
    nbytes = one.nbytes_saved + freed_nbytes(activation.nodes)
    # Counted as the bill counts: a bias costs no MACs.
    macs = node_macs(first.operator) + node_macs(second.operator)
    nodes = (*first.nodes, *activation.nodes, *second.nodes)
    made = {tensor.name for node in nodes for tensor in node.outputs}
    return Merging(
        nodes,
        frozenset(made - {second.result.name}),
        first.source.name,
        second.result.name,
        nbytes,
        macs - int(one.linear.weight.size) * _places(second),
    )


def _made_by(value: gs.Tensor, outputs: set[str]) -> Linear | None:
    if len(value.inputs) != 1:
        return None
    node = value.inputs[0]
    if node.op == "Add":
        node = next((m for t in node.inputs for m in t.inputs if m.op == "MatMul"), node)
    found = linear_at(node, outputs, True)
    return found if found is not None and not found.is_scale and found.result is value else None


def _places(linear: Linear) -> int:
    """Places of one frame's result: pixels, tokens, or 1; unknown sizes count as one."""
    shape = linear.result.shape
    sizes = () if shape is None else (shape[2:] if linear.window is not None else shape[1:-1])
    return math.prod(size_of(size) or 1 for size in sizes)
