"""What a program costs to hold and to run: weights, live activations, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.dequantising import makes_weight
from ..graph.export import held_nbytes
from ..graph.free_size import sizes_of
from ..graph.program import Program, is_standard, node_inputs
from ..graph.stored_weight import StoredWeight

# What ONNX Runtime takes besides weights and activations, for a session and for each of its
# nodes. Measured (1.31, x86, USS of fresh processes with 1, 4 and 7 sessions; MiB per session):
# resnet20 (55 nodes) 0.55, resnet44 (115) 1.07, a six-block transformer (190) 1.06, a ResNet-50
# size (123) 0.57. With these, the predicted saving of three 100 MB siblings merged was 0.998 to
# 1.08 of the measured one (convolutions frozen to a half or three quarters; Gemm; MatMul).
SESSION_NBYTES = 128 * 2**10
NODE_NBYTES = 7 * 2**10

# Where ONNX Runtime may write the output over an input that nothing else reads any more
# (kernels registered with MayInplace or Alias in its CPU provider).
_IN_PLACE_NAMES = (
    "Abs Acos Add And Asin Atan BatchNormalization BitShift Cast Ceil Celu Clip Cos Div Dropout "
    "Elu Erf Exp Expand Flatten Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log "
    "LogSoftmax Max Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Reshape Round Selu "
    "Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu "
    "Unsqueeze Where Xor"
)
_IN_PLACE = frozenset(_IN_PLACE_NAMES.split())


@dataclass(frozen=True)
class Cost:
    """What it takes to hold and run some nodes for one frame.

    `weights_nbytes` counts equal weights once. `activations_peak_nbytes` is the most that live
    values need at any one time, a weight that is stored in few bits among them, in float32, while
    a node that reads it runs. `unknown` lists values of which not all sizes are known, as the
    model fixes them or as they were on frames (see `FreeSize`): they count as nothing in the
    peak, and as nothing in `macs` where an operator's size depends on them.
    """

    weights_nbytes: int
    macs: int
    activations_peak_nbytes: int
    nodes: int
    unknown: tuple[str, ...] = ()

    @property
    def predicted_nbytes(self) -> int:
        """Memory of one ONNX Runtime session with these nodes, in bytes."""
        engine = SESSION_NBYTES + self.nodes * NODE_NBYTES
        return self.weights_nbytes + self.activations_peak_nbytes + engine


def model_cost(program: Program, model: str, batch: int = 1) -> Cost:
    """The cost of what one model's outputs need, shared nodes and weights counted in full."""
    return _cost(program, [model], batch)


def program_cost(program: Program, batch: int = 1) -> Cost:
    """The cost of all models in one session, shared nodes and weights counted once."""
    return _cost(program, list(program.models), batch)


def weights_and_macs(program: Program) -> tuple[int, int]:
    """Of `program_cost` the weight bytes and multiply-accumulates, which are soon counted."""
    nodes = program.needed_nodes(program.graph.outputs)
    return held_nbytes(nodes), sum(node_macs(node) for node in nodes)


def predicted_memory(merged: Program, apart: Iterable[Program], batch: int = 1) -> dict[str, int]:
    """The `memory` part of a manifest: predicted bytes of one session with the merged graph and
    of one session per original program, and what both consist of."""
    one = program_cost(merged, batch)
    each = [program_cost(program, batch) for program in apart]
    return {
        "merged_nbytes": one.predicted_nbytes,
        "merged_weights_nbytes": one.weights_nbytes,
        "merged_activations_peak_nbytes": one.activations_peak_nbytes,
        "apart_nbytes": sum(cost.predicted_nbytes for cost in each),
        "apart_weights_nbytes": sum(cost.weights_nbytes for cost in each),
        "apart_activations_peak_nbytes": sum(cost.activations_peak_nbytes for cost in each),
    }


def node_macs(node: gs.Node, batch: int = 1) -> int:
    """Multiply-accumulates of one Conv, ConvTranspose, Gemm, MatMul or Einsum; other nodes: 0.

    Sizes that the model leaves free are those of the frames, of `batch` of them. 0 too where a
    needed size is unknown. Of an If the dearer branch counts, of a Loop or Scan one turn. Integer
    and QLinear forms count as their float forms do; recurrent operators and local functions count
    nothing.
    """
    bodies = [sum(node_macs(inner, batch) for inner in body.nodes) for body in node.subgraphs()]
    if bodies:
        return max(bodies) if node.op == "If" else sum(bodies)
    if not is_standard(node) or not node.outputs:
        return 0
    # (operator, index of the first and second operand)
    first, second = {
        "QLinearConv": (0, 3),
        "QLinearMatMul": (0, 3),
    }.get(node.op, (0, 1))
    if len(node.inputs) <= second and node.op != "Einsum":
        return 0
    out = _shape(node.outputs[0], batch)
    if node.op == "Einsum":
        return _einsum_macs(node, batch)
    left, right = _shape(node.inputs[first], batch), _shape(node.inputs[second], batch)
    if left is None or right is None:
        return 0
    if node.op == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if out is None:
        return 0
    if node.op in ("Conv", "ConvInteger", "QLinearConv"):
        return math.prod(out) * math.prod(right[1:])
    if node.op == "Gemm":
        return math.prod(out) * left[0 if node.attrs.get("transA", 0) else -1]
    if node.op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return math.prod(out) * left[-1] if left else 0
    return 0


