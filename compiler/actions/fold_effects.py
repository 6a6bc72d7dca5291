"""What folds change: for the cost of a program, and for what else can be done beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..errors import ModelError
from ..fitting.hidden_layers import layer_behind
from ..fitting.operators import linear_operator
from ..fitting.shared_weight import may_tie
from ..graph.program import Program, own_name
from ..graph.weights import nbytes_of
from ..structure.activation_functions import Activation, activations_of, may_be_alike
from ..structure.channel_groups import group_of
from ..structure.cost import node_macs
from ..structure.linear_maps import Linear, fixed_values, linear_at, reader_of
from ..structure.merging import merged
from ..structure.windows import Window
from .fold_actions import (
    FoldAction,
    FoldActivationAction,
    FreezeBranchAction,
    NarrowLayerAction,
    PruneChannelsAction,
    ReuseAttentionAction,
    TieWeightsAction,
    check_fold_action,
    widest,
)

Float64 = NDArray[np.float64]

_BROADCASTS = frozenset({"Add", "Mul", "Sub", "Div"})


@dataclass(frozen=True)
class Merging:
    """Two linear operators that become one once the activation between them is affine.

    `nodes` are the operators with their biases and the activation; `inner` the values between.
    `nbytes_saved` and `macs_saved` (per frame) compare the one with the two.
    """

    nodes: tuple[gs.Node, ...]
    inner: frozenset[str]
    source: str
    result: str
    nbytes_saved: int
    macs_saved: int


@dataclass(frozen=True)
class Effect:
    """What an action changes.

    `values` are those it makes anew, which everything downstream of them feels. Readers of a value
    in `swaps` read the others instead, or a constant. Nodes in `shrunk` keep a share of their
    multiply-accumulates, and of the weight at each input index. `merging` counts where all of its
    nodes are there. Nodes in `tied` have one weight. `owns` is what no other fold may own or touch;
    what `chooses` which channels go may stand beside others that name some.
    """

    values: frozenset[str]
    swaps: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    shrunk: Mapping[str, Mapping[int, float]] = field(default_factory=dict[str, dict[int, float]])
    merging: Merging | None = None
    tied: tuple[str, ...] = ()
    chooses: bool = False
    owns: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()

    @property
    def left(self) -> float:
        """The share of the channels that is left."""
        return min((min(shares.values()) for shares in self.shrunk.values()), default=1.0)


def effect_of(program: Program, action: FoldAction) -> Effect | str:
    """What the action changes in the program it was planned on, or why it cannot be carried out.

    Raises ModelError where it names what the program does not have.
    """
    check_fold_action(action, program)
    if isinstance(action, FoldActivationAction):
        return _fold_effect(program, action)
    if isinstance(action, PruneChannelsAction):
        return _prune_effect(program, action)
    if isinstance(action, NarrowLayerAction):
        return _narrow_effect(program, action)
    if isinstance(action, FreezeBranchAction):
        return _freeze_effect(program, action)
    if isinstance(action, TieWeightsAction):
        return _tie_effect(program, action)
    return _reuse_effect(program, action)


def covers(one: Effect, other: Effect) -> bool:
    """Whether `other` changes nothing beside `one`.

    It takes channels out of values that are gone once `one` has merged, or `one` leaves as few of
    the same channels and either may choose which.
    """
    if one.merging is not None and bool(other.shrunk) and other.owns <= one.merging.inner:
        return True
    return outdoes(one, other)


def outdoes(one: Effect, other: Effect) -> bool:
    """Whether `one` leaves as few of the same channels as `other`, and either may choose which."""
    if not (one.shrunk and other.shrunk and one.owns & other.owns):
        return False
    return one.left < other.left if other.chooses else one.chooses and one.left <= other.left


def without_outdone(program: Program, actions: Iterable[FoldAction]) -> list[FoldAction]:
    """The actions without those that another one includes or outdoes in this program."""
    kept, known = widest(actions), program.values()
    effects: list[Effect | None] = []
    for action in kept:
        effect: Effect | str = ""
        if isinstance(action, PruneChannelsAction) and action.value in known:
            effect = _prune_effect(program, action)
        elif isinstance(action, NarrowLayerAction) and action.value in known:
            effect = _narrow_effect(program, action)
        effects.append(None if isinstance(effect, str) else effect)
    return [
        action
        for place, (action, mine) in enumerate(zip(kept, effects))
        if mine is None
        or not any(
            outdoes(other, mine)
            for index, other in enumerate(effects)
            if index != place and other is not None
        )
    ]


def conflict_of(one: Effect, other: Effect) -> str | None:
    """A node or value that both want for themselves; None where both can be carried out."""
    if covers(one, other) or covers(other, one):
        return None
    both = one.owns & (other.owns | other.touches) | one.touches & other.owns
    return min(both, default=None)


def check_folds(actions: Sequence[object], program: Program) -> None:
    """Refuse folds that the program has no place for, or that exclude each other.

    Actions of other kinds are passed over. Raises ModelError.
    """
    hint = "take the action out of the plan, or let repsimc plan by leaving out --plan"
    known: list[tuple[FoldAction, Effect]] = []
    for action in widest(action for action in actions if isinstance(action, FoldAction)):
        effect = effect_of(program, action)
        if isinstance(effect, str):
            raise ModelError(f"the plan asks for what cannot be done: {action}: {effect}", hint)
        known.append((action, effect))
    for (one, mine), (other, theirs) in combinations(known, 2):
        both = conflict_of(mine, theirs)
        if both is not None:
            raise ModelError(
                f"the plan rewrites '{own_name(both)}' twice: {one}; {other}",
                "take one of the two actions out of the plan",
            )


# -- activations ----------------------------------------------------------------------------------


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
    shape = (-1, *[1] * (first.weight.ndim - 1)) if first.window is not None else (1, -1)
    folded = replace(
        first,
        weight=first.weight * slope.reshape(shape),
        bias=first.bias * slope + offset,
        result=value,
    )
    one = merged(folded, second)
    if isinstance(one, str):
        return one
    constants = {
        id(tensor): tensor
        for node in activation.nodes
        for tensor in node.inputs
        if isinstance(tensor, gs.Constant) and all(id(r) in inside for r in tensor.outputs)
    }
    nbytes = one.nbytes_saved + sum(nbytes_of(tensor) for tensor in constants.values())
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


def _fold_effect(program: Program, action: FoldActivationAction) -> Effect | str:
    for activation in activations_of(program, program.nodes_of(action.model)):
        if (activation.given, activation.value) != (action.given, action.value):
            continue
        size = int(program.values()[action.value].shape[activation.axis])
        merging = merging_of(program, activation, np.ones(size), np.zeros(size))
        nodes = activation.nodes if isinstance(merging, str) else merging.nodes
        return Effect(
            frozenset({action.value}),
            merging=None if isinstance(merging, str) else merging,
            owns=frozenset(node.name for node in nodes),
        )
    return f"no activation function makes '{own_name(action.value)}'"


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
    window: Window | None = linear.window
    sizes = () if shape is None else (shape[2:] if window is not None else shape[1:-1])
    return int(np.prod([size for size in sizes if isinstance(size, int)], dtype=np.int64))


# -- the others -----------------------------------------------------------------------------------


def _prune_effect(program: Program, action: PruneChannelsAction) -> Effect | str:
    group = group_of(program, action.value)
    if isinstance(group, str):
        return group
    if max(action.channels) >= group.channels:
        return f"'{own_name(action.value)}' has {group.channels} channels"
    gone = min(len(set(action.channels)), group.channels - 1)
    left = 1 - gone / group.channels
    shrunk: dict[str, dict[int, float]] = {}
    for slot in [*group.slots, *(sink.slot for sink in group.sinks)]:
        shrunk.setdefault(slot.node.name, {})[slot.index] = left
    values = frozenset(group.values)
    return Effect(values, shrunk=shrunk, owns=values, touches=frozenset(shrunk))


def _narrow_effect(program: Program, action: NarrowLayerAction) -> Effect | str:
    layer = layer_behind(program, action.value)
    if isinstance(layer, str):
        return layer
    if action.units >= layer.width:
        return f"'{own_name(action.value)}' has {layer.width} units"
    left = action.units / layer.width
    shrunk: dict[str, dict[int, float]] = {layer.maker.node.name: {1: left}}
    if layer.maker.bias is not None:
        adds = layer.maker.bias_node or layer.maker.node
        index = next(i for i, t in enumerate(adds.inputs) if t is layer.maker.bias)
        shrunk.setdefault(adds.name, {})[index] = left
    shrunk[layer.reader.node.name] = {1: left}
    values = {layer.maker.node.outputs[0].name, layer.maker.result.name, action.value}
    values |= {node.outputs[0].name for node in layer.between}
    # Its operators keep their other channels: it could not tell which of those are left.
    return Effect(
        frozenset(values), shrunk=shrunk, chooses=True, owns=frozenset({*values, *shrunk})
    )


def _freeze_effect(program: Program, action: FreezeBranchAction) -> Effect | str:
    value, name = program.values()[action.value], own_name(action.value)
    if not value.inputs or value.name in fixed_values(program):
        return (
            f"'{name}' is an input or output of the model, or a body of If, Loop or Scan reads it"
        )
    for node in value.outputs:
        # Readers that broadcast: the other operand has the shape of the result.
        shape = node.outputs[0].shape
        others = [t for t in node.inputs if t is not value and isinstance(t, gs.Variable)]
        if node.op not in _BROADCASTS or shape is None or all(t.shape != shape for t in others):
            return (
                f"{node.op} '{own_name(node.name)}' cannot read a constant in the place of '{name}'"
            )
    made = frozenset({value.name})
    return Effect(made, swaps={value.name: ()}, owns=made)


def _tie_effect(program: Program, action: TieWeightsAction) -> Effect | str:
    by_name = {node.name: node for node in program.graph.nodes}
    operators = [linear_operator(by_name[name]) for name in action.nodes]
    found = [operator for operator in operators if operator is not None]
    if len(found) < len(operators) or not may_tie(found):
        return "their weights differ in shape or in how they are read"
    if any(len(operator.weight.outputs) != 1 for operator in found):
        return "others read their weights, too"
    results = frozenset(operator.result.name for operator in found)
    return Effect(results, tied=action.nodes, owns=frozenset(action.nodes))


def _reuse_effect(program: Program, action: ReuseAttentionAction) -> Effect | str:
    values = program.values()
    earlier, value = values[action.earlier], values[action.value]
    order = {tensor.name: i for i, n in enumerate(program.graph.nodes) for tensor in n.outputs}
    if earlier is value or earlier.dtype != value.dtype:
        return "the one cannot stand in the other's place"
    if not may_be_alike(earlier.shape, value.shape):
        return "the two differ in shape"
    if order.get(earlier.name, -1) > order.get(value.name, -1):
        return f"'{own_name(earlier.name)}' is made after '{own_name(value.name)}'"
    mine = frozenset({value.name})
    return Effect(mine, swaps={value.name: (earlier.name,)}, owns=mine)
