"""The program's bare bones: what it costs under any set of actions, without building graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..graph.layout import Layout, layout_of, pre_activation
from ..graph.program import Program, node_inputs
from ..graph.weights import digest, nbytes_of
from ..planning.plan import Action
from ..structure.cost import node_macs
from .fold_actions import FoldAction, widest
from .fold_effects import Effect, conflict_of, covers, effect_of


@dataclass(frozen=True)
class _Bone:
    name: str
    reads: tuple[str, ...]
    weights: tuple[tuple[int, str, int], ...]  # (input index, content digest, bytes)
    macs: int


@dataclass(frozen=True)
class Bill:
    """What a program costs: unique weight bytes and MACs per frame."""

    weights_nbytes: int
    macs: int


class Skeleton:
    """Costs of the program under sets of actions, by reachability from the outputs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._outputs = [value.name for value in program.graph.outputs]
        graph_outputs = set(self._outputs)
        # What each value needs, itself included, as a mask of bits by number.
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._masks: dict[str, int] = {}
        self._bones: list[_Bone] = []
        self._producer: dict[str, int] = {}
        self._pre: dict[str, str] = {}
        for index, node in enumerate(program.graph.nodes):
            weights = tuple(
                (position, digest(t), nbytes_of(t))
                for position, t in enumerate(node.inputs)
                if isinstance(t, gs.Constant)
            )
            reads = tuple(t.name for t in node_inputs(node) if isinstance(t, gs.Variable))
            self._bones.append(_Bone(node.name, reads, weights, node_macs(node)))
            needed = 0
            for name in reads:
                self._number(name)
                needed |= self._masks[name]
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                    self._masks[tensor.name] = needed | 1 << self._number(tensor.name)
                    self._producer[tensor.name] = index
                    self._pre[tensor.name] = pre_activation(tensor, graph_outputs).name
        self._values = program.values()
        self._reached: dict[tuple[str, int], tuple[int, tuple[str, ...]]] = {}
        self._made_by = np.array([self._producer.get(name, -1) for name in self._names], np.int64)
        self._macs = np.array([bone.macs for bone in self._bones], np.int64)
        # Every read of a weight: by which node, of which weight (by content).
        contents: dict[str, int] = {}
        reads = [
            (node, contents.setdefault(key, len(contents)), nbytes)
            for node, bone in enumerate(self._bones)
            for _, key, nbytes in bone.weights
        ]
        self._readers = np.array([node for node, _, _ in reads], np.int64)
        self._read = np.array([weight for _, weight, _ in reads], np.int64)
        self._nbytes = np.zeros(len(contents), np.int64)
        self._nbytes[self._read] = [nbytes for _, _, nbytes in reads]
        self._adapters: dict[tuple[tuple[str, ...], str, int], Bill] = {}
        self._effects: dict[FoldAction, Effect | str] = {}
        self._constants: dict[str, int] = {}

    def replaced(self, receiver_value: str, kernel: int) -> str:
        """The value whose readers an adapter takes over."""
        return receiver_value if kernel == 0 else self._pre.get(receiver_value, receiver_value)

    def effect(self, action: FoldAction) -> Effect | str:
        """What a fold changes, or why it cannot be carried out; worked out once."""
        if action not in self._effects:
            self._effects[action] = effect_of(self.program, action)
        return self._effects[action]

    def note_constant(self, value: str, nbytes: int) -> None:
        """Count so many bytes for the constant that a frozen value becomes; unknown ones: 0."""
        self._constants[value] = nbytes

    def bill(self, actions: Sequence[Action]) -> Bill | None:
        """Cost under all `actions` together.

        None for a cycle, a value that two claim, or folds that exclude each other. A fold saves
        nothing where what it rewrites is not needed any more.
        """
        swapped: dict[str, tuple[str, ...]] = {}
        adapters: dict[str, Bill] = {}
        as_it_is: set[str] = set()  # of what is swapped: values that no adapter makes anew
        for action in actions:
            for link in action.links:
                name = self.replaced(link.receiver_value, action.kernel)
                if name in swapped:
                    return None
                swapped[name] = link.donor_values
                as_it_is |= set() if action.kernel else {name}
                adapters[name] = self._adapter(link.donor_values, name, action.kernel)
        effects: list[Effect] = []
        for action in widest(action for action in actions if isinstance(action, FoldAction)):
            effect = self.effect(action)
            if isinstance(effect, str) or any(conflict_of(effect, other) for other in effects):
                return None
            effects.append(effect)
            for value, sources in effect.swaps.items():
                # What shares or goes as a whole no longer asks whether it was constant.
                if value not in swapped:
                    swapped[value] = sources
                    as_it_is.add(value)
                    adapters[value] = Bill(self._constants.get(value, 0), 0)
        alive = self._alive(swapped)
        if alive is None:
            return None
        weights, macs = self._cost(alive & ~self._mask(swapped), effects, swapped, as_it_is)
        living = [adapters[name] for name in swapped if alive & self._mask([name])]
        return Bill(
            weights + sum(bill.weights_nbytes for bill in living),
            macs + sum(bill.macs for bill in living),
        )

    def _cost(
        self,
        made: int,
        effects: Sequence[Effect],
        swapped: Mapping[str, tuple[str, ...]],
        as_it_is: set[str],
    ) -> tuple[int, int]:
        """Unique weight bytes and MACs of the nodes that make the values of the mask `made`."""
        nodes = np.zeros(len(self._bones), bool)
        makers = self._made_by[self._places(made)]
        nodes[makers[makers >= 0]] = True
        if not effects:
            weights = np.zeros(len(self._nbytes), bool)
            weights[self._read[nodes[self._readers]]] = True
            return int(self._nbytes[weights].sum()), int(self._macs[nodes].sum())
        costs = _Costs([self._bones[i] for i in np.flatnonzero(nodes)], swapped, as_it_is)
        for effect in effects:
            if not any(covers(other, effect) for other in effects if other is not effect):
                costs.take(effect)
        return costs.total()

    def without_idle(self, actions: Sequence[Action]) -> tuple[Action, ...]:
        """The actions without the folds that change nothing beside the others."""
        kept = list(actions)
        whole = self.bill(kept)
        for action in [one for one in actions if isinstance(one, FoldAction)]:
            others = [one for one in kept if one is not action]
            if whole is not None and self.bill(others) == whole:
                kept = others
        return tuple(kept)

    def _alive(self, swapped: Mapping[str, tuple[str, ...]]) -> int | None:
        """The values that the outputs need, as a mask; None where they wait for themselves."""
        swaps = self._mask(swapped)
        alive = 0
        known: dict[str, bool] = {}  # swapped values, and whether all that they need is known

        def need(value: str) -> bool:
            nonlocal alive
            mask, stops = self._reach(value, swaps)
            alive |= mask
            for stop in stops:
                if stop not in known:
                    known[stop] = False
                    known[stop] = all(need(source) for source in swapped[stop])
                if not known[stop]:
                    return False
            return True

        return alive if all(need(name) for name in self._outputs) else None

    def _reach(self, value: str, swaps: int) -> tuple[int, tuple[str, ...]]:
        """What a value needs up to the swapped values `swaps`, and those it comes to; kept."""
        masks = self._masks
        key = value, masks.get(value, 0) & swaps
        if key not in self._reached:
            reached = 0
            stops: list[str] = []
            stack, seen = [value], {value}
            while stack:
                name = stack.pop()
                mask = masks.get(name, 0)
                if not mask & swaps:
                    reached |= mask
                    continue
                reached |= 1 << self._numbers[name]
                if swaps >> self._numbers[name] & 1:
                    stops.append(name)
                    continue
                new = set(self._bones[self._producer[name]].reads) - seen
                seen |= new
                stack += sorted(new)
            self._reached[key] = reached, tuple(sorted(stops))
        return self._reached[key]

    def _mask(self, values: Iterable[str]) -> int:
        mask = 0
        for value in values:
            if value in self._numbers:
                mask |= 1 << self._numbers[value]
        return mask

    def _places(self, mask: int) -> NDArray[np.int64]:
        """The numbers of the bits that are set."""
        packed = mask.to_bytes((len(self._names) + 7) // 8, "little")
        return np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little"))

    def _number(self, value: str) -> int:
        """The bit of a value, which stands for itself until something makes it."""
        if value not in self._numbers:
            self._numbers[value] = len(self._names)
            self._masks[value] = 1 << len(self._names)
            self._names.append(value)
        return self._numbers[value]

    def affected(self, action: Action) -> tuple[str, ...]:
        """The models whose outputs depend on a value the action makes anew, in program order."""
        reached = {self.replaced(link.receiver_value, action.kernel) for link in action.links}
        if isinstance(action, FoldAction):
            effect = self.effect(action)
            reached |= set() if isinstance(effect, str) else effect.values
        for node in self.program.graph.nodes:
            if any(tensor.name in reached for tensor in node_inputs(node)):
                reached.update(tensor.name for tensor in node.outputs)
        return tuple(
            name
            for name, model in self.program.models.items()
            if reached & set(model.outputs.values())
        )

    def adapters_bill(self, action: Action) -> Bill:
        """Bytes and MACs of the adapters that an action inserts."""
        bills = [
            self._adapter(
                link.donor_values, self.replaced(link.receiver_value, action.kernel), action.kernel
            )
            for link in action.links
        ]
        return Bill(sum(b.weights_nbytes for b in bills), sum(b.macs for b in bills))

    def _adapter(self, donors: tuple[str, ...], replaced: str, kernel: int) -> Bill:
        if kernel == 0:
            return Bill(0, 0)
        key = (donors, replaced, kernel)
        if key not in self._adapters:
            self._adapters[key] = self._adapter_cost(*key)
        return self._adapters[key]

    def _adapter_cost(self, donors: tuple[str, ...], replaced: str, kernel: int) -> Bill:
        value = self._values[replaced]
        last = layout_of(value) is Layout.CHANNELS_LAST
        axis = -1 if last else 1
        fan_in = sum(int(self._values[name].shape[axis]) for name in donors)
        fan_out = int(value.shape[axis])
        sizes = value.shape[1:-1] if last else value.shape[2:]
        window = 1 if last else kernel ** len(sizes)
        places = int(np.prod([size for size in sizes if isinstance(size, int)], dtype=np.int64))
        itemsize = np.dtype(value.dtype).itemsize
        return Bill((fan_in * window + 1) * fan_out * itemsize, fan_in * window * fan_out * places)


class _Costs:
    """What the living nodes cost, node by node, with folds taken off one after another."""

    def __init__(
        self,
        bones: Sequence[_Bone],
        swapped: Mapping[str, tuple[str, ...]],
        as_it_is: set[str],
    ) -> None:
        self._bones = {bone.name: bone for bone in bones}
        self._swapped = swapped
        self._as_it_is = as_it_is
        self._read = {source for sources in swapped.values() for source in sources}
        self._macs: dict[str, float] = {bone.name: bone.macs for bone in bones}
        # By node and input: what the weight is told apart by, and its bytes.
        self._weights: dict[tuple[str, int], tuple[str, float]] = {
            (bone.name, index): (key, nbytes)
            for bone in bones
            for index, key, nbytes in bone.weights
        }
        self._saved = [0, 0]

    def take(self, effect: Effect) -> None:
        """Take off what the effect saves among the living nodes."""
        for value in self._as_it_is if effect.shrunk else ():
            inside = {name in effect.owns for name in (value, *self._swapped[value])}
            if inside == {True, False}:
                return  # the channels are now those of a value that the fold was not planned for
        for name in sorted(effect.shrunk):
            if name not in self._bones:
                continue
            shares = effect.shrunk[name]
            for index, share in sorted(shares.items()):
                key, nbytes = self._weights[name, index]
                self._weights[name, index] = (f"{key} {min(effect.owns)}", nbytes * share)
            self._macs[name] *= min(shares.values())
        tied = [name for name in effect.tied if name in self._bones]
        for name in tied[1:]:
            self._weights[name, 1] = self._weights[tied[0], 1]
        merging = effect.merging
        if merging is None or merging.inner & self._read:
            return
        if all(node.name in self._bones for node in merging.nodes):
            self._saved[0] += merging.nbytes_saved
            self._saved[1] += merging.macs_saved

    def total(self) -> tuple[int, int]:
        """Unique weight bytes and MACs per frame."""
        weights = sum(round(nbytes) for nbytes in dict(self._weights.values()).values())
        macs = sum(round(macs) for macs in self._macs.values())
        return weights - self._saved[0], macs - self._saved[1]
