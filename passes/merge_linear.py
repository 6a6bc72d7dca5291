"""Merge adjacent linear operators into one where that is cheaper."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ..compiler.graph.edit import Edit
from ..compiler.graph.program import FreeNames, Program, constants_of
from ..compiler.graph.weights import array_of, nbytes_of
from ..compiler.structure.linear_maps import Linear, fixed_values, linear_at, may_merge, reader_of
from ..compiler.structure.merging import freed_nbytes, merged
from .base import Change, sources_of


@dataclass(frozen=True)
class MergeLinear:
    """Conv, Gemm, MatMul and per-channel steps that follow one another become one operator.

    - Two operators become one where that takes fewer MACs and no more weight bytes (plus
      `growth_nbytes`): a 1x1 around a 3x3, a Gemm after a Gemm, a wide pair around a bottleneck's
      opposite. Where the second pads, the first has to be a 1x1 without bias.
    - Mul, Add, Sub, Div by a number per channel and a lone BatchNormalization go into the operator
      before or after them; a run of them becomes at most one Mul and one Add.

    Only where nothing else reads the value between them. Float32 and float64; half precision and
    quantised weights stay.
    """

    name: ClassVar[str] = "merge-linear"
    exact: ClassVar[bool] = True

    growth_nbytes: int = 0

    def run(self, program: Program) -> list[Change]:
        """One change for every merge."""
        outputs = fixed_values(program)
        changes: list[Change] = []
        edit = Edit(program)
        pending = deque(program.graph.nodes)
        while pending:
            node = pending.popleft()
            if not may_merge(node, outputs):
                continue
            done = self._merge_at(edit, node, outputs)
            if done is not None:
                changes.append(done[0])
                # What was made may merge with what comes before or after it.
                pending.extendleft(reversed(done[1]))
        edit.done()
        return changes

    def _merge_at(
        self, edit: Edit, node: gs.Node, outputs: set[str]
    ) -> tuple[Change, list[gs.Node]] | None:
        for channels_first in (True, False):
            first = linear_at(node, outputs, channels_first)
            if first is None:
                continue
            if first.is_scale and _shortens(first, outputs):
                return _rewrite(edit, first, first.nodes)
            reader = reader_of(first.result, outputs)
            after = first.channels_first if not first.is_scale else channels_first
            second = None if reader is None else linear_at(reader, outputs, after)
            if second is None:
                continue
            found = merged(first, second, self.growth_nbytes)
            if not isinstance(found, str):
                return _rewrite(edit, found.linear, (*first.nodes, *second.nodes))
        return None


def _shortens(scale: Linear, outputs: set[str]) -> bool:
    """Whether a run of per-channel steps takes fewer nodes than it has, or none at all."""
    if scale.steps() == 0:
        return scale.result.name not in outputs
    return scale.steps() < len(scale.nodes)


def _rewrite(
    edit: Edit, linear: Linear, nodes: tuple[gs.Node, ...]
) -> tuple[Change, list[gs.Node]]:
    """Put the nodes that `linear` takes where the last of `nodes` is; the result keeps its name.

    `nodes` follow one another: each reads what the one before it makes. Returns the change, and
    the nodes that may now merge: what makes the source, and the new ones.
    """
    keep, source, result = linear.operator, linear.source, linear.result
    program = edit.program
    kinds = " and ".join(f"{node.op} '{node.name}'" for node in nodes)
    metadata = program.metadata.get(keep.name)
    note = replace(program.note(keep.name), sources=sources_of(program, nodes))
    docs = program.docs.get(keep.name)
    freed = freed_nbytes(nodes)
    dtype = np.dtype(array_of(constants_of(nodes)[0]).dtype)
    shape = _Shape(keep.name, keep.op, dict(keep.attrs), dtype)
    adds = [node.name for node in nodes if node.op == "Add"]
    edit.remove(nodes)
    makers = list(source.inputs)
    if linear.steps() == 0:
        program.replace_uses(result, source)
        return Change(f"{kinds} changes nothing", shape.name, freed), makers
    made = _nodes(edit.names, linear, shape, adds)
    made[-1].outputs = [result]
    edit.put(made, nodes[-1])
    for node in made:
        program.notes[node.name] = note
        if metadata is not None:
            program.metadata[node.name] = dict(metadata)
    if docs is not None:
        program.docs[shape.name] = docs
    added = sum(map(nbytes_of, constants_of(made)))
    became = " and ".join(f"{node.op} '{node.name}'" for node in made)
    change = Change(f"{kinds} became {became}", shape.name, freed - added)
    return change, [*makers, *made]


@dataclass(frozen=True)
class _Shape:
    """What of the surviving operator the new one takes over."""

    name: str
    op: str
    attrs: dict[str, Any]
    dtype: np.dtype[Any]


def _nodes(names: FreeNames, linear: Linear, old: _Shape, adds: Sequence[str]) -> list[gs.Node]:
    """The new nodes; the first reads the source, the last still lacks its output."""

    def constant(suffix: str, array: Any) -> gs.Constant:
        values = np.ascontiguousarray(array, dtype=old.dtype)
        return gs.Constant(names.free(f"{old.name}.{suffix}"), values)

    source, result, name = linear.source, linear.result, old.name
    biased = bool(np.any(linear.bias != 0))
    window = linear.window
    if linear.is_scale:
        return _steps(names, linear, name, constant)
    if window is None and old.op == "MatMul":
        product = gs.Node("MatMul", name, {}, [source, constant("merged", linear.weight)])
        if not biased:
            return [product]
        middle = gs.Variable(names.free(f"{name}.product"), result.dtype, result.shape)
        product.outputs = [middle]
        inputs = [middle, constant("merged_bias", linear.bias)]
        added = adds[-1] if adds else names.free(f"{name}.bias")
        return [product, gs.Node("Add", added, {}, inputs)]
    weight = linear.weight
    if window is not None:
        attrs = {
            "kernel_shape": list(window.kernel),
            "strides": list(window.strides),
            "dilations": list(window.dilations),
            "pads": list(window.pads),
            "group": linear.group,
        }
    else:
        attrs = {"transB": int(old.attrs.get("transB", 0))}
        weight = weight.T if attrs["transB"] else weight
    inputs = [source, constant("merged", weight)]
    inputs += [constant("merged_bias", linear.bias)] if biased else []
    return [gs.Node("Conv" if window is not None else "Gemm", name, attrs, inputs)]


def _steps(
    names: FreeNames, linear: Linear, name: str, constant: Callable[[str, Any], gs.Constant]
) -> list[gs.Node]:
    """At most a Mul and an Add, by constants that broadcast over the channels."""
    rank = len(linear.source.shape)
    sizes = [linear.channels] + ([1] * (rank - 2) if linear.channels_first else [])
    made: list[gs.Node] = []
    value = linear.source
    for op, array, neutral in (("Mul", linear.weight, 1.0), ("Add", linear.bias, 0.0)):
        if np.all(array == neutral):
            continue
        own = name if not made else names.free(f"{name}.{op.lower()}")
        if made:
            shape, dtype = linear.result.shape, linear.result.dtype
            value = gs.Variable(names.free(f"{name}.scaled"), dtype, shape)
            made[-1].outputs = [value]
        made.append(gs.Node(op, own, {}, [value, constant(op.lower(), array.reshape(sizes))]))
    return made
