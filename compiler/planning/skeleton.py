"""The program's bare bones: what it costs under any set of actions, without building graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ..analysis.cost import node_macs
from ..graph.layout import Layout, layout_of, pre_activation
from ..graph.program import Program, node_inputs
from ..graph.weights import digest, nbytes_of
from .plan import Action


@dataclass(frozen=True)
class _Bone:
    reads: tuple[str, ...]
    weights: tuple[tuple[str, int], ...]  # (content digest, bytes)
    macs: int


@dataclass(frozen=True)
class Bill:
    """What a program costs: unique weight bytes and MACs per frame."""

    weights_nbytes: int
    macs: int


class Skeleton:
    """Costs of the program under sets of share actions, by reachability from the outputs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._outputs = [value.name for value in program.graph.outputs]
        graph_outputs = set(self._outputs)
        self._bones: list[_Bone] = []
        self._producer: dict[str, int] = {}
        self._pre: dict[str, str] = {}
        for index, node in enumerate(program.graph.nodes):
            weights = tuple(
                (digest(t), nbytes_of(t)) for t in node.inputs if isinstance(t, gs.Constant)
            )
            reads = tuple(t.name for t in node_inputs(node) if isinstance(t, gs.Variable))
            self._bones.append(_Bone(reads, weights, node_macs(node)))
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                    self._producer[tensor.name] = index
                    self._pre[tensor.name] = pre_activation(tensor, graph_outputs).name
        self._values = program.values()
        self._adapters: dict[tuple[tuple[str, ...], str, int], Bill] = {}

    def replaced(self, receiver_value: str, kernel: int) -> str:
        """The value whose readers an adapter takes over."""
        return receiver_value if kernel == 0 else self._pre.get(receiver_value, receiver_value)

    def bill(self, actions: Sequence[Action]) -> Bill | None:
        """Cost under all `actions` together; None for a cycle, or a value that two claim."""
        swapped: dict[str, tuple[str, ...]] = {}
        adapters: dict[str, Bill] = {}
        for action in actions:
            for link in action.links:
                name = self.replaced(link.receiver_value, action.kernel)
                if name in swapped:
                    return None
                swapped[name] = link.donor_values
                adapters[name] = self._adapter(link.donor_values, name, action.kernel)

        def sources(value: str) -> tuple[str, ...]:
            if value in swapped:
                return swapped[value]
            index = self._producer.get(value)
            return () if index is None else self._bones[index].reads

        alive: dict[str, int] = {}  # value -> how many living readers are left to visit
        stack = list(self._outputs)
        for name in stack:
            alive.setdefault(name, 0)
        while stack:
            for source in sources(stack.pop()):
                if source not in alive:
                    stack.append(source)
                alive[source] = alive.get(source, 0) + 1
        ready = [name for name, readers in alive.items() if readers == 0]
        done = 0
        while ready:
            done += 1
            for source in sources(ready.pop()):
                alive[source] -= 1
                if alive[source] == 0:
                    ready.append(source)
        if done != len(alive):
            return None
        nodes = {self._producer[n] for n in alive if n not in swapped and n in self._producer}
        weights = dict(pair for index in nodes for pair in self._bones[index].weights)
        living = [adapters[name] for name in swapped if name in alive]
        return Bill(
            sum(weights.values()) + sum(bill.weights_nbytes for bill in living),
            sum(self._bones[index].macs for index in nodes) + sum(bill.macs for bill in living),
        )

    def affected(self, action: Action) -> tuple[str, ...]:
        """The models whose outputs depend on a value the action replaces, in program order."""
        reached = {self.replaced(link.receiver_value, action.kernel) for link in action.links}
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