def _einsum_macs(node: gs.Node, batch: int) -> int:
    """Every index of the equation once; exact for two operands. '...' is left uncounted."""
    equation = node.attrs.get("equation", "")
    sizes: dict[str, int] = {}
    for term, tensor in zip(str(equation).replace(" ", "").split("->")[0].split(","), node.inputs):
        shape = _shape(tensor, batch)
        if shape is None:
            return 0
        head, _, tail = term.partition("...")
        sizes.update(zip(head, shape))
        sizes.update(zip(reversed(tail), reversed(shape)))
    return math.prod(sizes.values())


def _cost(program: Program, models: Sequence[str], batch: int) -> Cost:
    names = {value for model in models for value in program.models[model].outputs.values()}
    outputs = [value for value in program.graph.outputs if value.name in names]
    nodes = program.needed_nodes(outputs)
    peak, unknown = _activations_peak(nodes, names, batch)
    return Cost(
        weights_nbytes=held_nbytes(nodes),
        macs=sum(node_macs(node, batch) for node in nodes),
        activations_peak_nbytes=peak,
        nodes=len(nodes),
        unknown=unknown,
    )


def _activations_peak(
    nodes: Sequence[gs.Node], outputs: set[str], batch: int
) -> tuple[int, tuple[str, ...]]:
    """Peak bytes of live values when the nodes run in order; and values of unknown size.

    A value lives from the node that makes it to its last reader, a model's output to the end.
    Graph inputs belong to the caller and count nothing. A node that may work in place takes
    over the buffer of an input of equal size that dies there, as ONNX Runtime does. What makes a
    weight of its codes runs just before whatever reads it, wherever it stands.
    """
    makers = [n for n in nodes if makes_weight(n) and n.outputs[0].name not in outputs]
    made_weights = {node.outputs[0].name for node in makers}
    nodes = [node for node in nodes if node.outputs[0].name not in made_weights]
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for tensor in node_inputs(node):
            last[tensor.name] = index
    live: dict[str, int] = {}  # bytes by value
    held = peak = 0
    unknown: list[str] = []
    for index, node in enumerate(nodes):
        dying = {t.name for t in node_inputs(node) if last[t.name] == index and t.name in live}
        dying -= outputs
        made = [value for value in node.outputs if not value.is_empty()]
        for value in made:
            nbytes = _nbytes(value, batch)
            if nbytes is None:
                unknown.append(value.name)
                nbytes = 0
            reused = next((n for n in sorted(dying) if live[n] == nbytes and nbytes), None)
            if reused is not None and node.op in _IN_PLACE and is_standard(node):
                dying.discard(reused)
                del live[reused]
                held -= nbytes
            live[value.name] = nbytes
            held += nbytes
        read = {tensor.name: tensor for tensor in node_inputs(node)}
        restored = [
            _nbytes(tensor, batch) or 0
            for name, tensor in read.items()
            if name in made_weights or isinstance(tensor, StoredWeight)
        ]
        peak = max(peak, held + sum(restored))
        dying |= {v.name for v in made if v.name not in last and v.name not in outputs}
        for name in dying:
            held -= live.pop(name)
    return peak, tuple(unknown)


def _shape(tensor: gs.Tensor, batch: int) -> tuple[int, ...] | None:
    return None if tensor.is_empty() else sizes_of(tensor.shape, batch)


def _nbytes(tensor: gs.Tensor, batch: int) -> int | None:
    shape = _shape(tensor, batch)
    if shape is None or tensor.dtype is None:
        return None
    try:
        itemsize = np.dtype(tensor.dtype).itemsize
    except TypeError:  # an ONNX type that NumPy has no word for: at most a byte per element
        itemsize = 1
    return math.prod(shape) * itemsize


def cost_of_only(program: Program, value: str, keep: Iterable[str] = ()) -> tuple[int, int]:
    """Weight bytes and multiply-accumulates per frame of what only `value` needs.

    What `keep` needs stays, too.
    """
    outputs = list(program.graph.outputs)
    before = program.needed_nodes(outputs)
    # What is still needed when nobody reads the value: the walk stops there.
    after = program.needed_nodes(outputs, stop=[value])
    kept = list(keep)
    if kept:
        known = program.values()
        more = program.needed_nodes([known[name] for name in kept])
        inside = {id(node) for node in (*after, *more)}
        after = [node for node in before if id(node) in inside]
    macs = sum(map(node_macs, before)) - sum(map(node_macs, after))
    return held_nbytes(before) - held_nbytes(after), macs
