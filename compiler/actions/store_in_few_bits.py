"""Store the weights of operators in 8 or 4 bits, rounded with error feedback."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..execution.statistics import Range, RangeMeasure, StatisticsObserver
from ..fitting.effort import SURVEY
from ..fitting.operators import OPERATORS, LinearOperator, linear_operator
from ..fitting.reference import Reference
from ..frontends.opset import raise_opset
from ..graph.program import Program, constants_of, constants_of_bodies, own_name
from ..graph.stored_weight import OPSET_OF_FOUR_BITS, RANGES, StoredWeight
from ..graph.weights import nbytes_of
from ..structure.integer_kernels import TENSORRT
from .action import Disturbed, Effect, OneModel, Reads, Stage, check_models
from .evidence import Evidence
from .site import Site, Sites, by_damage, owners_of

# Bits that are tried, by what `--precision` asks for.
_BITS: Mapping[str, tuple[int, ...]] = {"int8": (8,), "auto": (8, 4)}
# Weights of fewer numbers save less than their scales cost to keep track of.
_FEWEST = 64
# Bytes of a scale, one for each output channel.
_SCALE_NBYTES = 4
# Bytes of a bias, which is fitted where an operator takes one.
_BIAS_NBYTES = 4
# What reads scales of codes: they are floats, and no weights.
_OF_CODES = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"})
_FLOATS = frozenset(map(np.dtype, (np.float16, np.float32, np.float64)))


def _bits(reader: Reader) -> int:
    bits = reader.value
    if not isinstance(bits, int) or bits not in RANGES:
        raise ModelError(f"{reader.document}: bits must be 8 or 4")
    return bits


def _nodes(reader: Reader) -> tuple[str, ...]:
    found = reader.value
    if not isinstance(found, list) or not found:
        raise ModelError(f"{reader.document}: nodes is no list, or an empty one")
    nodes = reader.each(Reader.anything)
    if not all(isinstance(name, str) and name for name in nodes):
        raise ModelError(f"{reader.document}: nodes must be names")
    return tuple(nodes)


@dataclass(frozen=True)
class StoreInFewBitsAction(OneModel):
    """Weights of operators are whole numbers of so many bits, times a scale per output channel.

    They are computed with in float; biases stay as they are. GPTQ (arXiv 2210.17323) inside the
    refit: what is rounded first the others make up for.
    """

    kind: ClassVar[str] = "store-in-few-bits"
    stage: ClassVar[Stage] = Stage.PRECISION
    counted: ClassVar[tuple[str, str]] = ("weight in few bits", "weights in few bits")
    read: ClassVar[Reads] = {"nodes": _nodes, "bits": _bits}

    nodes: tuple[str, ...]
    bits: int

    @property
    def place(self) -> str:
        """The model and its operators."""
        return f"{self.model}: {_listed(self.nodes)}"

    @property
    def series(self) -> str:
        """Weights of one model in as many bits."""
        return f"{self.model}: weights in {self.bits} bits"

    def __str__(self) -> str:
        return f"{self.model} stores {_listed(self.nodes)} in {self.bits} bits"

    def check(self, program: Program) -> None:
        """Refuse nodes that are not there. Raises ModelError."""
        check_models(self.models, program)
        self.check_names("node", {node.name for node in program.graph.nodes}, self.nodes)

    def effect(self, program: Program) -> Effect | str:
        """The weights take less."""
        by_name, inside = program.nodes(), _inside_bodies(program)
        stored: dict[str, dict[int, float]] = {}
        values: set[str] = set()
        for name in self.nodes:
            operator = linear_operator(by_name[name]) if name in by_name else None
            if operator is None:
                return f"'{own_name(name)}' has no weight that could be rounded"
            readers = _readers(operator, inside)
            if isinstance(readers, str):
                return f"the weight of '{own_name(name)}' stays as it is: {readers}"
            share = _share(operator, self.bits)
            for reader in readers:
                stored[reader.node.name] = {1: share}
                values |= {reader.node.outputs[0].name, reader.result.name}
        return Effect(
            frozenset(values),
            stored=stored,
            owns=frozenset(f"bits of {name}" for name in stored),
        )

    def covers(self, other: object) -> bool:
        """Whether it stores all that the other does in as few bits."""
        if not isinstance(other, StoreInFewBitsAction) or self.model != other.model:
            return False
        return set(self.nodes) >= set(other.nodes) and self.bits <= other.bits

    def rewrites(self, reference: Reference) -> list[Pass]:
        """None: the walk of its stage rounds all of them."""
        return []

    def disturbed(self, program: Program) -> Disturbed:
        """The operators, and their bits."""
        return Disturbed(stored=tuple((name, self.bits) for name in self.nodes))


def request(evidence: Evidence, group: tuple[str, ...]) -> None:
    """Have it measured how much what operators read, and make, varies."""
    if evidence.precision in _BITS:
        evidence.request(group, StoreInFewBitsAction.kind, lambda: _ranges(evidence, group))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Weights that could take fewer bits, with the share of variance that rounding them costs.

    Operators that are too small to matter by themselves go together.
    """
    sites, bills = Sites(), evidence.bills
    widths = _widths(evidence)
    if not widths:
        return sites
    whole = bills.bill(())
    assert whole is not None
    seen = evidence.seen(group, StoreInFewBitsAction.kind, lambda: _ranges(evidence, group))
    small: dict[str, list[LinearOperator]] = {}
    noises = {
        operator.node.name: _noise(operator, seen.found.ranges)
        for _, operator in _operators(evidence, group)
    }

    def add(model: str, operators: Sequence[LinearOperator]) -> bool:
        names = tuple(operator.node.name for operator in operators)
        matters = False
        for bits in widths:
            action = StoreInFewBitsAction(model, names, bits)
            bill = bills.bill((action,))
            if bill is None or not (whole - bill).matters(whole):
                continue
            steps = 2.0 ** (bits - 1) - 1
            damage = max(noises[name] for name in names) / steps**2
            look = (StoreInFewBitsAction.kind, names)
            sites.found.append(Site(action, whole - bill, damage, nodes=names, look=look))
            matters = True
        return matters

    for model, operator in _operators(evidence, group):
        if not add(model, [operator]):
            small.setdefault(model, []).append(operator)
    for model, operators in small.items():
        add(model, operators)
    sites.found.sort(key=by_damage)
    return sites


