"""The structural rules of a program, checked before the first pass and after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import defs, helper

from ..errors import InternalFault
from .export import every_node
from .program import Program, bodies_of, node_inputs
from .weights import element_type


class VerificationError(InternalFault):
    """A program that breaks a structural rule: a fault of repsimc or of a pass, not of the user.

    `rule` is the name of the broken rule.
    """

    def __init__(self, rule: str, problem: str, where: str = "") -> None:
        super().__init__(f"{where}{problem} (rule '{rule}')")
        self.rule = rule
        self.problem = problem


def verify(program: Program) -> None:
    """Returns if the program keeps every rule in `RULES`. Raises VerificationError.

    Later rules take for granted what earlier ones check; the first broken one is reported.
    """
    facts = _Facts.of(program)
    for rule, problems in RULES.items():
        for problem in problems(facts):
            raise VerificationError(rule, problem)


@dataclass(frozen=True)
class _Facts:
    program: Program
    nodes: list[gs.Node]
    inputs: list[gs.Variable]
    outputs: list[gs.Variable]
    tensors: list[gs.Tensor]  # of the top level, once each, in graph order

    @cached_property
    def made(self) -> set[int]:
        """The graph's inputs and what its nodes make, by id."""
        return {id(v) for v in [*self.inputs, *(v for n in self.nodes for v in n.outputs)]}

    @staticmethod
    def of(program: Program) -> _Facts:
        graph = program.graph
        inner = (t for node in graph.nodes for t in [*node.inputs, *node.outputs])
        listed = [*graph.inputs, *(t for t in inner if not t.is_empty()), *graph.outputs]
        tensors = list({id(tensor): tensor for tensor in listed}.values())
        nodes, inputs, outputs = list(graph.nodes), list(graph.inputs), list(graph.outputs)
        return _Facts(program, nodes, inputs, outputs, tensors)


def _unique_names(facts: _Facts) -> Iterator[str]:
    yield from _repeated((node.name for node in facts.nodes), "node")
    yield from _repeated((tensor.name for tensor in facts.tensors), "value or weight")
    yield from _repeated((value.name for value in facts.inputs), "graph input")
    yield from _repeated((value.name for value in facts.outputs), "graph output")
    yield from (f"a node {node.op} has no name" for node in facts.nodes if not node.name)


def _repeated(names: Iterable[str], kind: str) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"two are called '{name}': {kind} names are unique"
        seen.add(name)


def _weights_are_constants(facts: _Facts) -> Iterator[str]:
    for kind, values in (("input", facts.inputs), ("output", facts.outputs)):
        for value in values:
            if not isinstance(value, gs.Variable):
                yield f"graph {kind} '{value.name}' is a weight"
    for tensor in facts.tensors:
        if isinstance(tensor, gs.Constant):
            values: Any = tensor._values  # pyright: ignore[reportPrivateUsage]
            if not isinstance(values, np.ndarray):
                yield f"weight '{tensor.name}' holds {type(values).__name__}, not an array"
            if tensor.inputs:
                yield f"weight '{tensor.name}' is computed by node '{tensor.inputs[0].name}'"


def _single_producer(facts: _Facts) -> Iterator[str]:
    made_by: dict[int, str] = {id(value): "the graph's inputs" for value in facts.inputs}
    for node in facts.nodes:
        for value in node.outputs:
            if value.is_empty():
                continue
            if id(value) in made_by:
                yield f"value '{value.name}' is made by {made_by[id(value)]} and by '{node.name}'"
            made_by[id(value)] = f"node '{node.name}'"


