"""How compile time grows with the size of a graph: at n and at 2 n, in fresh processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from compiling import Models, compiled
from onnx import TensorProto, helper, numpy_helper
from records import Record, figure

# A step that is repeated: every kind of node that passes and analyses look at more than once.
_STEPS = ("Relu", "Mul", "Sigmoid", "Add", "Tanh")


def chain(nodes: int, inputs: int = 1, outputs: int = 1, seed: int = 0) -> onnx.ModelProto:
    """A chain of that many nodes: inputs are added along it, outputs are taken along it."""
    rng = np.random.default_rng(seed)
    names = [f"x{index}" for index in range(inputs)]
    made: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = names[0]
    for index in range(nodes):
        op = _STEPS[index % len(_STEPS)]
        operands = [value]
        if op in ("Mul", "Add"):
            weights.append(numpy_helper.from_array(rng.random(4, np.float32) + 0.5, f"w{index}"))
            operands.append(weights[-1].name)
        value = f"v{index}"
        made.append(helper.make_node(op, operands, [value], f"n{index}"))
    ends = [f"v{(index + 1) * nodes // outputs - 1}" for index in range(outputs - 1)] + [value]
    for index, name in enumerate(names[1:]):
        made.append(helper.make_node("Add", [value, name], [f"s{index}"], f"a{index}"))
        value = f"s{index}"
    if inputs > 1:
        ends.append(value)
    shape = ["N", 4]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ends],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _alone(make: Callable[[int], onnx.ModelProto]) -> Callable[[int, Path], Models]:
    def models(size: int, folder: Path) -> Models:
        path = folder / f"{size}.onnx"
        onnx.save(make(size), path)
        return [("chain", path)]

    return models


def _several(count: int) -> Callable[[int, Path], Models]:
    def models(size: int, folder: Path) -> Models:
        found: list[tuple[str, Path]] = []
        for index in range(count):
            path = folder / f"{size}-{index}.onnx"
            onnx.save(chain(size // count, seed=index), path)
            found.append((f"chain{index}", path))
        return found

    return models


def readers(count: int, seed: int = 0) -> onnx.ModelProto:
    """A chain of which `count` nodes read one value and one weight; hundreds have no name."""
    rng = np.random.default_rng(seed)
    weight = numpy_helper.from_array(rng.random(4, np.float32) + 0.5, "w")
    made: list[onnx.NodeProto] = []
    value = "x"
    for index in range(count):
        made.append(helper.make_node("Mul", [value, "w"], [f"m{index}"], ""))
        made.append(helper.make_node("Sigmoid", [f"m{index}"], [f"r{index}"], ""))
        made.append(helper.make_node("Add", ["x", f"r{index}"], [f"s{index}"], ""))
        value = f"s{index}"
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("x", value)]
    graph = helper.make_graph(made, "readers", infos[:1], infos[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


GROWING: Mapping[str, tuple[int, Callable[[int, Path], Models]]] = {
    "chain of nodes": (10_000, _alone(chain)),
    "outputs": (5_000, _alone(lambda size: chain(size, outputs=size))),
    "inputs": (1_000, _alone(lambda size: chain(10, inputs=size))),
    "readers": (2_000, _alone(readers)),
    "nodes of 8 models": (4_000, _several(8)),
}


def growth_records(scratch: Path, quick: bool) -> list[Record]:
    """Processor time at 2 n by that at n, which is 2 where it grows with the size alone."""
    records: list[Record] = []
    for name, (full, models) in GROWING.items():
        size = full // 5 if quick else full
        seconds: list[float] = []
        for times in (1, 2):
            folder = scratch / f"{name}-{times}".replace(" ", "-")
            folder.mkdir(parents=True)
            found = compiled(models(times * size, folder), folder / "bundle")
            if found.report is None:
                records.append(figure(f"growth/{name}", None, "ratio", "<= 2.6", found.refusal))
                break
            seconds.append(found.processor_seconds)
        else:
            extra = f"{seconds[0]:.1f} s at {size}, {seconds[1]:.1f} s at {2 * size}"
            records.append(
                figure(f"growth/{name}", seconds[1] / seconds[0], "ratio", "<= 2.6", extra)
            )
    return records
