"""What makes a model usable: valid ONNX, known operators, finite weights, ONNX Runtime loads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper

from ..errors import ModelError
from ..graph.export import any_rank_allowed, every_node, to_proto
from ..graph.program import Program, constants_of, own_name
from ..graph.weights import array_of, chunks, nbytes_of
from ..isolation.allowance import ModelAllowance
from ..isolation.steps import Refused, check_model, open_session
from .opset import DEPRECATED
from .overridable import LINEAR, TRAINED
from .prepare import LIGHT_ELEMENTS, all_nodes

# Domains whose operators ONNX Runtime brings along.
KNOWN_DOMAINS = {"", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc"}
_WHOLE_NBYTES = 2**30  # above, a model is not tried with its weights: protobuf stops at 2 GB


def check_proto(proto: onnx.ModelProto, where: str, allowance: ModelAllowance) -> None:
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
            check_model(proto, allowance)
    except Refused as error:
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


def check_runs(program: Program, where: str, allowance: ModelAllowance) -> None:
    """Raises ModelError if ONNX Runtime refuses the program.

    Models with operators of their own are not tried: their kernels are not here. The program is
    tried without its weights first, and with them only if that fails, since a few kernels want
    constants.
    """
    if foreign_domains(program):
        return
    light = to_proto(program, light_elements=LIGHT_ELEMENTS)
    message = _refusal(light, allowance)
    if message is not None:
        nbytes = sum(map(nbytes_of, constants_of(every_node(program.graph.nodes))))
        if nbytes < _WHOLE_NBYTES:
            message = _refusal(to_proto(program), allowance)
    if message is not None:
        raise ModelError(
            f"ONNX Runtime cannot run {where}: {message}",
            "a model that ONNX Runtime loads can be compiled; operators of your own, in a domain "
            "of their own, are left as they are",
        )


def foreign_domains(program: Program) -> set[str]:
    """Domains of operators that ONNX Runtime does not bring along, and the program has no body of.

    What has them can be looked at, shared and written, but not run here.
    """
    functions = {function.domain for function in program.graph.functions}
    domains = {node.domain or "" for node in every_node(program.graph.nodes)}
    return domains - functions - KNOWN_DOMAINS


def check_opens(path: Path, nbytes: int, allowance: ModelAllowance) -> str | None:
    """What ONNX Runtime says against the file as given, opened as users open it; None if nothing.

    It then folds constants, which a small file can make as large and as slow as it likes. Files
    with more than 1 GiB of weights are not tried: protobuf stops at 2 GB.
    Raises ModelError if that needs more than the allowance.
    """
    try:
        # A name that is not UTF-8 is one that ONNX Runtime cannot open.
        content = path if os.fsdecode(path).isprintable() else path.read_bytes()
        if nbytes < _WHOLE_NBYTES:
            open_session(content, allowance)
    except Refused as error:
        return _short(error)
    return None


def _refusal(proto: onnx.ModelProto, allowance: ModelAllowance) -> str | None:
    try:
        open_session(proto.SerializeToString(), allowance, optimised=False)
    except Refused as error:
        return _short(error)
    return None


def _short(error: Refused) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith("==>")]
    return " ".join(kept[:2]) or error.kind


def _is_float(array: Any) -> bool:
    # ml_dtypes (bfloat16, float8) are no sub-types of np.floating.
    name = str(array.dtype)
    return name.startswith(("float", "bfloat", "complex")) and not name.startswith("float4")
