"""Memory, predicted beside measured, on models big enough to stand above the noise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from compiling import compiled
from measuring import NOT_QUICK, Outcome, Round, Row, benched, latency_records, memory_record
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from records import figure

CASE = "memory"
# Blocks, inner and outer channels, and stride of the first block, of each stage of a ResNet-50
# (He et al. 2016), BatchNorm folded.
_STAGES = ((3, 64, 256, 1), (4, 128, 512, 2), (6, 256, 1024, 2), (3, 512, 2048, 2))
# The siblings have stages up to and including this one in common: 34 % of the weights.
_FROZEN = 3
# A turn takes a third of a second.
_RUNS = 30


def run_memory(round_: Round) -> Outcome:
    """Three siblings of ResNet-50 size with random weights, exact sharing, memory measured."""
    if round_.quick:
        return Outcome([figure(f"{CASE}/skipped", None, "", None, NOT_QUICK)])
    models = [(f"sibling{n}", round_.scratch / f"sibling{n}.onnx") for n in range(3)]
    for seed, (_, path) in enumerate(models):
        write_sibling(path, seed)
    found = compiled(models, round_.scratch / CASE, exact_only=True)
    if found.bundle is None or found.report is None:
        return Outcome(
            [
                figure(
                    f"{CASE}/predicted saving against measured",
                    None,
                    "share",
                    "<= 0.10",
                    found.refusal,
                )
            ]
        )
    results = benched(found.bundle, _RUNS)
    latency = latency_records(CASE, found.bundle, results, all_cores=True)
    outcome = Outcome(
        [
            memory_record(CASE, results, "<= 0.10"),
            figure(f"{CASE}/weights", found.share, "ratio"),
            *latency,
            figure(f"{CASE}/peak memory of compiling", found.peak_nbytes / 2**20, "MiB"),
        ],
        [
            Row(
                models="three ResNet-50 sizes, random weights, frozen front",
                apart_nbytes=found.report.weights_before_nbytes,
                exact=found.share or 0.0,
                share=found.share,
                change="exact",
                latency=latency[0].value,
            )
        ],
    )
    shutil.rmtree(found.bundle)
    for _, path in models:
        path.unlink()
    return outcome


def write_sibling(path: Path, seed: int) -> None:
    """A ResNet-50 with seeded random weights, 98 MiB; all seeds agree up to its third stage."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, shape: tuple[int, ...], frozen: bool, gain: float) -> str:
        # The name seeds the numbers, so that frozen layers are bit-identical in every sibling.
        random = np.random.default_rng([0 if frozen else seed + 1, *name.encode()])
        spread = np.float32(gain / np.sqrt(np.prod(shape[1:])))
        values: NDArray[np.float32] = random.standard_normal(shape, dtype=np.float32) * spread
        weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        source: str, name: str, cin: int, cout: int, kernel: int, stride: int, frozen: bool
    ) -> str:
        kernels = weight(f"{name}.weight", (cout, cin, kernel, kernel), frozen, np.sqrt(2))
        bias = weight(f"{name}.bias", (cout,), frozen, 0.1)
        nodes.append(
            helper.make_node(
                "Conv",
                [source, kernels, bias],
                [name],
                name=name,
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                pads=[kernel // 2] * 4,
            )
        )
        return name

    def node(operator: str, sources: list[str], name: str, **attributes: list[int] | int) -> str:
        nodes.append(helper.make_node(operator, sources, [name], name=name, **attributes))
        return name

    value = node("Relu", [conv("image", "stem", 3, 64, 7, 2, True)], "stem.relu")
    value = node(
        "MaxPool", [value], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    )
    width = 64
    for stage, (blocks, inner, outer, stride) in enumerate(_STAGES, start=1):
        frozen = stage <= _FROZEN
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            step = stride if block == 0 else 1
            inside = conv(value, f"{name}.conv1", width, inner, 1, 1, frozen)
            inside = node("Relu", [inside], f"{name}.relu1")
            inside = conv(inside, f"{name}.conv2", inner, inner, 3, step, frozen)
            inside = node("Relu", [inside], f"{name}.relu2")
            inside = conv(inside, f"{name}.conv3", inner, outer, 1, 1, frozen)
            if block == 0:
                value = conv(value, f"{name}.shortcut", width, outer, 1, step, frozen)
            total = node("Add", [inside, value], f"{name}.add")
            value = node("Relu", [total], f"{name}.relu3")
            width = outer
    value = node("GlobalAveragePool", [value], "pool")
    value = node("Flatten", [value], "features", axis=1)
    head = weight("head.weight", (1000, width), False, 1.0)
    bias = weight("head.bias", (1000,), False, 0.1)
    node("Gemm", [value, head, bias], "scores", transB=1)
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 1000])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
