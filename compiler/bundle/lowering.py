"""Programs in the form that TensorRT takes: half precision by casts, integers that fit 32 bits.

TensorRT from 10.12 on, and alone from 11, takes precision from the graph: every value has the
type that it will have. Versions before take it from flags at build time and read the plain graph.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..graph.dequantising import stored_weights
from ..graph.program import Program, is_standard, node_inputs
from ..graph.stored_weight import StoredWeight
from ..graph.weights import array_of

CAST_KEY = "repsimc.precision"  # node metadata: what the lowering put in
HALF_MAX = 65504.0

# Worth computing in half precision: the multiply-accumulates, summed in float32 by the kernels.
_SEEDS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
# Follow their inputs: they move or clip values, or add few of them. What is not listed (softmax,
# normalisations, reductions, exponentials, resizing by scales, ...) stays in float32, where it
# overflows or loses digits otherwise. The split is that of NVIDIA's AutoCast and of
# onnxconverter-common's block list, taken from the safe side.
_FOLLOWER_NAMES = (
    "Abs Add AveragePool Clip Concat DepthToSpace Dropout Elu Expand Flatten Gather Gelu "
    "GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Max MaxPool Min Mul Neg PRelu Pad "
    "Relu Reshape Sigmoid Slice SpaceToDepth Split Squeeze Sub Tanh Tile Transpose Unsqueeze Where"
)
_FOLLOWERS = frozenset(_FOLLOWER_NAMES.split())
_QUANTISED = frozenset(("QuantizeLinear", "DequantizeLinear"))


def is_quantised(program: Program) -> bool:
    """True if the program has QDQ nodes, or will have: its precision is decided, and kept."""
    nodes = program.graph.nodes
    return any(node.op in _QUANTISED for node in nodes) or bool(stored_weights(nodes))


def narrow_integers(program: Program) -> int:
    """How many constants were narrowed so that TensorRT 8, which has no INT64, reads them right.

    Exporters write 'to the end' as the largest or smallest 64-bit integer in the starts and ends
    of a Slice. No axis has 2^31 elements, so the 32-bit limits mean the same, in every runtime.
    """
    limits = np.iinfo(np.int32)
    narrowed = 0
    for node in program.graph.nodes:
        if node.op != "Slice" or not is_standard(node):
            continue
        for index in (1, 2):
            tensor = node.inputs[index]
            if not isinstance(tensor, gs.Constant):
                continue
            array = array_of(tensor)
            clipped = np.clip(array, limits.min, limits.max)
            if array.dtype == np.int64 and not np.array_equal(array, clipped):
                name = program.unique_name(f"{tensor.name}.narrow")
                node.inputs[index] = gs.Constant(name, clipped)
                narrowed += 1
    return narrowed


def to_half(program: Program) -> Program:
    """A copy of the program that computes in float16 where that is safe.

    Model inputs and outputs stay float32, as do QDQ parts, bodies of control flow, operators of
    other domains, and nodes whose weights leave float16's range. Casts stand where the two
    meet; weights of half nodes are stored as float16, those stored in few bits as they are: their
    values are made in float32, by the same scales, and rounded once.
    """
    lowered = program.copy()
    chosen = _half_nodes(lowered)
    halves: dict[str, gs.Tensor] = {}  # value or constant -> its float16 form
    wholes: dict[str, gs.Tensor] = {}  # value made in float16 -> its float32 form
    outputs = {value.name: value for value in lowered.graph.outputs}
    made: list[gs.Node] = []
    for node in list(lowered.graph.nodes):
        half = id(node) in chosen
        for reader in (node, *(n for body in node.subgraphs(recursive=True) for n in body.nodes)):
            for index, tensor in enumerate(reader.inputs):
                if half and _castable(node, index, tensor):
                    if tensor.name not in halves:
                        halves[tensor.name] = _half_of(lowered, tensor, made)
                    reader.inputs[index] = halves[tensor.name]
                elif not half and tensor.name in wholes:
                    reader.inputs[index] = wholes[tensor.name]
        made.append(node)
        if not half:
            continue
        for index, value in enumerate(node.outputs):
            if value.is_empty() or not _is_float(value):
                continue
            # The name stays with the float32 form: it may be an output, or be known elsewhere.
            inner = gs.Variable(
                lowered.unique_name(f"{value.name}.half"), np.dtype(np.float16), value.shape
            )
            node.outputs[index] = inner
            halves[value.name] = inner
            readers = [r for r in value.outputs if id(r) not in chosen]
            if value.name in outputs or readers:
                _cast(lowered, inner, value, TensorProto.FLOAT, made)
                wholes[value.name] = value
    lowered.graph.nodes = made
    return lowered


def _half_nodes(program: Program) -> set[int]:
    chosen: set[int] = set()
    half_values: set[int] = set()
    for node in program.graph.nodes:
        if not is_standard(node) or node.op not in (_SEEDS | _FOLLOWERS):
            continue
        floats = [t for i, t in enumerate(node.inputs) if _castable(node, i, t)]
        if not floats or not all(_is_float(v) for v in node.outputs if not v.is_empty()):
            continue
        if node.op in _FOLLOWERS and not any(id(t) in half_values for t in floats):
            continue
        if any(_touches_quantised(t) for t in (*node_inputs(node), *node.outputs)):
            continue
        if not all(_fits_half(t) for t in floats if isinstance(t, gs.Constant)):
            continue
        chosen.add(id(node))
        half_values |= {id(value) for value in node.outputs}
    return chosen


def _castable(node: gs.Node, index: int, tensor: gs.Tensor) -> bool:
    """Whether this operand takes the node's precision: float32, and not a shape or a size."""
    if tensor.is_empty() or not _is_float(tensor):
        return False
    return not (node.op == "Dropout" and index > 0)


def _is_float(tensor: gs.Tensor) -> bool:
    dtype = array_of(tensor).dtype if isinstance(tensor, gs.Constant) else tensor.dtype
    return dtype is not None and not isinstance(dtype, int) and np.dtype(dtype) == np.float32


def _touches_quantised(tensor: gs.Tensor) -> bool:
    return any(node.op in _QUANTISED for node in (*tensor.inputs, *tensor.outputs))


def _fits_half(constant: gs.Constant) -> bool:
    array = array_of(constant)
    return not array.size or bool(np.all(np.abs(array) <= HALF_MAX))


def _half_of(program: Program, tensor: gs.Tensor, made: list[gs.Node]) -> gs.Tensor:
    name = program.unique_name(f"{tensor.name}.half")
    if isinstance(tensor, gs.Constant) and not isinstance(tensor, StoredWeight):
        return gs.Constant(name, array_of(tensor).astype(np.float16))
    half = gs.Variable(name, np.dtype(np.float16), tensor.shape)
    _cast(program, tensor, half, TensorProto.FLOAT16, made)
    return half


def _cast(
    program: Program, source: gs.Tensor, target: gs.Tensor, to: int, made: list[gs.Node]
) -> None:
    node = gs.Node("Cast", program.unique_name(f"{target.name}.cast"), {"to": to})
    node.inputs.append(source)
    node.outputs.append(target)
    program.metadata[node.name] = {CAST_KEY: "cast"}
    made.append(node)
