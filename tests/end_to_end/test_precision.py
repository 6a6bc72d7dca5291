"""Weights in few bits from the options to the file, beside everything else that a plan does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from repsimc.compiler.bundle.verification import VerificationOptions, verify_bundle
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import BudgetError, ModelError
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.session import load
from tests.nets.networks import smooth_images

Work = Callable[..., CompileResult]


def codes_of(path: Path) -> dict[str, int]:
    """Numbers in integer constants that a DequantizeLinear reads, by their type."""
    model = onnx.load(path)
    read = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found: Counter[str] = Counter()
    for one in model.graph.initializer:
        if one.name in read:
            found[TensorProto.DataType.Name(one.data_type)] += int(np.prod(one.dims))
    return dict(found)


def test_int8_stores_what_it_can_and_the_file_runs_anywhere(work: Work, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    report = work(output=out, precision="int8", only="precision", min_fidelity=0.9).report
    assert report.weights_after_nbytes < 0.36 * report.weights_before_nbytes
    assert all(output.met for model in report.models for output in model.fidelity)
    stored = codes_of(out / "merged.onnx")
    assert set(stored) == {"INT8"}
    # Without repsimc, and with ONNX Runtime's own choice of kernels.
    session = ort.InferenceSession(str(out / "merged.onnx"), providers=["CPUExecutionProvider"])
    x = smooth_images(8, seed=9)
    plain = dict(zip((one.name for one in session.get_outputs()), session.run(None, {"x": x})))
    ours = load(out).run({"x": x})
    for model in "abc":
        np.testing.assert_allclose(plain[f"{model}/y"], ours[model]["y"], rtol=1e-3, atol=1e-3)
    for one in verify_bundle(load(out), {"x": x}, VerificationOptions()):
        assert one.fidelity.value > 0.8


def test_auto_mixes_bits_and_sharing_under_a_budget(work: Work, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = work(output=out, precision="auto", budget="12%", min_fidelity=0.5)
    assert result.report.weights_after_nbytes <= 0.12 * result.report.weights_before_nbytes
    kinds = {one.action.kind for one in result.plan.actions}
    assert "store-in-few-bits" in kinds and len(kinds) > 1
    assert set(codes_of(out / "merged.onnx")) <= {"INT8", "INT4"}
    if "INT4" in codes_of(out / "merged.onnx"):
        model = onnx.load(out / "merged.onnx")
        assert next(one.version for one in model.opset_import if not one.domain) >= 21


def test_the_same_call_and_the_same_plan_give_the_same_bytes(work: Work, tmp_path: Path) -> None:
    wishes = {"precision": "int8", "only": "precision"}
    for name in ("one", "two"):
        work(output=tmp_path / name, models="ab", **wishes)
    work(output=tmp_path / "replayed", models="ab", plan=tmp_path / "one" / "plan.json", **wishes)
    contents = [(tmp_path / name / "merged.onnx").read_bytes() for name in ("one", "two")]
    assert contents[0] == contents[1]
    assert contents[0] == (tmp_path / "replayed" / "merged.onnx").read_bytes()


def test_without_being_asked_nothing_is_rounded(work: Work, tmp_path: Path) -> None:
    result = work(output=tmp_path / "bundle", budget="70%", min_fidelity=0.5)
    assert "store-in-few-bits" not in {one.action.kind for one in result.plan.actions}
    assert codes_of(tmp_path / "bundle" / "merged.onnx") == {}


def test_a_floor_that_no_rounding_meets_is_kept(work: Work) -> None:
    plan = work(precision="auto", only="precision", models="a", min_fidelity=1.0).plan
    assert plan.actions == ()
    with pytest.raises(BudgetError):
        work(precision="auto", only="precision", models="a", min_fidelity=0.9999, budget="13%")


@pytest.mark.parametrize(
    "change", [{"bits": 3}, {"bits": True}, {"bits": "8"}, {"nodes": []}, {"nodes": ["a/none"]}]
)
def test_a_plan_edited_wrongly_is_refused(
    work: Work, tmp_path: Path, change: dict[str, object]
) -> None:
    work(output=tmp_path / "bundle", models="a", precision="int8", only="precision")
    path = tmp_path / "bundle" / "plan.json"
    plan = json.loads(path.read_text())
    plan["actions"][0] |= change
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(plan))
    with pytest.raises(ModelError):
        work(models="a", plan=edited)


def test_models_that_come_quantised_are_not_quantised_twice(work: Work, tmp_path: Path) -> None:
    work(output=tmp_path / "one", models="a", precision="int8", only="precision")
    (tmp_path / "again").mkdir()
    model = onnx.load(tmp_path / "one" / "merged.onnx")
    onnx.save(model, tmp_path / "again" / "a.onnx")
    options = CompileOptions(
        models=(("a", tmp_path / "again" / "a.onnx"),),
        calibration=smooth_images(200),
        precision="int8",
        only="precision",
        min_fidelity=0.9,
        output=tmp_path / "two",
    )
    compile_models(options)
    before, after = (codes_of(tmp_path / name / "merged.onnx") for name in ("one", "two"))
    assert after["INT8"] >= before["INT8"]
    scales = [
        sum(node.op_type == "DequantizeLinear" for node in onnx.load(path).graph.node)
        for path in (tmp_path / "one" / "merged.onnx", tmp_path / "two" / "merged.onnx")
    ]
    assert scales[1] - scales[0] == (after["INT8"] > before["INT8"])
