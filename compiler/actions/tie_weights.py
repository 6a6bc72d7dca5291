"""Tie the weights of layers of one shape: one weight fitted to all of them (MPruner)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...passes.tie_weights import TieWeights
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..fitting.effort import SURVEY
from ..fitting.operators import linear_operator
from ..fitting.reference import Reference
from ..fitting.shared_weight import TieObserver, may_tie
from ..graph.program import Program, own_name
from ..graph.weights import nbytes_of
from .action import Disturbed, Effect, OneModel, Reads, check_models
from .bill import LEAST_SHARE, Bill
from .evidence import Evidence
from .site import Site, Sites, by_damage, owners_of

# Layers that lose more than this share of what they make are not tried: ties that lost 0.24 to 0.39
# in resnet20 did more damage per byte than its blocks; below 0.03 in a ViT, as little.
MOST_DAMAGE = 0.15


def _nodes(reader: Reader) -> tuple[str, ...]:
    found = reader.value
    if not isinstance(found, list) or not found:
        raise ModelError(f"{reader.document}: nodes is no list, or an empty one")
    nodes = reader.each(Reader.anything)
    if len(set(map(str, nodes))) < 2 or not all(isinstance(n, str) and n for n in nodes):
        raise ModelError(f"{reader.document}: nodes must be two names or more")
    return tuple(nodes)


@dataclass(frozen=True)
class TieWeightsAction(OneModel):
    """Operators of one shape share one weight, fitted to all of them; biases stay their own."""

    kind: ClassVar[str] = "tie-weights"
    read: ClassVar[Reads] = {"nodes": _nodes}

    nodes: tuple[str, ...]

    @property
    def place(self) -> str:
        """The model and its operators."""
        return f"{self.model}: {', '.join(map(own_name, self.nodes))}"

    def __str__(self) -> str:
        return f"{self.model} has one weight for {', '.join(map(own_name, self.nodes))}"

    def check(self, program: Program) -> None:
        """Refuse nodes that are not there. Raises ModelError."""
        check_models(self.models, program)
        self.check_names("node", {node.name for node in program.graph.nodes}, self.nodes)

    def effect(self, program: Program) -> Effect | str:
        """The operators have one weight."""
        by_name = {node.name: node for node in program.graph.nodes}
        operators = [linear_operator(by_name[name]) for name in self.nodes]
        found = [operator for operator in operators if operator is not None]
        if len(found) < len(operators) or not may_tie(found):
            return "their weights differ in shape or in how they are read"
        if any(len(operator.weight.outputs) != 1 for operator in found):
            return "others read their weights, too"
        results = frozenset(operator.result.name for operator in found)
        return Effect(results, tied=self.nodes, owns=frozenset(self.nodes))

    def covers(self, other: object) -> bool:
        """Whether it ties all layers that the other ties."""
        return isinstance(other, TieWeightsAction) and set(self.nodes) >= set(other.nodes)

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The joint fit."""
        return [TieWeights(self.nodes, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """What the operators make."""
        nodes = [node for node in program.graph.nodes if node.name in self.nodes]
        operators = [linear_operator(node) for node in nodes]
        return Disturbed(tuple(op.result.name for op in operators if op is not None))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have the layers of one shape compared."""
    evidence.request(group, TieWeightsAction.kind, lambda: _ties(evidence, group))


def _ties(evidence: Evidence, group: tuple[str, ...]) -> TieObserver:
    assert SURVEY.frames is not None
    whole = evidence.bills.bill(())
    assert whole is not None
    least = int(LEAST_SHARE * whole.weights_nbytes)
    return TieObserver(evidence.program, group, SURVEY.frames, evidence.seed, least)


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Runs of layers that one weight could serve, by the variance that it would not explain."""
    program, sites = evidence.program, Sites()
    owners = owners_of(program)
    known = {node.name: node for node in program.graph.nodes}
    ties = evidence.seen(group, TieWeightsAction.kind, lambda: _ties(evidence, group))
    for names, r2 in ties.found.items():
        nodes = [known[name] for name in names if name in known]
        model = owners.get(nodes[0].outputs[0].name) if len(nodes) == len(names) else None
        if model is None:
            continue
        weights = [node.inputs[1] for node in nodes[1:]]
        saved = sum(
            nbytes_of(w) for w in weights if isinstance(w, gs.Constant) and len(w.outputs) == 1
        )
        damage = max(0.0, 1 - r2)
        if saved > 0 and damage <= MOST_DAMAGE:
            sites.found.append(Site(TieWeightsAction(model, names), Bill(saved, 0), damage))
    sites.found.sort(key=by_damage)
    return sites
