"""Refit what makes some values, and what follows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_graphsurgeon as gs

from ..compiler.fitting.hidden_layers import HiddenLayer, layer_behind
from ..compiler.fitting.operators import LinearOperator
from ..compiler.fitting.pooling import Pool
from ..compiler.fitting.reconstruction import Target
from ..compiler.fitting.reference import Reference
from ..compiler.graph.program import Program, node_inputs
from .base import Change
from .refit import fit_again, refit_operators


@dataclass(frozen=True)
class RefitAround:
    """Refit the operators that make `made`, and all that depend on them or on `values`.

    As refit, for rewrites that merge operators or take channels out: what makes a merged value is
    fitted too, and operators whose result has other channels than the original's are left alone.
    `widths` says how many units are to be left of hidden layers, by what the operator behind reads:
    the layer is fitted, its units are chosen, and what reads them is fitted to those.
    """

    name: ClassVar[str] = "refit-around"
    exact: ClassVar[bool] = False

    values: tuple[str, ...]
    reference: Reference
    made: tuple[str, ...] = ()
    widths: tuple[tuple[str, int], ...] = ()

    def run(self, program: Program) -> list[Change]:
        """One change for every operator that was fitted, and for every narrower layer."""
        known = program.values()
        layers: list[tuple[HiddenLayer, int]] = []
        for value, units in self.widths:
            layer = layer_behind(program, value) if value in known else ""
            if not isinstance(layer, str) and units < layer.width:
                layers.append((layer, units))
        starts = [name for name in self.values if name in known]
        starts += [
            tensor.name
            for name in (*self.made, *(layer.maker.result.name for layer, _ in layers))
            if name in known
            for node in _makers(known[name])
            for tensor in node_inputs(node)
            if tensor.name in known
        ]
        original = self.reference.program.values()
        operators: list[tuple[LinearOperator, Target]] = []
        reference = self.reference
        for operator, target in refit_operators(
            program, reference.program, starts, reference.size.pools_behind
        ):
            wanted, present = original[target.value].shape, operator.result.shape
            if wanted is not None and present is not None and list(wanted) == list(present):
                operators.append((operator, target))
        fits = {id(operator.node) for operator, _ in operators}
        for place, (operator, target) in enumerate(operators):
            # A layer that is not fitted itself, being narrower by now, takes no other units.
            if target.pool is not None and id(target.pool.layer.maker.node) not in fits:
                operators[place] = operator, replace(target, pool=None)
        changes = [
            Change(f"{units} of {layer.width} units stay", layer.maker.node.name)
            for layer, units in layers
            if _narrow(operators, layer, units)
        ]
        return changes + fit_again(program, operators, reference, starts, self.name)


def _narrow(operators: list[tuple[LinearOperator, Target]], layer: HiddenLayer, units: int) -> bool:
    """Let the targets of a layer leave so many units; False where what reads it is not fitted.

    A layer that was narrowed before is not fitted again itself: its units are no longer the
    original's one by one.
    """
    places = {id(op.node): place for place, (op, _) in enumerate(operators)}
    if id(layer.reader.node) not in places:
        return False
    for node in (layer.maker.node, layer.reader.node):
        if id(node) in places:
            operator, target = operators[places[id(node)]]
            pool = replace(target.pool or Pool(layer, ()), keep=units)
            operators[places[id(node)]] = operator, replace(target, pool=pool)
    return True


def _makers(value: gs.Tensor) -> list[gs.Node]:
    """The node that makes the value, and the product whose bias it adds."""
    nodes = list(value.inputs)
    for node in value.inputs:
        if node.op == "Add":
            nodes += [m for t in node.inputs for m in t.inputs if m.op == "MatMul"]
    return nodes
