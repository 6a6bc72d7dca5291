"""Symbolic dimensions: which names mean a size, and what becomes of those that meet in a graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from ..errors import ModelError
from ..graph.free_size import FreeSize
from ..graph.program import Dimension, Program, free_name
from .prepare import all_nodes, bodies

Symbol = tuple[int, str]  # place of the program, name of the dimension


# What exporters write where a size is free and they have no name for it: paddle's "?", tf2onnx's
# "unk__12", str(None). Several axes of one model are called so that have nothing to do with each
# other.
_PLACEHOLDER = re.compile(
    r"[\s?*_-]*|-?\d+|none|null|nan|any|free|undefined|(unk|unknown|dyn|dynamic)[_?\s]*\d*", re.I
)


def forget_placeholders(proto: onnx.ModelProto) -> None:
    """Takes names that say no more than 'unknown' off the sizes of all values, in place.

    ONNX Runtime, shape inference and our own checks take equal names for equal sizes.
    """
    graphs = [proto.graph, *(body for n in all_nodes(proto.graph.node) for body in bodies(n))]
    for graph in graphs:
        for info in (*graph.input, *graph.output, *graph.value_info):
            for dim in _dims(info.type):
                if dim.HasField("dim_param") and _PLACEHOLDER.fullmatch(dim.dim_param):
                    dim.ClearField("dim_param")


def _dims(kind: onnx.TypeProto) -> Iterator[Any]:
    """The dimensions of a tensor, or of the tensors that a sequence or an optional value holds."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        yield from getattr(kind, which).shape.dim
    elif which in ("sequence_type", "optional_type"):
        yield from _dims(getattr(kind, which).elem_type)


def name_batch(program: Program) -> None:
    """Lets the free first axis of the inputs count frames, wherever its name stands, in place."""
    symbols: set[str] = set()
    for value in program.graph.inputs:
        if value.shape and not isinstance(value.shape[0], int):
            symbols.add(value.shape[0] or "")
            value.shape = [FreeSize(value.shape[0] or "", (1,), True), *value.shape[1:]]
    symbols.discard("")
    for value in _values(program.graph) if symbols else ():
        if value.shape is not None and symbols.intersection(value.shape):
            value.shape = [
                FreeSize(dim, (1,), True) if isinstance(dim, str) and dim in symbols else dim
                for dim in value.shape
            ]


def unify_dimensions(programs: Sequence[Program], groups: Sequence[Sequence[gs.Variable]]) -> None:
    """Renames symbolic dimensions, in place, so that equal names mean equal sizes.

    Those of tied values (`groups`) become one, or the number that one of them is. Others that
    are called alike in different programs get the program's first model before their name.
    Raises ModelError if a dimension would have to be two numbers.
    """
    places = {
        id(value): place for place, program in enumerate(programs) for value in program.graph.inputs
    }
    classes = _Classes()
    for group in groups:
        shapes = [value.shape for value in group if value.shape is not None]
        for dimensions in zip(*shapes):
            keys = [
                (places[id(value)], str(dim)) if isinstance(dim, str) else dim
                for value, dim in zip((v for v in group if v.shape is not None), dimensions)
                if dim not in (None, "")
            ]
            for key in keys[1:]:
                classes.unite(keys[0], key)
    names: dict[Symbol | int, Dimension] = {}
    taken: set[str] = set()

    def renamed(place: int, dim: Dimension) -> Dimension:
        if not isinstance(dim, str) or not dim:
            return dim
        leader = classes.find((place, str(dim)))
        if leader not in names:
            names[leader] = leader if isinstance(leader, int) else _free(leader, programs, taken)
        name = names[leader]
        return dim.named(name) if isinstance(dim, FreeSize) and isinstance(name, str) else name

    for place, program in enumerate(programs):
        for value in _values(program.graph):
            if value.shape is not None:
                value.shape = [renamed(place, dim) for dim in value.shape]
    for group in groups:
        _agree(group)


def _free(symbol: Symbol, programs: Sequence[Program], taken: set[str]) -> str:
    place, name = symbol
    if name in taken:
        name = free_name(f"{next(iter(programs[place].models))}.{name}", taken)
    taken.add(name)
    return name


def _agree(group: Sequence[gs.Variable]) -> None:
    """Gives the first value, which stands for all, the most that is known of the shape."""
    shapes = [value.shape for value in group if value.shape is not None]
    if shapes:
        group[0].shape = [
            next((dim for dim in dims if dim not in (None, "")), dims[0]) for dims in zip(*shapes)
        ]


def _values(graph: gs.Graph) -> list[gs.Variable]:
    """Every value of the graph and its bodies, once."""
    found: dict[int, gs.Variable] = {}
    for some in [graph, *graph.subgraphs(recursive=True)]:
        for tensors in (some.inputs, some.outputs, *(node.outputs for node in some.nodes)):
            found |= {id(t): t for t in tensors if isinstance(t, gs.Variable)}
    return list(found.values())


class _Classes:
    """Dimensions known to be equal (union-find); a number leads its class."""

    def __init__(self) -> None:
        self.leaders: dict[Symbol | int, Symbol | int] = {}

    def find(self, key: Symbol | int) -> Symbol | int:
        while key in self.leaders:
            key = self.leaders[key]
        return key

    def unite(self, one: Symbol | int, other: Symbol | int) -> None:
        one, other = self.find(one), self.find(other)
        if one == other:
            return
        if isinstance(one, int) and isinstance(other, int):
            raise ModelError(
                f"tied inputs need one dimension to be {one} and {other} at once",
                "give the models separate frames, or export them for one input shape",
            )
        if isinstance(other, int):
            one, other = other, one
        self.leaders[other] = one
