"""Arithmetic in 8 bits from the options to the file and the tables."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from repsimc.compiler.cli.main import main
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import ModelError
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.session import load
from tests.end_to_end.conftest import save_all
from tests.nets.networks import smooth_images
from tests.nets.residual import residual_net

KIND = "compute-in-eight-bits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all(tmp_path_factory.mktemp("nets"), {"a": residual_net(3, channels=16)})


def options_of(folder: Path, **wishes: object) -> CompileOptions:
    asked: dict[str, object] = {
        "calibration": smooth_images(200),
        "metrics": {"a": "variance"},
        "precision": "int8",
        "only": "precision",
        "target": "cpu",
        "min_fidelity": 0.9,
    }
    return CompileOptions(models=(("a", folder / "a.onnx"),), **(asked | wishes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def computed(folder: Path) -> CompileResult:
    return compile_models(options_of(folder, output=folder / "bundle"))


def kernels(path: Path, folder: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_convolutions_and_sums_are_computed_in_8_bits(
    computed: CompileResult, tmp_path: Path
) -> None:
    assert KIND in {one.action.kind for one in computed.plan.actions}
    assert computed.bundle is not None
    found = kernels(computed.bundle / "merged.onnx", tmp_path)
    assert found["QLinearConv"] >= 6 and found["QLinearAdd"] == 3
    (model,) = computed.report.models
    assert all(output.met for output in model.fidelity)
    assert model.macs_in_eight_bits > 0.8 * model.macs_after
    in_float = sum(one.macs for one in model.computed_in_float)
    assert model.macs_in_eight_bits + in_float == model.macs_after
    assert all(one.why for one in model.computed_in_float)


def test_what_was_measured_is_what_the_bundle_and_the_file_compute(
    computed: CompileResult,
) -> None:
    assert computed.bundle is not None
    x = smooth_images(16, seed=9)
    session = ort.InferenceSession(
        str(computed.bundle / "merged.onnx"), providers=["CPUExecutionProvider"]
    )
    (plain,) = session.run(["a/y"], {session.get_inputs()[0].name: x})
    ours = load(computed.bundle).run({"x": x})["a"]["y"]
    np.testing.assert_allclose(plain, ours, rtol=1e-3, atol=1e-3)


def test_the_tables_tell_it_of_a_bundle_too(
    computed: CompileResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(computed.bundle)]) == 0
    said = capsys.readouterr().out
    assert "computed in 8 bits, for a processor" in said and KIND in said
    assert main(["inspect", str(computed.bundle), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["target"] == "cpu" and report["models"][0]["macs_in_eight_bits"] > 0


def test_the_same_call_and_the_same_plan_give_the_same_bytes(
    computed: CompileResult, folder: Path, tmp_path: Path
) -> None:
    assert computed.bundle is not None
    compile_models(options_of(folder, output=tmp_path / "two"))
    plan = computed.bundle / "plan.json"
    compile_models(options_of(folder, output=tmp_path / "replayed", plan=plan))
    wanted = (computed.bundle / "merged.onnx").read_bytes()
    for name in ("two", "replayed"):
        assert (tmp_path / name / "merged.onnx").read_bytes() == wanted


def test_without_a_target_and_without_the_kind_arithmetic_stays_float(folder: Path) -> None:
    for wishes in ({"target": "any"}, {"without": (KIND,)}, {"min_fidelity": 1.0}):
        result = compile_models(options_of(folder, **wishes))
        assert KIND not in {one.action.kind for one in result.plan.actions}
        assert result.report.models[0].macs_in_eight_bits == 0


def test_a_high_floor_leaves_operators_in_float_and_says_what_they_would_lose(
    folder: Path,
) -> None:
    result = compile_models(options_of(folder, min_fidelity=0.9998))
    (model,) = result.report.models
    assert all(output.met for output in model.fidelity)
    whole = compile_models(options_of(folder)).report.models[0].macs_in_eight_bits
    assert model.macs_in_eight_bits < whole
    reasons = {one.why for one in model.computed_in_float}
    assert reasons & {"not in the plan", "next to what stays in float"}


def test_tensorrt_gets_signed_codes_with_zero_at_zero(folder: Path, tmp_path: Path) -> None:
    compile_models(options_of(folder, target="tensorrt", output=tmp_path / "bundle"))
    graph = onnx.load(tmp_path / "bundle" / "merged.onnx").graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8 and zero == 0 and constants[node.input[1]].shape == ()


def test_a_plan_with_an_infinite_range_is_refused(
    computed: CompileResult, folder: Path, tmp_path: Path
) -> None:
    assert computed.bundle is not None
    plan = json.loads((computed.bundle / "plan.json").read_text())
    (mine,) = [one for one in plan["actions"] if one["kind"] == KIND]
    mine["ranges"][0] = [-1, 1e39]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    with pytest.raises(ModelError, match="does not fit into float32"):
        compile_models(options_of(folder, plan=path))
