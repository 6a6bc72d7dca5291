"""Programs joined into one graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs
from onnx import defs, helper

from ..errors import ModelError, UsageError
from ..graph.export import calls, every_node, opset_versions, standard
from ..graph.opaque import LocalFunction
from ..graph.program import SEPARATOR, Program
from .dimensions import unify_dimensions
from .inference import add_types
from .opset import raise_opset

Tied = Sequence[Sequence[tuple[str, str]]]
FunctionKey = tuple[str, str]


def join(programs: Sequence[Program], tied: Tied = ()) -> Program:
    """One program of all models; the given programs stay as they are.

    `tied` are groups of inputs, each as (model, the input's own name), that one array feeds:
    they become one graph input, named as the first of the group, with the type of all and a
    shape that all accept. Opsets are raised to the newest among the programs. Symbolic
    dimensions of equal name in different models stay different unless a tied input makes them
    one: ONNX Runtime takes equal names for equal sizes.

    Raises UsageError if a model is given twice or `tied` names no input or one twice, and
    ModelError if tied inputs cannot be fed by one array or the models need different versions
    of an operator domain.
    """
    copies = [program.copy() for program in programs]
    if not copies:
        raise UsageError("there is no model to join")
    names = [name for program in copies for name in program.models]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two models are called '{name}'", "give one another name")
    opset = max(program.graph.opset for program in copies)
    for program in copies:
        if program.graph.opset < opset:
            where = f"model '{next(iter(program.models))}'"
            raise_opset(program, opset, where)
            add_types(program, where)
    domains = _domains(copies)
    functions = _functions(copies)
    unify_dimensions(copies, _groups(copies, tied))
    joined = Program(
        gs.Graph(
            [node for program in copies for node in program.graph.nodes],
            [value for program in copies for value in program.graph.inputs],
            [value for program in copies for value in program.graph.outputs],
            name="repsimc" if len(copies) > 1 else copies[0].graph.name,
            opset=opset,
            import_domains=[helper.make_opsetid(d, v) for d, v in sorted(domains.items())],
            ir_version=max(program.graph.ir_version or 0 for program in copies),
        ),
        {},
    )
    joined.graph.functions = functions
    for program in copies:
        joined.models.update(program.models)
        joined.metadata.update(program.metadata)
        joined.docs.update(program.docs)
        joined.notes.update(program.notes)
    for group in tied:
        _tie(joined, group)
    return joined


def _groups(programs: Sequence[Program], tied: Tied) -> list[list[gs.Variable]]:
    """The tied values; checks that each is an input, is tied once, and fits the others."""
    models = {name: model for program in programs for name, model in program.models.items()}
    values = {v.name: v for program in programs for v in program.graph.inputs}
    seen: set[tuple[str, str]] = set()
    groups: list[list[gs.Variable]] = []
    for group in tied:
        for model, name in group:
            if model not in models or name not in models[model].inputs:
                known = ", ".join(f"{m}.{i}" for m in models for i in models[m].inputs)
                raise UsageError(f"no input '{model}.{name}' to tie", f"the inputs are {known}")
            if (model, name) in seen:
                raise UsageError(f"input '{model}.{name}' is tied twice")
            seen.add((model, name))
        members = [values[models[model].inputs[name]] for model, name in group]
        for (model, name), value in zip(group, members):
            _check_fit(group[0], members[0], (model, name), value)
        groups.append(members)
    return groups


def _check_fit(
    first: tuple[str, str], value: gs.Variable, other: tuple[str, str], tied: gs.Variable
) -> None:
    told = f"inputs '{'.'.join(first)}' and '{'.'.join(other)}' cannot be fed by one array"
    hint = "give the models separate frames, or export them for one input shape and type"
    if value.dtype != tied.dtype:
        raise ModelError(f"{told}: {value.dtype} and {tied.dtype}", hint)
    if value.shape is None or tied.shape is None:
        return
    same_rank = len(value.shape) == len(tied.shape)
    if not same_rank or any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(value.shape, tied.shape)
    ):
        raise ModelError(f"{told}: shapes {value.shape} and {tied.shape}", hint)


def _tie(program: Program, group: Sequence[tuple[str, str]]) -> None:
    """Makes one graph input of the group's, without a model's name before it."""
    graph = program.graph
    values = {value.name: value for value in graph.inputs}
    kept, *others = list(dict.fromkeys(program.models[model].inputs[name] for model, name in group))
    for other in others:
        program.replace_uses(values[other], values[kept])
    graph.inputs = [value for value in graph.inputs if value.name not in others]
    # With a separator in it, the name would read as a value of a model.
    name = program.unique_name(group[0][1].strip(SEPARATOR).replace(SEPARATOR, "_") or "input")
    values[kept].name = name
    for model in program.models.values():
        for own, value in model.inputs.items():
            if value in (kept, *others):
                model.inputs[own] = name


def _domains(programs: Sequence[Program]) -> dict[str, int]:
    """The version of each operator domain that all programs can be read in."""
    merged: dict[str, int] = {}
    for program in programs:
        used = {standard(node.domain) for node in every_node(program.graph.nodes)}
        for domain, version in opset_versions(program.graph).items():
            other = merged.setdefault(domain, version)
            if other == version or domain == "":
                continue
            if domain in used and not _same_operators(programs, domain, version, other):
                raise ModelError(
                    f"the models need versions {other} and {version} of operator domain '{domain}'",
                    "export the models with one version of it",
                )
            merged[domain] = max(other, version)
    return merged


def _same_operators(programs: Sequence[Program], domain: str, one: int, other: int) -> bool:
    """Whether all operators used of a domain mean the same in both versions."""
    used = {n.op for p in programs for n in every_node(p.graph.nodes) if n.domain == domain}
    try:
        return all(
            defs.get_schema(op, one, domain).since_version
            == defs.get_schema(op, other, domain).since_version
            for op in used
        )
    except defs.SchemaError:
        return False


def _functions(programs: Sequence[Program]) -> list[gs.Function]:
    """All local functions; one that differs between models gets each model's name.

    Functions of equal name and content are kept once. A function that calls a renamed one
    differs too.
    """
    found: dict[FunctionKey, list[bytes]] = {}
    for program in programs:
        for function in _local(program):
            found.setdefault(_key(function), []).append(
                function.proto.SerializeToString(deterministic=True)
            )
    clashing = {key for key, contents in found.items() if len(set(contents)) > 1}
    grown = True
    while grown:
        calling = {
            _key(function)
            for program in programs
            for function in _local(program)
            if clashing.intersection(calls(function.proto.node))
        }
        grown = not calling <= clashing
        clashing |= calling
    kept: dict[FunctionKey, gs.Function] = {}
    taken = set(found)
    for program in programs:
        renamed: dict[FunctionKey, str] = {}
        for domain, name in sorted(clashing.intersection(map(_key, _local(program)))):
            new = f"{name}_{next(iter(program.models))}"
            while (domain, new) in taken:
                new += "_"
            taken.add((domain, new))
            renamed[domain, name] = new
        for node in every_node(program.graph.nodes):
            node.op = renamed.get((standard(node.domain), node.op), node.op)
        for function in _local(program):
            proto = onnx.FunctionProto()
            proto.CopyFrom(function.proto)
            proto.name = renamed.get(_key(function), function.name)
            _rename_calls(proto.node, renamed)
            kept.setdefault((proto.domain, proto.name), LocalFunction(proto))
    return list(kept.values())


def _local(program: Program) -> list[LocalFunction]:
    return [f for f in program.graph.functions if isinstance(f, LocalFunction)]


def _key(function: gs.Function) -> FunctionKey:
    return function.domain, function.name


def _rename_calls(nodes: Sequence[onnx.NodeProto], renamed: dict[FunctionKey, str]) -> None:
    for node in nodes:
        node.op_type = renamed.get((node.domain, node.op_type), node.op_type)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename_calls(attribute.g.node, renamed)
