"""Bills: what the program costs under any set of actions, without building graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..graph.free_size import size_of
from ..graph.layout import Layout, layout_of
from ..graph.program import Program, node_inputs
from .action import Action, Effect, Stage, Swap
from .combining import conflict_of, makes_idle, widest
from .skeleton import Bone, Skeleton

# What an action of any kind has to save of all models' weight bytes, or of their MACs, to be taken:
# less is not worth what it changes (two OCR detectors shared 2 KiB of 4.6 MiB, and one fell to
# 0.991 for it), nor the time that it takes to measure.
LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Bill:
    """What a program costs: unique weight bytes and MACs per frame."""

    weights_nbytes: int
    macs: int

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.weights_nbytes + other.weights_nbytes, self.macs + other.macs)

    def __sub__(self, other: Bill) -> Bill:
        return Bill(self.weights_nbytes - other.weights_nbytes, self.macs - other.macs)

    def share_of(self, whole: Bill) -> float:
        """Bytes and MACs as shares of the whole's, together."""
        return self.weights_nbytes / max(whole.weights_nbytes, 1) + self.macs / max(whole.macs, 1)

    def matters(self, whole: Bill) -> bool:
        """Whether so much saved of the whole, in bytes or in MACs, is worth a line in a plan."""
        for saved, all_of_it in (
            (self.weights_nbytes, whole.weights_nbytes),
            (self.macs, whole.macs),
        ):
            if saved > 0 and saved >= LEAST_SHARE * all_of_it:
                return True
        return False


NOTHING = Bill(0, 0)


class Bills:
    """Prices of one program under sets of actions.

    `constant_nbytes(value)` says how many bytes the constant has that a value becomes.
    """

    def __init__(
        self, program: Program, constant_nbytes: Callable[[str], int] = lambda value: 0
    ) -> None:
        self.program = program
        self._constant_nbytes = constant_nbytes
        self._skeleton = Skeleton(program)
        self._values = program.values()
        self._adapters: dict[tuple[tuple[str, ...], str, int], Bill] = {}
        self._effects: dict[Action, Effect | str] = {}
        self._affected: dict[Action, tuple[str, ...]] = {}

    @property
    def bones(self) -> list[Bone]:
        """Every node of the program, in order, with what it reads and costs."""
        return self._skeleton.bones()

    def replaced(self, value: str, kernel: int) -> str:
        """The value whose readers an adapter with that window takes over."""
        return value if kernel == 0 else self._skeleton.before_activation(value)

    def effect(self, action: Action) -> Effect | str:
        """What an action changes, or why it cannot be carried out; worked out once."""
        if action not in self._effects:
            self._effects[action] = action.effect(self.program)
        return self._effects[action]

    def bill(self, actions: Sequence[Action]) -> Bill | None:
        """Cost under all `actions` together.

        None for a cycle, a value that two claim, or actions that exclude each other. A fold saves
        nothing where what it rewrites is not needed any more.
        """
        swaps = _Swaps(self)
        effects: list[Effect] = []
        for action in actions:
            if action.stage <= Stage.SHARING and not swaps.claim(self.effect(action)):
                return None
        for action in widest(action for action in actions if action.stage > Stage.SHARING):
            effect = self.effect(action)
            if isinstance(effect, str) or any(conflict_of(effect, other) for other in effects):
                return None
            effects.append(effect)
            swaps.give_way(effect)
        skeleton, swapped = self._skeleton, swaps.swapped
        alive = skeleton.alive(swapped)
        if alive is None:
            return None
        nodes = skeleton.makers(alive & ~skeleton.mask(swapped))
        total = Bill(*skeleton.cost(nodes))
        if effects:
            costs = _Costs(skeleton.bones(nodes), swapped, swaps.as_it_is)
            for effect in effects:
                if not any(makes_idle(other, effect) for other in effects if other is not effect):
                    costs.take(effect)
            total = Bill(*costs.total())
        for value, bill in swaps.bills.items():
            total += bill if alive & skeleton.mask([value]) else NOTHING
        return total

    def without_idle(self, actions: Sequence[Action]) -> tuple[Action, ...]:
        """The actions without the folds that change nothing beside the others."""
        kept = list(actions)
        whole = self.bill(kept)
        for action in [one for one in actions if one.stage > Stage.SHARING]:
            others = [one for one in kept if one is not action]
            if whole is not None and self.bill(others) == whole:
                kept = others
        return tuple(kept)

    def ends(self, actions: Sequence[Action]) -> set[str]:
        """The values that claimed swaps read or replace."""
        ends: set[str] = set()
        for action in actions:
            effect = self.effect(action)
            for swap in () if isinstance(effect, str) or not effect.claims else effect.swaps:
                ends |= {swap.value, *swap.sources, self.replaced(swap.value, swap.kernel)}
        return ends

    def affected(self, action: Action) -> tuple[str, ...]:
        """The models whose outputs depend on a value the action makes anew, in program order."""
        if action not in self._affected:
            self._affected[action] = self._reached(action)
        return self._affected[action]

    def _reached(self, action: Action) -> tuple[str, ...]:
        effect = self.effect(action)
        reached: set[str] = set()
        if not isinstance(effect, str):
            reached |= effect.values
            reached |= {self.replaced(swap.value, swap.kernel) for swap in effect.swaps}
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
        effect = self.effect(action)
        swaps = () if isinstance(effect, str) or not effect.claims else effect.swaps
        return sum((self.swap_bill(swap) for swap in swaps), NOTHING)

    def swap_bill(self, swap: Swap) -> Bill:
        """Bytes and MACs of what stands in a value's place: an adapter, a constant, or nothing."""
        if not swap.sources:
            return Bill(self._constant_nbytes(swap.value), 0)
        if swap.kernel == 0:
            return NOTHING
        key = (swap.sources, self.replaced(swap.value, swap.kernel), swap.kernel)
        if key not in self._adapters:
            self._adapters[key] = self._adapter_cost(*key)
        return self._adapters[key]

    def _adapter_cost(self, donors: tuple[str, ...], replaced: str, kernel: int) -> Bill:
        value = self._values[replaced]
        last = layout_of(value) is Layout.CHANNELS_LAST
        axis = -1 if last else 1
        fan_in = sum(size_of(self._values[name].shape[axis]) or 0 for name in donors)
        fan_out = size_of(value.shape[axis]) or 0
        sizes = value.shape[1:-1] if last else value.shape[2:]
        window = 1 if last else kernel ** len(sizes)
        places = math.prod(size_of(size) or 1 for size in sizes)
        itemsize = np.dtype(value.dtype).itemsize
        return Bill((fan_in * window + 1) * fan_out * itemsize, fan_in * window * fan_out * places)


