"""In how many bits the weights of a written ONNX file stand, and who computes with integers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto

from repsimc.runtime.ort import session_options

_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Inputs that hold scales and zero points; with the first of them come the integers.
_DEQUANTISING: Mapping[str, tuple[int, ...]] = {
    "DequantizeLinear": (0,),
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3),
    "MatMulInteger": (0, 1),
    "ConvInteger": (0, 1),
    "MatMulNBits": (0, 1),
}
_QUANTISING = ("QuantizeLinear", "DynamicQuantizeLinear")
# ONNX Runtime's kernels that multiply integers, beside those whose names begin with QLinear.
_INTEGER_KERNELS = frozenset(
    {
        "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvInteger",
        "DynamicQuantizeLSTM", "QAttention",
    }
)  # fmt: skip
_FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
)
_INTEGER_LINEAR = _INTEGER_KERNELS | {"QLinearConv", "QLinearMatMul"}


@dataclass(frozen=True)
class Stored:
    """The weights of a file: how many stand in so many bits, and the bytes of all tensors.

    Scales and zero points are no weights, but count among the bytes.
    """

    weights: Mapping[int, int]
    nbytes: int

    def share(self, most: int = 8) -> float:
        """The share of the weights that stand in at most so many bits."""
        whole = sum(self.weights.values())
        return sum(n for bits, n in self.weights.items() if bits <= most) / max(whole, 1)

    def in_words(self) -> str:
        """'8 bits 91.2 %, 32 bits 8.8 %'."""
        whole = max(sum(self.weights.values()), 1)
        return ", ".join(
            f"{b} bits {100 * n / whole:.1f} %" for b, n in sorted(self.weights.items())
        )


def stored(path: Path) -> Stored:
    """What the tensors of an ONNX file hold; weights are floats, and integers made floats."""
    graph = onnx.load(path).graph
    integers, scales = _roles(graph)
    packed = _packed(graph)
    weights: Counter[int] = Counter()
    nbytes = 0
    for name, tensor in _tensors(graph):
        count, bits = math.prod(tensor.dims), _BITS.get(tensor.data_type, 8)
        nbytes += (count * bits + 7) // 8
        if name in packed:
            count, bits = count * bits // packed[name], packed[name]
        if name in integers or (tensor.data_type in _FLOATS and name not in scales):
            weights[bits] += count
    return Stored(dict(weights), nbytes)


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant with its name, those inside of other nodes too."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.type == onnx.AttributeProto.TENSOR:
                yield node.output[0], attribute.t
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _roles(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """(integers that stand for weights, scales and zero points), by name."""
    integers: set[str] = set()
    scales: set[str] = set()
    for node in graph.node:
        values = _DEQUANTISING.get(node.op_type)
        if values is not None:
            integers |= {node.input[i] for i in values if i < len(node.input)}
        if values is not None or node.op_type in _QUANTISING:
            taken = values or (0,)
            scales |= {name for i, name in enumerate(node.input) if i not in taken}
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                one, other = _roles(inner)
                integers, scales = integers | one, scales | other
    return integers, scales


def _packed(graph: onnx.GraphProto) -> dict[str, int]:
    """Bits of the integers that MatMulNBits reads, several of which stand in one byte."""
    return {
        node.input[1]: next((one.i for one in node.attribute if one.name == "bits"), 4)
        for node in graph.node
        if node.op_type == "MatMulNBits"
    }


@dataclass(frozen=True)
class Kernels:
    """Kernels that ONNX Runtime takes for a graph on a CPU, by name."""

    counts: Mapping[str, int]

    @property
    def integer(self) -> int:
        """How many compute with integers."""
        return sum(
            n for op, n in self.counts.items() if op in _INTEGER_KERNELS or op.startswith("QLinear")
        )

    def in_words(self) -> str:
        """'52 of 54 convolutions and products; 61 QLinearConv, ...'."""
        whole = sum(n for op, n in self.counts.items() if op in _INTEGER_LINEAR | _FLOAT_KERNELS)
        linear = sum(n for op, n in self.counts.items() if op in _INTEGER_LINEAR)
        named = [
            f"{n} {op}"
            for op, n in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
            if op in _INTEGER_KERNELS or op.startswith("QLinear")
        ]
        return "; ".join([f"{linear} of {whole} convolutions and products", *named[:4]])


def kernels(path: Path, scratch: Path) -> Kernels:
    """The kernels of an ONNX file, read off the graph that ONNX Runtime makes of it.

    `scratch` is a folder for that graph. Raises what ONNX Runtime raises where it refuses the file.
    """
    target = scratch / f"{path.stem}.optimised.onnx"
    options = session_options(1)
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(target, load_external_data=False).graph
    target.unlink()
    return Kernels(Counter(_operators(graph)))


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _operators(inner)