def _widths(evidence: Evidence) -> tuple[int, ...]:
    """The bits that are tried: as asked for, without those that the program cannot say."""
    found = _BITS.get(evidence.precision, ())
    if evidence.target == TENSORRT:  # convolutions in 4 bits it has none of
        return tuple(bits for bits in found if bits == 8)
    if any(bits < 8 for bits in found):
        try:
            raise_opset(evidence.program.copy(), OPSET_OF_FOUR_BITS, "the program")
        except ModelError:
            return tuple(bits for bits in found if bits == 8)
    return found


def _operators(evidence: Evidence, group: tuple[str, ...]) -> Iterator[tuple[str, LinearOperator]]:
    """The operators of a group whose weights could take fewer bits, each with its model."""
    owners, inside = owners_of(evidence.program, group), _inside_bodies(evidence.program)
    for node in evidence.program.graph.nodes:
        model = owners.get(node.outputs[0].name) if node.outputs else None
        operator = linear_operator(node) if model is not None else None
        if model is None or operator is None:
            continue
        readers = _readers(operator, inside)
        # One weight has one site: that of the first that reads it.
        if isinstance(readers, str) or readers[0].node is not node:
            continue
        yield model, operator


def _readers(operator: LinearOperator, inside: Collection[str]) -> list[LinearOperator] | str:
    """All operators that read the weight, in order, or why it can't take fewer bits.

    `inside` are the weights that bodies read, by name: a copy of a program has others of that name.
    """
    weight = operator.weight
    if isinstance(weight, StoredWeight):
        return "in few bits already"
    if weight.dtype != np.float32:
        return _not_single(weight)
    if math.prod(weight.shape) < _FEWEST:
        return "hardly any weights"
    if operator.channel_axis is None:
        return "groups that share scales"
    if weight.name in inside:
        return "read inside a body"
    readers = [linear_operator(node) for node in weight.outputs]
    found = [one for one in readers if one is not None and one.weight is weight]
    if len(found) < len(readers) or {one.channel_axis for one in found} != {operator.channel_axis}:
        return "read by others, too"
    return found


