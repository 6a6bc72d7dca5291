"""ONNX Runtime's own static quantiser, as its documentation has it used: what ours is beside.

Pre-processed, calibrated by extremes on the same frames, QDQ, int8 weights per channel, uint8
activations: what its kernels on a CPU take. Where it refuses a model, or writes one that does not
open, the reason is the result.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from plain_passes import batch_of
from plain_rounding import OPSET, opset_of, plainly_rounded, with_opset

Array = NDArray[Any]


@dataclass(frozen=True)
class Quantised:
    """A file that was made of another, or why there is none; `remark` says what was in the way."""

    path: Path | None
    remark: str = ""


class Frames:
    """Batches of frames (N first) by input: what the quantiser reads its ranges from."""

    def __init__(self, batches: Iterator[dict[str, Array]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Array] | None:
        """The next batch; None after the last one."""
        return next(self._batches, None)


def inputs_of(path: Path) -> list[onnx.ValueInfoProto]:
    """What a run of the file has to be fed."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def first_size(value: onnx.ValueInfoProto) -> int:
    """The size of the first axis; 0 or less where it is free or missing."""
    shape = value.type.tensor_type.shape.dim
    return shape[0].dim_value if shape else 0


def batches(path: Path, arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The frames in batches that the model takes; a scalar among them goes with each.

    One set of frames goes by any name.
    """
    inputs = inputs_of(path)
    only = next(iter(arrays.values()))
    feeds = {one.name: arrays.get(one.name, only) for one in inputs}
    size = first_size(inputs[0])
    batch = batch_of(size, {name: x for name, x in feeds.items() if x.ndim})
    count = max(len(x) for x in feeds.values() if x.ndim)
    # A model of a fixed batch takes no smaller one at the end.
    for start in range(0, count if batch != size else count - batch + 1, batch):
        yield {name: x[start : start + batch] if x.ndim else x for name, x in feeds.items()}


def prepared(path: Path, target: Path) -> str:
    """Write the file as the quantiser's own pre-processing leaves it, and say what went wrong.

    Without symbolic shapes where those cannot be told, or their library (sympy) is not there; as it
    is where nothing else goes.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    remarks: list[str] = []
    for skip in (False, True):
        try:
            with quietly():
                quant_pre_process(str(path), str(target), skip_symbolic_shape=skip)
            return "; ".join(remarks)
        except ImportError:
            remarks.append("no symbolic shapes without sympy")
        except Exception as error:  # a dozen unrelated classes
            remarks.append(f"{'pre-processing' if skip else 'symbolic shapes'}: {short(error)}")
    onnx.save(onnx.load(path), target)
    return "; ".join(remarks)


def statically_quantised(
    path: Path, arrays: Mapping[str, Array], scratch: Path, raised: bool = False
) -> Quantised:
    """The file in int8, weights and activations, written into the folder `scratch`.

    `raised`: of a copy whose operators have a scale per channel, which older ones lack.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    said = ""
    if raised:
        try:
            path, said = with_raised_opset(path, scratch)
        except Exception as error:  # a dozen unrelated classes
            return Quantised(None, f"refused: {short(error)}")
    ready, target = (scratch / f"{path.stem}.{kind}.onnx" for kind in ("prepared", "static"))
    remark = prepared(path, ready)
    try:
        with quietly():
            quantize_static(
                str(ready),
                str(target),
                Frames(batches(ready, arrays)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # With int8 ONNX Runtime leaves every second convolution of a ResNet in float: on
                # resnet20 1.25 of the float latency, with uint8 0.51.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # a dozen unrelated classes
        return Quantised(None, f"refused: {short(error)}")
    finally:
        ready.unlink(missing_ok=True)
    return opening(target, "; ".join(one for one in (said, remark) if one))


def plainly_quantised(path: Path, scratch: Path) -> Quantised:
    """The pre-processed file with its weights in 8 bits, rounded to the nearest."""
    ready, target = (scratch / f"{path.stem}.{kind}.onnx" for kind in ("prepared", "rounded"))
    remark = ""
    try:
        raised, said = with_raised_opset(path, scratch)
        remark = prepared(raised, ready)
        onnx.save(plainly_rounded(onnx.load(ready)), target)
    except Exception as error:  # a dozen unrelated classes
        return Quantised(None, f"refused: {short(error)}")
    finally:
        ready.unlink(missing_ok=True)
    return opening(target, "; ".join(one for one in (said, remark) if one))


def with_raised_opset(path: Path, scratch: Path) -> tuple[Path, str]:
    """The file, or a copy of it in operators with a scale per channel, and what was done."""
    model = onnx.load(path)
    before = opset_of(model)
    if before >= OPSET:
        return path, ""
    target = scratch / f"{path.stem}.opset{OPSET}.onnx"
    onnx.save(with_opset(model), target)
    return target, f"opset {before} raised to {OPSET}"


def opening(path: Path, remark: str) -> Quantised:
    """The file, if ONNX Runtime opens it, else what it says."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a dozen unrelated classes
        path.unlink()
        return Quantised(None, f"invalid graph: {short(error)}")
    return Quantised(path, remark)


def short(error: Exception, most: int = 160) -> str:
    """An error in one line."""
    # Where the file lay tells nothing.
    text = re.sub(r"Load model from \S+ failed: ?", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[: most - 1]}{'…' if len(text) >= most else ''}"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what the quantiser logs, prints and warns of."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