class _Swaps:
    """The swaps of several actions: what stands in each value's place, and what that costs.

    `as_it_is` are the swapped values that no adapter makes anew.
    """

    def __init__(self, bills: Bills) -> None:
        self._bills = bills
        self.swapped: dict[str, tuple[str, ...]] = {}
        self.bills: dict[str, Bill] = {}
        self.as_it_is: set[str] = set()

    def claim(self, effect: Effect | str) -> bool:
        """Take the swaps; False where a value was taken already, or none can be made."""
        if isinstance(effect, str):
            return False
        for swap in effect.swaps:
            name = self._bills.replaced(swap.value, swap.kernel)
            if name in self.swapped:
                return False
            self._take(name, swap)
        return True

    def give_way(self, effect: Effect) -> None:
        """Take the swaps of values that no other took."""
        for swap in effect.swaps:
            # What shares or goes as a whole no longer asks whether it was constant.
            if swap.value not in self.swapped:
                self._take(swap.value, swap)

    def _take(self, name: str, swap: Swap) -> None:
        self.swapped[name] = swap.sources
        self.bills[name] = self._bills.swap_bill(swap)
        if not swap.kernel:
            self.as_it_is.add(name)


class _Costs:
    """What the living nodes cost, node by node, with folds taken off one after another."""

    def __init__(
        self,
        bones: Sequence[Bone],
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
                if (name, index) not in self._weights:
                    continue  # a value: less work, and no weight
                key, nbytes = self._weights[name, index]
                self._weights[name, index] = (f"{key} {min(effect.owns)}", nbytes * share)
            self._macs[name] *= min(shares.values())
        self._store(effect)
        tied = [name for name in effect.tied if name in self._bones]
        for name in tied[1:]:
            self._weights[name, 1] = self._weights[tied[0], 1]
        merging = effect.merging
        if merging is None or merging.inner & self._read:
            return
        if all(node.name in self._bones for node in merging.nodes):
            self._saved[0] += merging.nbytes_saved
            self._saved[1] += merging.macs_saved

    def _store(self, effect: Effect) -> None:
        """Weights that are one stay one: what reads them is stored alike."""
        for name in sorted(effect.stored):
            for index, share in effect.stored[name].items():
                if (name, index) in self._weights:
                    key, nbytes = self._weights[name, index]
                    self._weights[name, index] = (f"{key} {min(effect.owns)}", nbytes * share)

    def total(self) -> tuple[int, int]:
        """Unique weight bytes and MACs per frame."""
        weights = sum(round(nbytes) for nbytes in dict(self._weights.values()).values())
        macs = sum(round(macs) for macs in self._macs.values())
        return weights - self._saved[0], macs - self._saved[1]