def _inside_bodies(program: Program) -> set[str]:
    """The constants that bodies (If, Loop, Scan) read, by name."""
    return {constant.name for constant in constants_of_bodies(program.graph.nodes)}


def _not_single(weight: gs.Constant) -> str:
    return f"numbers of {np.dtype(weight.dtype).name}"


def why_in_float(
    node: gs.Node, inside: Collection[str] = ()
) -> Mapping[str, tuple[gs.Constant, str]]:
    """The large float constants that a node reads, by name, each with why it is not in few bits.

    The reason is '' where its numbers could be rounded, and begins no sentence. `inside` are the
    constants that bodies of the program read, by name.
    """
    found: dict[str, tuple[gs.Constant, str]] = {}
    operator = linear_operator(node)
    if operator is not None:
        readers = _readers(operator, inside)
        found[operator.weight.name] = operator.weight, readers if isinstance(readers, str) else ""
    elif node.op not in _OF_CODES:
        for weight in constants_of([node]):
            single = weight.dtype == np.float32 or node.op not in OPERATORS
            found[weight.name] = weight, f"read by {node.op}" if single else _not_single(weight)
    for weight in constants_of_bodies([node]):
        found.setdefault(weight.name, (weight, f"read inside {node.op}"))
    return {
        name: (weight, why)
        for name, (weight, why) in found.items()
        if np.dtype(weight.dtype) in _FLOATS
        and not isinstance(weight, StoredWeight)
        and (operator is not None or math.prod(weight.shape) >= _FEWEST)
    }


def _share(operator: LinearOperator, bits: int) -> float:
    """The bytes of the weight and its scales, as a share of those that it has.

    With a bias for each output where there is none: what rounding moves the mean by.
    """
    before, axis = nbytes_of(operator.weight), operator.channel_axis
    assert axis is not None
    stored = -(-math.prod(operator.weight.shape) * bits // 8)
    stored += _SCALE_NBYTES * int(operator.weight.shape[axis])
    if operator.bias is None and operator.fits_bias and len(operator.weight.outputs) == 1:
        stored += _BIAS_NBYTES * operator.fan_out
    return stored / before


def _ranges(evidence: Evidence, group: tuple[str, ...]) -> StatisticsObserver:
    """How much what the operators read, and make, varies by channel."""
    values = evidence.program.values()
    axes: dict[str, int] = {}
    for _, operator in _operators(evidence, group):
        for tensor in (operator.source, operator.result):
            shape = values[tensor.name].shape if tensor.name in values else None
            if shape is not None and len(shape) > 1:
                axes[tensor.name] = len(shape) - 1 if operator.channels_last else 1
    measures = [RangeMeasure(name, axis) for name, axis in axes.items()]
    return StatisticsObserver(measures, SURVEY.frames, settles=False)


def _noise(operator: LinearOperator, ranges: Mapping[str, Range]) -> float:
    """The share of the result's variance that rounding costs, times its steps squared.

    Errors of a number are spread evenly over a step, and independent: a twelfth of its square.
    """
    given, made = ranges.get(operator.source.name), ranges.get(operator.result.name)
    if given is None or made is None:
        return 1.0
    weight = operator.affine().weight  # [groups, fan_in, outputs of a group]
    scales = np.abs(weight).max(axis=1)
    # The channels of a group, each under every tap of the kernel.
    taps = operator.fan_in * operator.groups / max(len(given.variance), 1)
    inputs = given.variance.reshape(operator.groups, -1).sum(axis=1) * taps
    lost = float((scales**2 / 12 * inputs[:, None]).sum())
    total = float(made.variance.sum())
    return lost / total if total > 0 else 1.0


def _listed(nodes: Sequence[str]) -> str:
    if len(nodes) > 3:
        return f"{own_name(nodes[0])} and {len(nodes) - 1} others"
    return ", ".join(map(own_name, nodes))
