"""The program's bare bones: which values need which, and which weights are read where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ..graph.arrays import Int64
from ..graph.layout import pre_activation
from ..graph.program import Program, constants_of_bodies, node_inputs
from ..graph.weights import held_key, nbytes_of
from ..structure.cost import node_macs


@dataclass(frozen=True)
class Bone:
    """A node: what it reads, its weights (input index, key of what is held once, bytes), its MACs.

    Weights of bodies come after those of the inputs. MACs are per frame.
    """

    name: str
    reads: tuple[str, ...]
    weights: tuple[tuple[int, str, int], ...]
    macs: int


class Skeleton:
    """Reachability from the outputs when values are swapped, without building graphs."""

    def __init__(self, program: Program) -> None:
        self._outputs = [value.name for value in program.graph.outputs]
        graph_outputs = set(self._outputs)
        # What each value needs, itself included, as a mask of bits by number.
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._masks: dict[str, int] = {}
        self._bones: list[Bone] = []
        self._producer: dict[str, int] = {}
        self._pre: dict[str, str] = {}
        for index, node in enumerate(program.graph.nodes):
            weights = [
                (position, held_key(t), nbytes_of(t))
                for position, t in enumerate(node.inputs)
                if isinstance(t, gs.Constant)
            ]
            weights += [
                (len(node.inputs) + further, held_key(t, in_body=True), nbytes_of(t))
                for further, t in enumerate(constants_of_bodies([node]))
            ]
            reads = tuple(t.name for t in node_inputs(node) if isinstance(t, gs.Variable))
            self._bones.append(Bone(node.name, reads, tuple(weights), node_macs(node)))
            needed = 0
            for name in reads:
                self._number(name)
                needed |= self._masks[name]
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                    self._masks[tensor.name] = needed | 1 << self._number(tensor.name)
                    self._producer[tensor.name] = index
                    self._pre[tensor.name] = pre_activation(tensor, graph_outputs).name
        self._reached: dict[tuple[str, int], tuple[int, tuple[str, ...]]] = {}
        self._made_by = np.array([self._producer.get(name, -1) for name in self._names], np.int64)
        self._macs = np.array([bone.macs for bone in self._bones], np.int64)
        # Every read of a weight: by which node, of which weight (by content).
        contents: dict[str, int] = {}
        reads_of = [
            (node, contents.setdefault(key, len(contents)), nbytes)
            for node, bone in enumerate(self._bones)
            for _, key, nbytes in bone.weights
        ]
        self._readers = np.array([node for node, _, _ in reads_of], np.int64)
        self._read = np.array([weight for _, weight, _ in reads_of], np.int64)
        self._nbytes = np.zeros(len(contents), np.int64)
        self._nbytes[self._read] = [nbytes for _, _, nbytes in reads_of]

    def before_activation(self, value: str) -> str:
        """The value before the activation that makes `value`; itself where none does."""
        return self._pre.get(value, value)

    def alive(self, swapped: Mapping[str, tuple[str, ...]]) -> int | None:
        """The values that the outputs need, as a mask; None where they wait for themselves.

        Readers of a value in `swapped` read the others.
        """
        swaps = self.mask(swapped)
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

    def makers(self, made: int) -> NDArray[np.bool_]:
        """Which nodes make the values of the mask `made`."""
        nodes = np.zeros(len(self._bones), bool)
        makers = self._made_by[self._places(made)]
        nodes[makers[makers >= 0]] = True
        return nodes

    def cost(self, nodes: NDArray[np.bool_]) -> tuple[int, int]:
        """Unique weight bytes and MACs per frame of some nodes."""
        weights = np.zeros(len(self._nbytes), bool)
        weights[self._read[nodes[self._readers]]] = True
        return int(self._nbytes[weights].sum()), int(self._macs[nodes].sum())

    def bones(self, nodes: NDArray[np.bool_] | None = None) -> list[Bone]:
        """Some nodes (default: all), in order."""
        if nodes is None:
            return list(self._bones)
        return [self._bones[i] for i in np.flatnonzero(nodes)]

    def mask(self, values: Iterable[str]) -> int:
        """Values as a mask of bits; unknown ones count for nothing."""
        mask = 0
        for value in values:
            if value in self._numbers:
                mask |= 1 << self._numbers[value]
        return mask

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

    def _places(self, mask: int) -> Int64:
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
