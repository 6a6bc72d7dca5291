"""benchmarks/precision.py and what it measures by, on small networks; none needs the zoo."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from repsimc.runtime.memory import can_measure
from tests.nets.networks import Net, smooth_images

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
Importer = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def images(seed: int = 3, opset: int | None = None) -> onnx.ModelProto:
    """Convolutions, one of them depthwise, and a Gemm to ten classes."""
    net = Net(seed)
    x = net.relu(net.conv("x", 1, 8))
    x = net.relu(net.node("Conv", x, net.weight(net.normal(8, 1, 3, 3)), group=8, pads=[1] * 4))
    net.head(x, 8, 10)
    model = net.model(x=("N", 1, 8, 8))
    if opset is not None:
        model.opset_import[0].version = opset
    return model


def kinds() -> onnx.ModelProto:
    """Weights of every operator and of every place: initializer, Constant, behind an Identity."""
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"]),
        helper.make_node("Identity", ["b"], ["same"]),
        helper.make_node("ConvTranspose", ["c", "same"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Constant", [], ["k"], value=tensor("", 5, 6)),
        helper.make_node("MatMul", ["f", "k"], ["m"]),
        helper.make_node("Gemm", ["m", "g", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "kinds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7])],
        [tensor("a", 4, 3, 3, 3), tensor("b", 4, 5, 2, 2), tensor("g", 7, 6), tensor("bias", 7)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(model: onnx.ModelProto, x: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def dequantised(model: onnx.ModelProto) -> dict[str, tuple[Any, Any, int]]:
    """(integers, scales, axis) by the value that DequantizeLinear makes of them."""
    held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    return {
        node.output[0]: (held[node.input[0]], held[node.input[1]], node.attribute[0].i)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }


# -- plain rounding --------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rounding_is_exact_to_half_a_step_of_its_channel(module: Importer, axis: int) -> None:
    weight = np.random.default_rng(0).standard_normal((5, 6, 7)).astype(np.float32)
    shape = [-1 if k == axis else 1 for k in range(3)]
    weight *= np.logspace(-6, 3, weight.shape[axis]).reshape(shape)
    steps, scale = module("plain_rounding").rounded(weight, axis)
    assert steps.dtype == np.int8 and scale.shape == (weight.shape[axis],)
    along = scale.reshape(shape)
    assert np.all(np.abs(steps * along - weight) <= along * 0.50001)
    others = tuple(k for k in range(3) if k != axis)
    assert np.all(np.abs(steps).max(axis=others) == 127)  # no step is given away


def test_rounding_stands_zeros_and_the_smallest_numbers(module: Importer) -> None:
    weight = np.array([[0, 0], [1e-44, -1e-44], [1e30, -1e30], [3, 3]], np.float32)
    steps, scale = module("plain_rounding").rounded(weight, 0)
    assert np.all(np.isfinite(scale)) and np.all(scale > 0)
    np.testing.assert_allclose(steps * scale[:, None], weight, rtol=1e-6, atol=1e-37)
    assert not steps[0].any()


def test_every_kind_of_weight_is_rounded_along_its_outputs(module: Importer) -> None:
    model = kinds()
    before = model.SerializeToString()
    made = module("plain_rounding").plainly_rounded(model)
    assert model.SerializeToString() == before  # the original is as it was
    onnx.checker.check_model(made, full_check=True)
    found = dequantised(made)
    assert {(steps.shape, axis) for steps, _, axis in found.values()} == {
        ((4, 3, 3, 3), 0),
        ((4, 5, 2, 2), 1),
        ((5, 6), 1),
        ((7, 6), 0),
    }
    assert all(scale.shape == (steps.shape[axis],) for steps, scale, axis in found.values())
    # What made the floats is gone, and the bias is what it was.
    assert not {"Constant", "Identity"} & {node.op_type for node in made.graph.node}
    floats = [one for one in made.graph.initializer if one.data_type == TensorProto.FLOAT]
    assert max(np.prod(one.dims) for one in floats) == 7
    x = smooth_images(8, 3, size=6)
    off = np.abs(run(made, x) - run(model, x)).max()
    assert 0 < off < 0.05 * np.abs(run(model, x)).max()


def test_a_weight_that_two_operators_read_is_stored_once(module: Importer) -> None:
    net = Net(0)
    shared = net.weight(net.normal(16, 16))
    net.node("MatMul", net.node("MatMul", "x", shared), shared, out="y")
    made = module("plain_rounding").plainly_rounded(net.model(x=("N", 16)))
    assert len(dequantised(made)) == 1
    assert [node.op_type for node in made.graph.node] == ["DequantizeLinear", "MatMul", "MatMul"]


def test_what_callers_may_override_stays(module: Importer) -> None:
    net = Net(0)
    net.node("MatMul", "x", net.weight(net.normal(16, 4), "w"), out="y")
    model = net.model(x=("N", 16))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 4]))
    made = module("plain_rounding").plainly_rounded(model)
    assert not dequantised(made)
    assert [one.name for one in made.graph.initializer] == ["w"]


def test_old_operators_are_raised_to_those_with_a_scale_per_channel(module: Importer) -> None:
    plain = module("plain_rounding")
    old = images(opset=11)
    made = plain.plainly_rounded(old)
    assert plain.opset_of(old) == 11 and plain.opset_of(made) == plain.OPSET
    onnx.checker.check_model(made, full_check=True)
    assert len(dequantised(made)) == 3


# -- what is stored, and what runs -----------------------------------------------------------------


def test_bits_and_bytes_are_those_of_the_tensors(module: Importer, tmp_path: Path) -> None:
    stored = module("stored_bits").stored
    onnx.save(kinds(), tmp_path / "float.onnx")
    onnx.save(module("plain_rounding").plainly_rounded(kinds()), tmp_path / "int8.onnx")
    weights, bias, scales = 108 + 80 + 30 + 42, 7, 4 + 5 + 6 + 7
    whole = stored(tmp_path / "float.onnx")
    assert whole.weights == {32: weights + bias} and whole.share() == 0
    assert whole.nbytes == 4 * (weights + bias)
    found = stored(tmp_path / "int8.onnx")
    assert found.weights == {8: weights, 32: bias}
    assert found.nbytes == weights + 4 * (bias + scales)
    assert found.share() == weights / (weights + bias)
    assert found.share(4) == 0


def test_four_bits_count_half_a_byte(module: Importer, tmp_path: Path) -> None:
    values = helper.make_tensor("q", TensorProto.INT4, [16, 5], np.arange(80) % 7)
    scale = numpy_helper.from_array(np.ones(5, np.float32), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "four",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [values, scale],
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "a.onnx")
    found = module("stored_bits").stored(tmp_path / "a.onnx")
    assert found.weights == {4: 80} and found.nbytes == 40 + 20
    assert found.share(4) == 1 and found.in_words() == "4 bits 100.0 %"


def test_packed_integers_are_counted_one_by_one(module: Importer, tmp_path: Path) -> None:
    packed = numpy_helper.from_array(np.zeros((8, 2, 16), np.uint8), "b")
    scale = numpy_helper.from_array(np.ones(16, np.float32), "s")
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=64, N=8, bits=4,
        block_size=32,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "packed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [packed, scale],
    )
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    assert module("stored_bits").stored(tmp_path / "a.onnx").weights == {4: 64 * 8}


def test_integer_kernels_are_counted_and_float_ones_are_not(
    module: Importer, tmp_path: Path
) -> None:
    bits, quantiser = module("stored_bits"), module("static_quantiser")
    onnx.save(images(), tmp_path / "net.onnx")
    frames = {"x": smooth_images(32, 1)}
    made = quantiser.statically_quantised(tmp_path / "net.onnx", frames, tmp_path)
    plain = quantiser.plainly_quantised(tmp_path / "net.onnx", tmp_path)
    assert made.path is not None and plain.path is not None
    assert bits.stored(made.path).share() > 0.9
    found = bits.kernels(made.path, tmp_path)
    assert found.counts["QLinearConv"] == 2 and found.integer >= 3
    assert found.in_words().startswith("3 of 3 ")
    assert bits.kernels(plain.path, tmp_path).integer == 0
    assert bits.kernels(tmp_path / "net.onnx", tmp_path).integer == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net.onnx", "net.rounded.onnx", "net.static.onnx",
    ]  # fmt: skip


# -- other quantisers ------------------------------------------------------------------------------


def test_batches_hold_every_frame_once(module: Importer, tmp_path: Path) -> None:
    batches = module("static_quantiser").batches
    net = Net(1)
    net.head(net.relu(net.conv("x", 1, 8)), 8, 10)
    frames = {"any name": smooth_images(150, 1)}
    for name, batch, expected in (("free", "N", [64, 64, 22]), ("fixed", 60, [60, 60])):
        onnx.save(net.model(x=(batch, 1, 8, 8)), tmp_path / f"{name}.onnx")
        found = list(batches(tmp_path / f"{name}.onnx", frames))
        assert [len(one["x"]) for one in found] == expected
    first = np.concatenate([one["x"] for one in found])
    assert np.array_equal(first, frames["any name"][:120])


def test_a_file_that_does_not_open_says_why(module: Importer, tmp_path: Path) -> None:
    quantiser = module("static_quantiser")
    model = images()
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "broken.onnx")
    found = quantiser.opening(tmp_path / "broken.onnx", "")
    assert found.path is None and "NoSuchOperator" in found.remark
    assert "\n" not in found.remark and str(tmp_path) not in found.remark
    onnx.save(model, tmp_path / "broken.onnx")
    for way in (
        lambda path: quantiser.statically_quantised(path, {"x": smooth_images(8, 1)}, tmp_path),
        lambda path: quantiser.plainly_quantised(path, tmp_path),
    ):
        refused = way(tmp_path / "broken.onnx")
        assert refused.path is None and refused.remark


def test_other_quantisers_are_judged_like_us(module: Importer, tmp_path: Path) -> None:
    beside = module("beside_quantisers")
    models = [(name, tmp_path / f"{name}.onnx") for name in ("one", "two")]
    for seed, (_, path) in enumerate(models):
        onnx.save(images(seed), path)
    x = smooth_images(96, 1)
    labels = {
        name: np.argmax(run(onnx.load(path), x[:64]), -1).astype(np.uint8) for name, path in models
    }
    frames = beside.Frames({"x": x[64:]}, {"x": x[:64]}, labels)
    tasks = {name: name for name, _ in models}
    records = beside.quantiser_records("case", models, tasks, frames, True, 2, tmp_path)
    found = {record.name: record for record in records}
    lost = found[f"case/{beside.PLAIN}/points lost"]
    assert lost.value is not None and 0 <= lost.value < 10 and "one 100.00 ->" in lost.extra
    assert 0.25 < found[f"case/{beside.PLAIN}/bytes of the tensors"].value < 0.5
    assert found[f"case/{beside.STATIC}/integer kernels"].value >= 6
    assert found[f"case/{beside.STATIC}/latency"].value > 0
    assert all(record.bar is None for record in records)
    assert {path.name for path in tmp_path.iterdir()} == {"one.onnx", "two.onnx"}


def test_without_labels_the_worst_output_is_told(module: Importer, tmp_path: Path) -> None:
    beside = module("beside_quantisers")
    net = Net(0)
    net.node("MatMul", "x", net.weight(net.normal(16, 4), "w"), out="good")
    net.node("MatMul", "x", net.weight(net.normal(16, 4), "v"), out="bad")
    model = net.model(x=("N", 16))
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("good", "bad")
    )
    onnx.save(model, tmp_path / "a.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, "v"))
    onnx.save(model, tmp_path / "b.onnx")
    x = net.normal(100, 16).astype(np.float32)
    found = beside.judge(beside.Made("a", tmp_path / "a.onnx", tmp_path / "b.onnx"), {"x": x}, None)
    assert found.output == "bad" and found.explained == pytest.approx(0.99, abs=0.003)
    assert found.lost is None


# -- running ---------------------------------------------------------------------------------------


def graph_of(module: Importer, path: Path, model: onnx.ModelProto, **feeds: Any) -> Any:
    onnx.save(model, path)
    return module("running").Graph(path, feeds)


def wide(width: int) -> onnx.ModelProto:
    net = Net(0)
    net.node("MatMul", "x", net.weight(net.normal(width, width)), out="y")
    return net.model(x=("N", width))


def test_turns_are_counted_for_each_side(module: Importer, tmp_path: Path) -> None:
    x = np.ones((64, 512), np.float32)
    one = graph_of(module, tmp_path / "one.onnx", wide(512), x=x)
    ratio, said = module("running").latency_ratio([one], [one, one, one, one], 5, tmp_path)
    assert 0 < ratio < 1 and "5 turns" in said
    assert [path.name for path in tmp_path.iterdir()] == ["one.onnx"]


@pytest.mark.skipif(not can_measure(), reason="memory can be measured on Linux only")
def test_the_memory_of_weights_is_that_of_the_weights(module: Importer, tmp_path: Path) -> None:
    running = module("running")
    # 16 MiB: processes differ by some tenths of one.
    x = np.ones((1, 2048), np.float32)
    one = graph_of(module, tmp_path / "one.onnx", wide(2048), x=x)
    held = running.resident([one], 1, tmp_path)
    assert 12 < held.opened_nbytes / 2**20 < 40
    ratio, said = running.weights_memory([one], [one, one], 1, tmp_path)
    assert 0.3 < ratio < 0.8 and "MiB" in said


def test_a_graph_that_does_not_run_says_why(module: Importer, tmp_path: Path) -> None:
    one = graph_of(module, tmp_path / "one.onnx", wide(16), x=np.ones((1, 7), np.float32))
    with pytest.raises(RuntimeError, match="running failed"):
        module("running").latency_ratio([one], [one], 1, tmp_path)


# -- our side --------------------------------------------------------------------------------------


def test_a_bundle_is_judged_by_its_graph(module: Importer, tmp_path: Path) -> None:
    precision, measuring = module("precision"), module("measuring")
    names = ("digit", "parity")
    models = [(name, DIGITS / f"{name}.onnx") for name in names]
    found = module("compiling").compiled(models, tmp_path / "bundle", exact_only=True)
    with np.load(DIGITS / "frames.npz") as arrays:
        dev = {key: arrays[key][:64] for key in arrays.files}
    frames = module("beside_quantisers").Frames(dev, dev, {})
    bars = module("precision_cases").Bars(0.001, 0.999, memory=2.0, eight=0.5)
    case = module("precision_cases").Case(dict.fromkeys(names, ""), "real", {}, bars)
    round_ = measuring.Round(True, tmp_path, None)
    records = precision.result_records("case", case, models, found, frames, round_)
    figures = {record.name.removeprefix("case/"): record for record in records}
    assert figures["variance explained"].value == pytest.approx(1, abs=1e-6)
    assert figures["variance explained"].met
    assert figures["weights"].met is False and figures["weights"].value == found.share
    assert figures["weights in 8 bits or fewer"].value == 0
    assert figures["weights in 8 bits or fewer"].met is False
    assert figures["integer kernels"].value == 0
    assert figures["latency"].value > 0
    assert not (tmp_path / "bundle").exists()


def test_what_is_refused_misses_every_bar(module: Importer, tmp_path: Path) -> None:
    precision, cases = module("precision"), module("precision_cases")
    models = [("digit", DIGITS / "digit.onnx")]
    found = module("compiling").compiled(models, tmp_path / "bundle", precision="no such bits")
    assert found.bundle is None and "no such bits" in found.refusal
    for case in cases.CASES.values():
        records = precision.result_records("case", case, models, found, None, None)
        assert {record.name for record in records} == {
            f"case/{what}" for what in precision.bars_of(case)
        }
        assert records and all(record.met is False for record in records)
        assert all("no such bits" in record.extra for record in records)


def test_the_float_compilation_is_asked_for_no_precision(module: Importer) -> None:
    cases = module("precision_cases")
    for case in (*cases.CASES.values(), *cases.SHORT.values()):
        assert case.wishes["precision"] in (cases.EIGHT_BITS, cases.MIXED)
        assert "precision" not in case.float_wishes


def precision(*arguments: str, zoo: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "precision.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REPSIMC_ZOO": str(zoo)},
    )


def test_without_a_zoo_it_says_so(tmp_path: Path) -> None:
    done = precision("--quick", zoo=tmp_path)
    assert done.returncode == 2
    assert "REPSIMC_ZOO" in done.stderr and "Traceback" not in done.stderr


def test_help_names_options_and_cases(module: Importer) -> None:
    done = precision("--help", zoo=Path())
    assert done.returncode == 0
    for word in ("--quick", "--json", "--case", "--strict", "--only", "REPSIMC_ZOO"):
        assert word in done.stdout
    text = "".join(done.stdout.split())  # names are wrapped at hyphens
    for case in module("precision_cases").CASES:
        assert case in text