def _links_agree(facts: _Facts) -> Iterator[str]:
    # graphsurgeon holds every edge twice; a node taken out of the graph but not unlinked would
    # count as a reader for ever and stop later rewrites.
    present = {id(node) for node in every_node(facts.nodes)}
    for tensor in facts.tensors:
        for verb, nodes in (("made", tensor.inputs), ("read", tensor.outputs)):
            for node in nodes:
                if id(node) not in present:
                    told = f"'{tensor.name}' is {verb} by node '{node.name}'"
                    yield f"{told}, which is not in the graph"
    readers = {id(tensor): {id(node) for node in tensor.outputs} for tensor in facts.tensors}
    for node in facts.nodes:
        for tensor in node.inputs:
            if not tensor.is_empty() and id(node) not in readers[id(tensor)]:
                yield f"node '{node.name}' reads '{tensor.name}', which does not know it"


def _no_dangling_value(facts: _Facts) -> Iterator[str]:
    for node in facts.nodes:
        for tensor in _read_from_outside(node):
            if isinstance(tensor, gs.Variable) and id(tensor) not in facts.made:
                yield f"node '{node.name}' reads value '{tensor.name}', which nothing computes"


def _read_from_outside(node: gs.Node) -> Iterator[gs.Tensor]:
    if not node.attrs:
        yield from node_inputs(node)
        return
    inside = {
        id(value)
        for body in node.subgraphs(recursive=True)
        for value in [*body.inputs, *(made for inner in body.nodes for made in inner.outputs)]
    }
    yield from (tensor for tensor in node_inputs(node) if id(tensor) not in inside)


def _topological_order(facts: _Facts) -> Iterator[str]:
    position = {
        id(value): index for index, node in enumerate(facts.nodes) for value in node.outputs
    }
    for index, node in enumerate(facts.nodes):
        for tensor in _read_from_outside(node):
            if position.get(id(tensor), -1) >= index:
                yield f"node '{node.name}' reads '{tensor.name}' before it is computed"


def _outputs_exist(facts: _Facts) -> Iterator[str]:
    for value in facts.outputs:
        if id(value) not in facts.made:
            yield f"graph output '{value.name}' is computed by nothing"


def _models_map_to_graph(facts: _Facts) -> Iterator[str]:
    claimed: set[str] = set()
    for key, model in facts.program.models.items():
        if key != model.name:
            yield f"model '{model.name}' is listed as '{key}'"
        for kind, mapping, values in (
            ("input", model.inputs, facts.inputs),
            ("input", model.optional, facts.inputs),
            ("output", model.outputs, facts.outputs),
        ):
            present = {value.name for value in values}
            claimed |= set(mapping.values())
            for own, name in mapping.items():
                if name not in present:
                    yield f"{kind} '{own}' of model '{key}' is '{name}', no {kind} of the graph"
    for value in [*facts.inputs, *facts.outputs]:
        if value.name not in claimed:
            yield f"graph input or output '{value.name}' belongs to no model"


def _metadata_for_existing_nodes(facts: _Facts) -> Iterator[str]:
    names = {node.name for node in every_node(facts.nodes)}
    program = facts.program
    for kind, entries in (
        ("metadata", program.metadata),
        ("metadata", program.notes),
        ("doc", program.docs),
    ):
        for name in entries:
            if name not in names:
                yield f"there is {kind} for '{name}', but no such node"


def _operators_known(facts: _Facts) -> Iterator[str]:
    opset = facts.program.graph.opset
    for node in facts.nodes:
        if node.domain or bodies_of(node):
            continue
        schema = _schema(node.op, opset)
        if schema is None:
            yield f"node '{node.name}' is a {node.op}, which ONNX opset {opset} does not have"
            continue
        for kind, given, low, high in (
            ("inputs", len(node.inputs), schema.min_input, schema.max_input),
            ("outputs", len(node.outputs), schema.min_output, schema.max_output),
        ):
            if not low <= given <= high:
                yield f"node '{node.name}' ({node.op}) has {given} {kind}, not {low} to {high}"


