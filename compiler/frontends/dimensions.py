"""Symbolic dimensions of models that come together in one graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from ..errors import ModelError
from ..graph.program import Dimension, Program, free_name

Symbol = tuple[int, str]  # place of the program, name of the dimension


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
                (places[id(value)], dim) if isinstance(dim, str) else dim
                for value, dim in zip((v for v in group if v.shape is not None), dimensions)
                if dim is not None
            ]
            for key in keys[1:]:
                classes.unite(keys[0], key)
    names: dict[Symbol | int, Dimension] = {}
    taken: set[str] = set()

    def renamed(place: int, dim: Dimension) -> Dimension:
        if not isinstance(dim, str):
            return dim
        leader = classes.find((place, dim))
        if leader not in names:
            names[leader] = leader if isinstance(leader, int) else _free(leader, programs, taken)
        return names[leader]

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
            next((dim for dim in dims if dim is not None), None) for dims in zip(*shapes)
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
