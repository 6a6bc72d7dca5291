"""Attention heads: which channels of which projections a map's queries and keys are.

Exporters cut heads out of projections in many ways: one projection for all or three, reshapes,
transpositions, splits, slices, a factor here or there. None of them is looked for: every channel is
followed on its way, as a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Array, Int64
from ..graph.free_size import size_of
from ..graph.program import Program, is_standard, own_name
from ..structure.activation_functions import attends
from .operators import LinearOperator, operator_making
from .regression import Affine

# Frames that heads are followed with where the batch is free: two, to tell the batch from others.
_BATCH = 2
# Steps between a projection and what reads its heads, and between logits and softmax.
_LONGEST = 16
_SCORE_STEPS = frozenset({"Mul", "Div", "Add", "Sub", "Identity", "Where"})


class _Refusal(Exception):
    """Why the heads behind an attention map cannot be told."""


@dataclass(frozen=True)
class Heads:
    """Heads as a MatMul reads them, and how they were cut out of a linear operator's result.

    `columns` [heads, dims] are the operator's channels, multiplied by `factor` on their way. `view`
    is the shape into which the result [a, b, channels] is cut: [a, b, heads, dims], [a, b * heads,
    dims], or itself where there is one head; `order` puts its axes into the order of `value`.
    """

    value: gs.Variable
    operator: LinearOperator
    columns: Int64
    factor: float
    view: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of heads."""
        return self.columns.shape[0]

    @property
    def dims(self) -> int:
        """Dimensions of each head."""
        return self.columns.shape[1]

    @property
    def dims_axis(self) -> int:
        """The axis of the dimensions in `value`."""
        return self.order.index(len(self.order) - 1)

    @property
    def in_front(self) -> tuple[int, ...]:
        """The axes of the view over which a MatMul goes one by one."""
        return self.order[:-2]

    def apart(self, array: Array) -> Array:
        """[heads, groups of tokens, ...] of an array that has the axes in front as `value` has."""
        if len(self.order) == 4:
            return np.moveaxis(array, self.order.index(2), 0)
        return np.moveaxis(array.reshape(-1, self.count, *array.shape[1:]), 1, 0)


@dataclass(frozen=True)
class Attention:
    """The parts of attention that a narrower one replaces, by the map `value` that it ends in.

    `values` are set where they come from one operator with queries or keys, and are cut anew.
    `gone` are the nodes between the projections and what reads their heads.
    """

    value: gs.Variable
    logits: gs.Node
    queries: Heads
    keys: Heads
    values: Heads | None
    gone: tuple[gs.Node, ...]

    @property
    def reads(self) -> list[tuple[Heads, gs.Node, int]]:
        """The heads that are cut anew, each with the node and the input that it is."""
        found = [(self.queries, self.logits, 0), (self.keys, self.logits, 1)]
        return found + ([] if self.values is None else [(self.values, self.value.outputs[0], 1)])

    @property
    def operators(self) -> list[tuple[LinearOperator, list[Heads]]]:
        """The projections, each with the heads that are cut out of its result, in order."""
        found: dict[int, tuple[LinearOperator, list[Heads]]] = {}
        for heads, _, _ in self.reads:
            _, cut = found.setdefault(id(heads.operator.node), (heads.operator, []))
            cut.append(heads)
        return list(found.values())


def attention_behind(program: Program, value: str) -> Attention | str:
    """The attention that ends in a map, with weights of its own; or why it cannot be narrowed."""
    try:
        return _found(program, program.values()[value])
    except _Refusal as refusal:
        return f"'{own_name(value)}': {refusal}"


