"""The dangerous steps, one function each, carried out by the child process.

ONNX's own code and ONNX Runtime evaluate what a file asks for: a constant of 111 bytes takes 9 GB,
a skip count folds for hours, a size of infinity aborts the process. All raise `Refused` with what
the library says, and ModelError, naming the model, where it needs more than the allowance or ends
its process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph.arrays import Array
from .allowance import ModelAllowance
from .messages import Message
from .process import Refused, ask

# A model as its serialized bytes, or as the file that holds it.
Content = bytes | Path


def infer_shapes(proto: onnx.ModelProto, allowance: ModelAllowance) -> onnx.ModelProto:
    """The model with the types and shapes that ONNX's inference finds, data propagated."""
    request = Message({"do": "infer-shapes"}, [proto.SerializeToString()])
    found = onnx.ModelProto()
    found.ParseFromString(ask(request, allowance, "inferring the shapes of").pieces[0])
    return found


def check_model(proto: onnx.ModelProto, allowance: ModelAllowance) -> None:
    """Returns if ONNX's checker finds nothing wrong."""
    ask(Message({"do": "check-model"}, [proto.SerializeToString()]), allowance, "checking")


def convert_version(
    proto: onnx.ModelProto, opset: int, allowance: ModelAllowance
) -> onnx.ModelProto:
    """The model in another opset of the ONNX domain."""
    request = Message({"do": "convert-version", "opset": opset}, [proto.SerializeToString()])
    found = onnx.ModelProto()
    found.ParseFromString(ask(request, allowance, "converting").pieces[0])
    return found


def open_session(content: Content, allowance: ModelAllowance, optimised: bool = True) -> None:
    """Returns if ONNX Runtime opens the model; optimised, it folds constants as it does so."""
    head, pieces = _model(content)
    ask(
        Message({"do": "open-session", **head, "optimised": optimised}, pieces),
        allowance,
        "opening",
    )


def run_session(
    content: Content,
    feeds: Mapping[str, Array],
    outputs: Sequence[str] | None,
    allowance: ModelAllowance,
    optimised: bool = True,
) -> list[Array]:
    """The outputs that ONNX Runtime computes from the feeds; none of them for `outputs` None.

    The model runs whole either way. The arrays are read-only.
    """
    head, pieces = _model(content)
    head |= {"outputs": None if outputs is None else list(outputs), "optimised": optimised}
    fed = [numpy_helper.from_array(np.asarray(array), name) for name, array in feeds.items()]
    pieces += [tensor.SerializeToString() for tensor in fed]
    reply = ask(Message({"do": "run-session", **head}, pieces), allowance, "running")
    return [_array(piece) for piece in reply.pieces]


def _model(content: Content) -> tuple[dict[str, object], list[bytes]]:
    if isinstance(content, bytes):
        return {"path": ""}, [content]
    return {"path": str(content.resolve())}, []


def _array(content: bytes) -> Array:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(content)
    array = numpy_helper.to_array(tensor)
    array.setflags(write=False)
    return array


__all__ = [
    "Refused",
    "check_model",
    "convert_version",
    "infer_shapes",
    "open_session",
    "run_session",
]
