"""Values of types that NumPy has no word for, within sessions and out of them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest

from repsimc.passes.pipeline import run_exact
from repsimc.runtime.narrow_types import is_narrow, readable, run_session
from repsimc.runtime.session import load
from tests.programs import joined, model_of_text
from tests.runtime.bundles import bundled

# onnx.TensorProto's number, ml_dtypes' type, and NumPy's that holds all its values.
KINDS = {
    "bfloat16": (16, ml_dtypes.bfloat16, np.float32),
    "float8e4m3fn": (17, ml_dtypes.float8_e4m3fn, np.float32),
    "float8e4m3fnuz": (18, ml_dtypes.float8_e4m3fnuz, np.float32),
    "float8e5m2": (19, ml_dtypes.float8_e5m2, np.float32),
    "float8e5m2fnuz": (20, ml_dtypes.float8_e5m2fnuz, np.float32),
    "uint4": (21, ml_dtypes.uint4, np.uint8),
    "int4": (22, ml_dtypes.int4, np.int8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_ml_dtypes(kind: str) -> None:
    number, dtype, wider = KINDS[kind]
    whole = np.arange(16) - (8 if kind == "int4" else 0)
    x = (whole if "int" in kind else np.linspace(-200, 200, 45)).astype(np.float32)
    proto = model_of_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N] x) => ({kind}[N] y, float[N] z) {{ y = Cast<to={number}>(x) z = Neg(x) }}""")
    session = ort.InferenceSession(proto.SerializeToString())
    y, z = run_session(session, ["y", "z"], {"x": x})
    assert is_narrow(f"tensor({kind})")
    found = readable(y)
    assert found.dtype == wider
    np.testing.assert_array_equal(found, x.astype(dtype).astype(wider))
    np.testing.assert_array_equal(readable(z), -x)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "int" not in kind])
@pytest.mark.parametrize("shape", [(6,), ()])
def test_arrays_of_such_types_are_fed(kind: str, shape: tuple[int, ...]) -> None:
    _, dtype, _ = KINDS[kind]
    size = ",".join(map(str, shape))
    proto = model_of_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g ({kind}[{size}] x) => (float[{size}] y) {{ y = Cast<to=1>(x) }}""")
    session = ort.InferenceSession(proto.SerializeToString())
    x = np.asarray(np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    (y,) = run_session(session, ["y"], {"x": x})
    np.testing.assert_array_equal(y, x.astype(np.float32))


def test_plain_types_and_what_is_no_tensor_are_left_alone() -> None:
    assert not is_narrow("tensor(float)")
    assert not is_narrow("seq(tensor(float))")
    array = np.ones(3)
    assert readable(array) is array


def halves(head: str) -> str:
    return f"""<ir_version: 9, opset_import: ["" : 19]> g (float[2,4] x) => (float[P,4] y)
        {{ h = Relu(x) c = Cast<to=16>(h) {head} }}"""


def test_they_pass_from_one_part_to_another(tmp_path: Path) -> None:
    program = joined(
        [[("a", "x"), ("b", "x")]],
        a=halves("z = Cast<to=1>(c) y = Neg(z)"),
        b=halves("q = Transpose(c) z = Cast<to=1>(q) y = Transpose(z)"),
    )
    run_exact(program)
    path = bundled(tmp_path, program)
    x = np.float32([[1, 2, 3, 4], [-1, 0.5, 7, 257]])
    rounded = np.maximum(x, 0).astype(ml_dtypes.bfloat16).astype(np.float32)
    session = load(path).session()
    for models in (None, "a", "b", None):  # whole, then in parts
        for name, outputs in session.run(x, models).items():
            np.testing.assert_array_equal(outputs["y"], -rounded if name == "a" else rounded)


def test_equal_int4_outputs_of_two_models(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[2,4] x) => (int4[2,4] y)
        { y = Cast<to=22>(x) }"""
    program = joined([[("a", "x"), ("b", "x")]], a=text, b=text)
    run_exact(program)
    session = load(bundled(tmp_path, program)).session()
    x = np.float32([[1, 2, 3, 4], [-1, -8, 7, 0]])
    for models in (None, "b"):
        for outputs in session.run(x, models).values():
            np.testing.assert_array_equal(outputs["y"], x.astype(np.int8))