def _found(program: Program, value: gs.Variable) -> Attention:
    softmax = value.inputs[0] if value.inputs else None
    if softmax is None or softmax.op != "Softmax" or not attends(softmax):
        raise _Refusal("no softmax over logits makes it")
    logits = _product_behind(softmax.inputs[0])
    queries, keys = (_heads_of(tensor) for tensor in logits.inputs)
    if (queries.count, queries.dims) != (keys.count, keys.dims):
        raise _Refusal("queries and keys differ in their heads")
    ends = queries.order[-1], keys.order[-2]
    heads_axis = 2 if len(queries.order) == 4 else 1
    per_head = queries.count == 1 or heads_axis in queries.in_front
    if set(ends) != {len(queries.order) - 1} or queries.in_front != keys.in_front or not per_head:
        raise _Refusal("its logits are no product of queries and keys per head")
    found = Attention(value, logits, queries, keys, None, ())
    mixed = value.outputs[0].inputs[1]
    made = {id(operator.node) for operator, _ in found.operators}
    try:
        values = _heads_of(mixed)
        found = replace(found, values=values if id(values.operator.node) in made else None)
    except _Refusal:
        pass  # values with a projection of their own may be made in any way
    return replace(found, gone=_between(program, found))


def _between(program: Program, found: Attention) -> tuple[gs.Node, ...]:
    """The nodes between projections and readers of heads, which have to be of use for nothing else.

    Raises _Refusal where they are.
    """
    for heads, node, _ in found.reads:
        if [id(reader) for reader in heads.value.outputs] != [id(node)]:
            raise _Refusal("others read its heads, too")
    operators = [operator for operator, _ in found.operators]
    if any(len(operator.weight.outputs) != 1 for operator in operators):
        raise _Refusal("others read the weights of its projections, too")
    everything, cut = list(program.graph.outputs), [heads.value.name for heads, _, _ in found.reads]
    still = {id(node) for node in program.needed_nodes(everything, stop=cut)}
    made = [tensor for operator in operators for tensor in made_by(operator)]
    if any(id(node) in still for tensor in made for node in tensor.inputs) or any(
        tensor.name in program.output_names for tensor in made
    ):
        raise _Refusal("others read its projections, too")
    kept = still | {id(node) for node in program.needed_nodes(made)}
    return tuple(node for node in program.needed_nodes(everything) if id(node) not in kept)


def _product_behind(value: gs.Tensor) -> gs.Node:
    """The product of two values that a softmax reads, scaled and masked."""
    found: dict[int, gs.Node] = {}
    stack: list[gs.Tensor] = [value]
    for _ in range(_LONGEST):
        for node in stack.pop().inputs if stack else ():
            variables = [t for t in node.inputs if isinstance(t, gs.Variable)]
            if node.op == "MatMul" and is_standard(node) and len(variables) == 2:
                found[id(node)] = node
            elif node.op in _SCORE_STEPS and is_standard(node):
                stack += variables  # what makes a mask ends in other operators
    if len(found) != 1 or stack:
        raise _Refusal("its logits are more than one product that is scaled and masked")
    return next(iter(found.values()))


def made_by(operator: LinearOperator) -> list[gs.Tensor]:
    """What an operator makes, before and after its bias."""
    return [operator.node.outputs[0], operator.result]


def _heads_of(value: gs.Tensor) -> Heads:
    """The heads that a value holds, found by following every channel from its projection."""
    steps: list[tuple[gs.Node, int]] = []
    tensor = value
    operator = operator_making(tensor)
    while operator is None:
        if len(tensor.inputs) != 1 or len(steps) >= _LONGEST:
            raise _Refusal("no linear operator makes its heads")
        node = tensor.inputs[0]
        steps.append((node, next(i for i, made in enumerate(node.outputs) if made is tensor)))
        read = [t for t in node.inputs if isinstance(t, gs.Variable)]
        if not read:
            raise _Refusal("no linear operator makes its heads")
        # The shape of a Reshape may be computed; what is moved stands first.
        tensor = read[0]
        operator = operator_making(tensor)
    shape = _sizes(operator.result)
    if len(shape) != 3 or min(shape) < 1 or not operator.channels_last:
        raise _Refusal("its projections do not read tokens [frames, tokens, channels]")
    start = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    moved, factor = start, 1.0
    for node, output in reversed(steps):
        moved, scale = _moved(node, output, moved)
        factor *= scale
    assert isinstance(value, gs.Variable)
    for view, order, columns in _cuts(start, moved):
        return Heads(value, operator, columns, factor, view, order)
    raise _Refusal("its heads are no groups of channels of a projection")


