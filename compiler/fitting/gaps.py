"""What stands in for what: values of a rewritten program that take the place of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from ..graph.free_size import equal_sizes
from ..graph.layout import pre_activation
from ..graph.program import Program
from .hidden_layers import HiddenLayer, hidden_layer
from .operators import LinearOperator, operator_making
from .pooling import MAX_COLUMNS, Pool


@dataclass(frozen=True)
class Maker:
    """The operator before a gap: it makes the entry of collapsed regions that ended in `ends`.

    `ends` are values of the original program, one for each region of the gap, in order.
    `adapter` is the value that now stands where the gap's end was.
    """

    operator: LinearOperator
    ends: tuple[str, ...]
    adapter: str


@dataclass(frozen=True)
class StandIns:
    """Which values of a rewritten program have to be what other values of the original were.

    `place` maps a value to the one whose place it takes: the entry of a gap to the gap's end, an
    adapter's value to what the adapter replaced. `makers` goes by the operator's node id.
    """

    place: dict[str, str]
    makers: dict[int, Maker]

    def goal(self, value: str) -> str:
        """The value of the original program that `value` has to be."""
        return self.place.get(value, value)


def stand_ins(program: Program, original: Program) -> StandIns:
    """The stand-ins of all collapses that were made to `program`, by its notes.

    An entry that others read beside the gap keeps its own place.
    """
    outputs = program.output_names
    known = original.values()
    values = program.values()
    place: dict[str, str] = {}
    gaps: dict[str, gs.Node] = {}  # what a collapse's Identity reads -> the Identity
    for node in program.graph.nodes:
        note = program.note(node.name)
        if not (note.gap and note.replaces):
            continue
        if node.op == "Identity":
            gaps[node.inputs[0].name] = node
        else:
            place[node.outputs[0].name] = note.replaces
    makers: dict[int, Maker] = {}
    for entry in sorted(gaps):
        if entry not in known:
            continue  # the adapter of another gap: part of a chain
        ends: list[str] = []
        value: gs.Tensor = values[entry]
        while value.name in gaps and len(value.outputs) == 1:
            node = gaps[value.name]
            ends.append(program.note(node.name).replaces)
            value = node.outputs[0]
        if not ends:
            continue
        before = pre_activation(known[entry], outputs).name
        after = pre_activation(known[ends[-1]], outputs).name
        alike = _function(known[entry], before) == _function(known[ends[-1]], after)
        place[entry] = ends[-1]
        if before != entry:
            place[before] = after if alike else ends[-1]
        maker = maker_of(values[entry], outputs)
        if maker is not None:
            makers[id(maker.node)] = Maker(maker, tuple(ends), value.name)
    return StandIns(place, makers)


def maker_of(value: gs.Variable, outputs: set[str]) -> LinearOperator | None:
    """The operator that makes a value, its activation and an addition in front of that aside.

    Of several addends the last operator's that nothing else reads. None where there is none, or
    where its weights are shared. `outputs` names the graph outputs.
    """
    value = pre_activation(value, outputs)
    if len(value.inputs) != 1:
        return None
    node: gs.Node = value.inputs[0]
    candidates = [value]
    if node.op == "Add":
        candidates += [t for t in node.inputs if len(t.outputs) == 1 and t.name not in outputs]
    found: LinearOperator | None = None
    for candidate in candidates:
        operator = operator_making(candidate)
        if operator is not None and len(operator.weight.outputs) == 1:
            found = operator
    return found


def pools_of(
    program: Program,
    original: Program,
    gaps: Sequence[Maker],
    behind: Sequence[LinearOperator] = (),
) -> dict[int, Pool]:
    """The hidden layers that may choose removed units, by the node id of the operator that reads
    them: those before the gaps, which take over, and those of operators in `behind` that read what
    a gap leaves.
    """
    outputs = program.output_names
    layers: dict[int, HiddenLayer] = {}
    others: dict[int, tuple[HiddenLayer, ...]] = {}
    spare: dict[int, tuple[HiddenLayer, ...]] = {}
    for gap in gaps:
        layer = hidden_layer(gap.operator, outputs)
        if layer is not None and (removed := _removed(layer, gap, original)):
            layers[id(gap.operator.node)] = layer
            others[id(gap.operator.node)] = removed
    by_adapter = {gap.adapter: gap for gap in gaps}
    for reader in behind:
        layer = hidden_layer(reader, outputs)
        gap = None if layer is None else by_adapter.get(layer.maker.source.name)
        if layer is None or gap is None or len(reader.weight.outputs) != 1:
            continue
        if removed := _removed(layer, gap, original):
            layers[id(reader.node)] = layer
            spare[id(reader.node)] = removed
    found: dict[int, Pool] = {}
    for node, layer in layers.items():
        taken = Pool(layer, others.get(node, ()))
        for pool in (Pool(layer, taken.others, spare.get(node, ())), taken):
            if pool.units and pool.columns <= MAX_COLUMNS:
                found[node] = pool
                break
    return found


def _removed(layer: HiddenLayer, gap: Maker, original: Program) -> tuple[HiddenLayer, ...]:
    """The hidden layers of the gap's blocks whose units could stand in the given one."""
    known = original.values()
    if len(layer.maker.weight.outputs) != 1 or layer.maker.result.name not in known:
        return ()
    outputs = original.output_names
    found: list[HiddenLayer] = []
    for end in gap.ends:
        reader = maker_of(known[end], outputs)
        theirs = None if reader is None else hidden_layer(reader, outputs)
        if theirs is not None and _fits(layer, theirs):
            found.append(theirs)
    return tuple(found)


def _fits(mine: HiddenLayer, theirs: HiddenLayer) -> bool:
    """Whether the units of another layer could stand beside one's own: same function and size."""
    if mine.function != theirs.function or type(mine.maker) is not type(theirs.maker):
        return False
    if mine.reader.fan_in // mine.width != theirs.reader.fan_in // theirs.width:
        return False
    one, other = mine.maker.result.shape, theirs.maker.result.shape
    if one is None or other is None or len(one) != len(other):
        return False
    axis = len(one) - 1 if mine.maker.channels_last else 1
    return all(equal_sizes(a, b) for i, (a, b) in enumerate(zip(one, other)) if i not in (0, axis))


def _function(value: gs.Variable, before: str) -> str:
    """The activation between a value and what it was made from, spelled out; '' for none."""
    if value.name == before:
        return ""
    node: gs.Node = value.inputs[0]
    constants = [t.values.tolist() for t in node.inputs[1:] if isinstance(t, gs.Constant)]
    return f"{node.op} {sorted(node.attrs.items())} {constants}"