def _types_agree(facts: _Facts) -> Iterator[str]:
    opset = facts.program.graph.opset
    for node in facts.nodes:
        schema = None if node.domain else _schema(node.op, opset)
        if schema is None:
            continue
        bound: dict[str, tuple[int, str]] = {}
        for tensors, formal in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
            for tensor, parameter in _matched(tensors, formal):
                if tensor.is_empty() or tensor.dtype is None or not parameter.is_homogeneous:
                    continue
                given = element_type(tensor.dtype)
                wanted, other = bound.setdefault(parameter.type_str, (given, tensor.name))
                if parameter.type_str.startswith("tensor("):
                    other = f"{node.op}'s '{parameter.name}'"
                    wanted = _concrete(parameter.type_str)
                if given != wanted:
                    names = [helper.tensor_dtype_to_string(t)[12:] for t in (given, wanted)]
                    yield (
                        f"node '{node.name}' ({node.op}): '{tensor.name}' is {names[0]}, "
                        f"{other} is {names[1]}"
                    )


def _matched(
    tensors: Iterable[gs.Tensor], formal: Any
) -> Iterator[tuple[gs.Tensor, defs.OpSchema.FormalParameter]]:
    parameters = list(formal)
    if not parameters:
        return
    for index, tensor in enumerate(tensors):
        if index < len(parameters):
            yield tensor, parameters[index]
        elif parameters[-1].option == defs.OpSchema.FormalParameterOption.Variadic:
            yield tensor, parameters[-1]


@cache
def _concrete(type_str: str) -> int:
    name = type_str.removeprefix("tensor(").removesuffix(")").upper()
    return int(getattr(onnx.TensorProto, name))


@cache
def _schema(op: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op, opset, "")
    except defs.SchemaError:
        return None


_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Where"})


def _shapes_agree(facts: _Facts) -> Iterator[str]:
    for node in facts.nodes:
        if node.domain or any(tensor.shape is None for tensor in node.inputs if tensor.name):
            continue
        shapes = [tuple(tensor.shape) for tensor in node.inputs if tensor.name]
        problem = None
        if node.op == "Conv" and len(shapes[0]) > 1 and len(shapes[1]) > 1:
            groups = int(node.attrs.get("group", 1))
            if _differ(shapes[0][1], shapes[1][1] * groups):
                problem = f"{shapes[0][1]} channels into a filter for {shapes[1][1] * groups}"
        elif node.op == "MatMul" and len(shapes[0]) > 0 and len(shapes[1]) > 0:
            rows = shapes[1][-2] if len(shapes[1]) > 1 else shapes[1][0]
            if _differ(shapes[0][-1], rows):
                problem = f"{shapes[0][-1]} columns times {rows} rows"
        elif node.op == "Gemm":
            columns = shapes[0][0 if node.attrs.get("transA") else 1]
            rows = shapes[1][1 if node.attrs.get("transB") else 0]
            if _differ(columns, rows):
                problem = f"{columns} columns times {rows} rows"
        elif node.op in _BROADCAST and not _broadcast(shapes):
            problem = " with ".join(str(list(shape)) for shape in shapes)
        if problem:
            yield f"node '{node.name}' ({node.op}) does not fit: {problem}"


def _differ(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one != other


def _broadcast(shapes: list[tuple[Any, ...]]) -> bool:
    for dims in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        if len({d for d in dims if isinstance(d, int) and d != 1}) > 1:
            return False
    return True


# By name, what gives a sentence for every place that breaks the rule.
RULES: dict[str, Callable[[_Facts], Iterator[str]]] = {
    "unique-names": _unique_names,
    "weights-are-constants": _weights_are_constants,
    "single-producer": _single_producer,
    "links-agree": _links_agree,
    "no-dangling-value": _no_dangling_value,
    "topological-order": _topological_order,
    "outputs-exist": _outputs_exist,
    "models-map-to-graph": _models_map_to_graph,
    "metadata-for-existing-nodes": _metadata_for_existing_nodes,
    "operators-known": _operators_known,
    "types-agree": _types_agree,
    "shapes-agree": _shapes_agree,
}