def _cuts(start: Int64, moved: Int64) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Int64]]:
    """The ways in which `moved` is channels of `start` [a, b, channels]: view, order, columns."""
    a, b, channels = start.shape
    for order in permutations(range(moved.ndim)):
        cut = np.transpose(moved, np.argsort(order))
        if cut.shape[0] != a or cut.size % (a * b * cut.shape[-1]):
            continue
        heads = cut.size // (a * b * cut.shape[-1])
        if cut.shape[1:-1] not in ((b, heads), (b * heads,)):
            continue
        columns = cut.reshape(a, b, heads, -1)[0, 0] % channels
        if np.array_equal(start[:, :, columns], cut.reshape(a, b, heads, -1)):
            if moved.ndim == 4:
                yield (0, 0, heads, -1), order, columns
            elif heads == 1:
                yield (), order, columns
            else:
                yield (0, -1, cut.shape[-1]), order, columns


def _sizes(value: gs.Tensor) -> tuple[int, ...]:
    """The sizes of a value as frames had them; -1 for one that is not known."""
    shape = value.shape
    if shape is None:
        raise _Refusal("the sizes of its projections are not known")
    sizes = [size_of(size, _BATCH) for size in shape]
    if sizes and sizes[0] is None:
        sizes[0] = _BATCH
    return tuple(-1 if size is None else size for size in sizes)


def _moved(node: gs.Node, output: int, x: Int64) -> tuple[Int64, float]:
    """What a node makes of the numbers, which it may only move; and what it multiplies them by."""
    constants = [t.values for t in node.inputs if isinstance(t, gs.Constant)]
    result = node.outputs[output]
    try:
        if not is_standard(node):
            raise _Refusal(f"{node.domain}.{node.op} stands between its projections and heads")
        if node.op == "Identity":
            return x, 1.0
        if node.op == "Transpose":
            return np.transpose(x, node.attrs.get("perm")), 1.0
        if node.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            sizes = list(_sizes(result))
            if sizes.count(-1) == 0 and sizes[0] * int(np.prod(sizes[1:])) != x.size:
                sizes[0] = -1  # frames that are one axis with something else
            return x.reshape(sizes), 1.0
        if node.op == "Split":
            axis = int(node.attrs.get("axis", 0))
            sizes = [_sizes(made)[axis] for made in node.outputs]
            start = sum(sizes[:output])
            return x.take(range(start, start + sizes[output]), axis), 1.0
        if node.op == "Gather" and len(constants) == 1:
            return np.take(x, constants[0], axis=int(node.attrs.get("axis", 0))), 1.0
        if node.op == "Slice" and len(constants) == len(node.inputs) - 1:
            return x[_sliced(x.ndim, [c.reshape(-1).tolist() for c in constants])], 1.0
        if node.op in ("Mul", "Div") and len(constants) == 1 and constants[0].size == 1:
            number = float(constants[0].reshape(-1)[0])
            if node.op == "Mul":
                return x, number
            if number and isinstance(node.inputs[1], gs.Constant):
                return x, 1.0 / number
    except (ValueError, IndexError) as error:
        raise _Refusal(f"its heads cannot be followed through {node.op}") from error
    raise _Refusal(f"{node.op} stands between its projections and heads")


def _sliced(rank: int, numbers: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """The index of a Slice with starts, ends and, where they are given, axes and steps."""
    starts, ends = numbers[:2]
    axes = numbers[2] if len(numbers) > 2 else range(len(starts))
    steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
    if min(steps, default=1) < 1:
        raise _Refusal("its heads are read backwards")
    index = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return tuple(index)


def with_channels(program: Program, operator: LinearOperator, affine: Affine) -> LinearOperator:
    """The operator with weights of its own for other channels, in place in its node."""
    width = affine.bias.shape[1]
    resized = operator.resized(program, fan_out=width)
    resized.write(program, affine)
    for tensor in made_by(resized):
        if tensor.shape is not None:
            tensor.shape = (*tensor.shape[:-1], width)
    return resized
