"""What makes a model usable: valid ONNX, known operators, finite weights, ONNX Runtime loads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import checker, defs, helper

from ..errors import ModelError
from ..graph.export import any_rank_allowed, every_node, to_proto
from ..graph.program import Program, own_name
from ..graph.weights import array_of, chunks, nbytes_of
from .opset import DEPRECATED
from .overridable import LINEAR, TRAINED
from .prepare import LIGHT_ELEMENTS, all_nodes

# Domains whose operators ONNX Runtime brings along.
KNOWN_DOMAINS = {"", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc"}
_WHOLE_NBYTES = 2**30  # above, a model is not tried with its weights: protobuf stops at 2 GB


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError unless a light model is valid ONNX and its operators are known."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    newest = defs.onnx_opset_version()
    if versions.get("", 1) > newest:
        raise ModelError(
            f"{where} is written in opset {versions['']}; this version of ONNX knows opsets up "
            f"to {newest}",
            f"export it with opset {newest} or older, or install a newer onnx",
        )
    if not proto.graph.output:
        raise ModelError(f"{where} has no outputs", "export the model again")
    for node in all_nodes(proto.graph.node):
        if node.domain:
            continue
        if "" not in versions:
            raise ModelError(
                f"{where} does not say which opset it is written in", "export the model again"
            )
        if not defs.has(node.op_type, versions[""], ""):
            raise ModelError(
                f"node '{node.name}' of {where}: ONNX has no operator '{node.op_type}' in "
                f"opset {versions['']}",
                "operators of your own need a domain of their own",
            )
    try:
        proto = _without_deprecated(proto)
        with any_rank_allowed(proto):
            checker.check_model(proto)  # pyright: ignore[reportUnknownMemberType]
    except (checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"{where} is not a valid ONNX model: {_short(error)}", "export the model again"
        ) from error


def _without_deprecated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with deprecated operators that ONNX Runtime runs in a domain nobody checks."""
    graphs = [proto.graph, *proto.functions]
    if not any(n.op_type in DEPRECATED for graph in graphs for n in all_nodes(graph.node)):
        return proto
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    for graph, entries in (
        (checked.graph, checked.opset_import),
        *((function, function.opset_import) for function in checked.functions),
    ):
        version = next((entry.version for entry in entries if not entry.domain), 0)
        for node in all_nodes(graph.node):
            first, last = DEPRECATED.get(node.op_type, (1, 0))
            if not node.domain and first <= version <= last:
                node.domain = "deprecated"
        entries.append(helper.make_opsetid("deprecated", 1))
    return checked


def check_weights(program: Program, where: str) -> None:
    """Raises ModelError if a trained weight holds NaN, or that of a linear map infinity.

    Elsewhere infinity is usual (attention masks, initial values of Max), and NaN can mean
    something (missing values, padding): it becomes a remark. Weights are read piece by piece.
    """
    linear: set[int] = set()
    trained: set[int] = set()
    constants: dict[int, Any] = {}
    for node in every_node(program.graph.nodes):
        for index, tensor in enumerate(node.inputs):
            if hasattr(tensor, "_values"):
                constants[id(tensor)] = tensor
                if not node.domain and index in LINEAR.get(node.op, ()):
                    linear.add(id(tensor))
                if not node.domain and index in TRAINED.get(node.op, ()):
                    trained.add(id(tensor))
    for key, constant in constants.items():
        array = array_of(constant)
        if not _is_float(array):
            continue
        for piece in chunks(array):
            if bool(np.isfinite(piece).all()):
                continue
            nan = bool(np.isnan(piece).any())
            if nan and key not in trained:
                (model,) = program.models.values()
                model.remarks += (f"constant '{constant.name}' holds NaN, which is kept",)
                break
            if nan or key in linear:
                raise ModelError(
                    f"weight '{own_name(constant.name)}' of {where} holds "
                    + ("NaN" if nan else "infinity"),
                    "the model is broken; export it again from a good checkpoint",
                )


def check_runs(program: Program, where: str) -> None:
    """Raises ModelError if ONNX Runtime refuses the program.

    Models with operators of their own are not tried: their kernels are not here. The program is
    tried without its weights first, and with them only if that fails, since a few kernels want
    constants.
    """
    functions = {function.domain for function in program.graph.functions}
    domains = {node.domain or "" for node in every_node(program.graph.nodes)}
    if not domains - functions <= KNOWN_DOMAINS:
        return
    message = _refusal(to_proto(program, light_elements=LIGHT_ELEMENTS))
    if message is not None:
        nbytes = sum(map(nbytes_of, program.weights().values()))
        message = _refusal(to_proto(program)) if nbytes < _WHOLE_NBYTES else message
    if message is not None:
        raise ModelError(
            f"ONNX Runtime cannot run {where}: {message}",
            "a model that ONNX Runtime loads can be compiled; operators of your own, in a domain "
            "of their own, are left as they are",
        )


def _refusal(proto: onnx.ModelProto) -> str | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = proto.SerializeToString()
    try:
        ort.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime raises classes of its own, derived from Exception
        return _short(error)
    return None


def _short(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith("==>")]
    return " ".join(kept[:2]) or type(error).__name__


def _is_float(array: Any) -> bool:
    # ml_dtypes (bfloat16, float8) are no sub-types of np.floating.
    name = str(array.dtype)
    return name.startswith(("float", "bfloat", "complex")) and not name.startswith("float4")
