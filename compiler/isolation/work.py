"""The child process: does what it is asked on stdin, one request after another, until that ends.

Everything here may be killed at any moment, by the limits that the parent watches or by a library
that aborts: nothing is kept that anybody would miss. Only `process.py` starts it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from .messages import Message, receive, send


def main() -> None:
    """Serve requests until stdin is closed."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to stdout as they like
    _no_core_dumps()
    work = _works()  # imports while the parent still reads the model
    while (request := receive(sys.stdin.buffer)) is not None:
        _limit_seconds(float(request.head["seconds"]))
        try:
            send(replies, Message({"ok": True}, work(request.head["do"])(request)))
        except BrokenPipeError:
            break
        except BaseException as error:  # whatever a library raises is an answer
            send(replies, Message({"ok": False, "said": f"{error}", "kind": type(error).__name__}))
        del request
    os._exit(0)  # no library's clean-up may hold up or crash the end


def _works() -> Callable[[str], Callable[[Message], list[bytes]]]:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import checker, numpy_helper, shape_inference, version_converter

    from ...runtime import narrow_types
    from ...runtime.ort import keep_products_float

    def parsed(content: bytes) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.ParseFromString(content)
        return proto

    def infer_shapes(request: Message) -> list[bytes]:
        proto = shape_inference.infer_shapes(parsed(request.pieces[0]), data_prop=True)
        return [proto.SerializeToString()]

    def check_model(request: Message) -> list[bytes]:
        checker.check_model(request.pieces[0])  # pyright: ignore[reportUnknownMemberType]
        return []

    def convert_version(request: Message) -> list[bytes]:
        proto = parsed(request.pieces[0])
        converted = version_converter.convert_version(proto, request.head["opset"])
        return [converted.SerializeToString()]

    def session(request: Message) -> ort.InferenceSession:
        options = ort.SessionOptions()
        keep_products_float(options)
        if not request.head["optimised"]:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        model: str | bytes = request.head["path"] or request.pieces[0]
        return ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )

    def open_session(request: Message) -> list[bytes]:
        session(request)
        return []

    def run_session(request: Message) -> list[bytes]:
        opened = session(request)
        feeds: dict[str, Any] = {}
        for content in request.pieces[0 if request.head["path"] else 1 :]:
            tensor = onnx.TensorProto()
            tensor.ParseFromString(content)
            feeds[tensor.name] = numpy_helper.to_array(tensor)
        names = request.head["outputs"]
        every = [value.name for value in opened.get_outputs()]
        found = narrow_types.run_session(opened, every if names is None else names, feeds)
        if names is None:
            return []
        arrays = [np.asarray(narrow_types.readable(value)) for value in found]
        made = [numpy_helper.from_array(array, name) for name, array in zip(names, arrays)]
        return [tensor.SerializeToString() for tensor in made]

    known = {
        "infer-shapes": infer_shapes,
        "check-model": check_model,
        "convert-version": convert_version,
        "open-session": open_session,
        "run-session": run_session,
    }
    return known.__getitem__


def _no_core_dumps() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_seconds(seconds: float) -> None:
    """Ends this process some seconds after the parent would have: it may have gone."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time() + seconds) + 3
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
