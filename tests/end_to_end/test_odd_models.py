"""Odd but legal models: a bundle of two gives what ONNX Runtime gives for the files as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from repsimc.compiler.driver import compile_models
from repsimc.compiler.errors import ModelError
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.session import load
from tests.programs import assert_close, model_of_text

X = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
IMAGE = np.arange(96, dtype=np.float32).reshape(1, 6, 4, 4) % 7 - 3
NORM = "<float[6] s = {1,2,3,4,5,6}, float[6] b = {0,1,0,1,0,1}, float[6] m = {0,1,2,0,1,2}, "
NORM += "float[6] v = {1,2,1,2,1,2}>"
YES = np.array(True)

# By what is odd: opset, graph, feeds.
ODD: dict[str, tuple[int, str, dict[str, Any]]] = {
    "stale shape of a Flatten": (
        17,
        """g (float[N,3] x) => (float[N,3] y) <float[1,3] h, float[1,3] r>
        { h = Relu(x)  r = Flatten<axis = 0>(h)  y = Neg(r) }""",
        {"x": X},
    ),
    "stale shape of an output": (
        17,
        "g (float[N,3] x) => (float[1,3] y) { h = Relu(x)  y = Flatten<axis = 0>(h) }",
        {"x": X},
    ),
    "another shape than a Reshape makes": (
        17,
        """g (float[2,3] x) => (float[3,2] y) <int64[2] t = {3, 2}, float[2,3] r>
        { h = Relu(x)  r = Reshape(h, t)  y = Neg(r) }""",
        {"x": X},
    ),
    "a Loop that grows what its body calls fixed": (
        17,
        """g (float[1,3] x) => (float[A,B] y) <int64 n = {3}, bool t = {1}>
        { k = Loop (n, t, x) < body = b (int64 i, bool c, float[1,3] p) => (bool d, float[1,3] q)
          { d = Identity(c)  q = Concat<axis = 0>(p, x) }>
          r = Flatten<axis = 0>(k)  y = Relu(r) }""",
        {"x": X[:1]},
    ),
    "training outputs of a norm": (
        9,
        f"""g (float[1,6,4,4] x) => (float[1,6,4,4] y) {NORM}
        {{ y, m1, v1, sm, sv = BatchNormalization<momentum = 0.8>(x, s, b, m, v) }}""",
        {"x": IMAGE},
    ),
    "running statistics of opset 8 are outputs": (
        8,
        f"""g (float[1,6,4,4] x) => (float[1,6,4,4] y, float[6] m1, float[6] v1) {NORM}
        {{ y, m1, v1, sm, sv = BatchNormalization(x, s, b, m, v) }}""",
        {"x": IMAGE},
    ),
    "a norm in training mode": (
        15,
        f"""g (float[1,6,4,4] x) => (float[1,6,4,4] y) {NORM}
        {{ y, m1, v1 = BatchNormalization<training_mode = 1>(x, s, b, m, v) }}""",
        {"x": IMAGE},
    ),
    "GroupNormalization of opset 18": (
        18,
        """g (float[N,C,4,4] x) => (float[N,C,4,4] y) <float[2] s = {2, 3}, float[2] b = {1, -1}>
        { y = GroupNormalization<num_groups = 2, epsilon = 0.1>(x, s, b) }""",
        {"x": IMAGE},
    ),
    "GroupNormalization in a function": (
        20,
        """g (float[1,6,4,4] x) => (float[1,6,4,4] y)
        <float[3] s = {2, 3, 4}, float[3] b = {1, 0, 1}> { y = own.f(x, s, b) }
        <domain: "own", opset_import: ["" : 20]>
        f (x, s, b) => (y) { h = Relu(x)  y = GroupNormalization<num_groups = 3>(h, s, b) }""",
        {"x": IMAGE},
    ),
    "integers that wrap": (
        17,
        """g (int8[4] x, int32[2] v) => (int8[4] y, int32[2] z)
        { a = Abs(x)  b = Add(a, a)  y = Relu(b)  c = Relu(v)  d = Mul(c, c)  z = Relu(d) }""",
        {"x": np.array([-128, 100, 3, 127], np.int8), "v": np.array([70000, 2], np.int32)},
    ),
    "zero times infinity": (
        17,
        """g (float[2,3] x) => (float[2,3] y) <float zero = {0}, float big = {100}>
        { b = Mul(x, big)  e = Exp(b)  m = Mul(e, zero)  y = Add(m, x) }""",
        {"x": X},
    ),
    "NaN that means something": (
        17,
        """g (float[2,3] x, bool[2,3] k) => (float[2,3] y, float[2,3] z) <float zero = {0}>
        { nan = Div(zero, zero)  y = Where(k, x, nan)  z = Max(y, zero) }""",
        {"x": X, "k": X > 0},
    ),
    "a Dropout's mask is an output": (
        17,
        "g (float[2,3] x) => (float[2,3] y, bool[2,3] m) { h = Relu(x)  y, m = Dropout(h) }",
        {"x": X},
    ),
    "and that of opset 10 is empty": (
        10,
        "g (float[2,3] x) => (float[2,3] y, bool[2,3] m) { h = Relu(x)  y, m = Dropout(h) }",
        {"x": X},
    ),
    "and that of opset 7 is of numbers": (
        7,
        "g (float[2,3] x) => (float[2,3] y, float[2,3] m) { h = Relu(x)  y, m = Dropout(h) }",
        {"x": X},
    ),
    "an output twice": (
        17,
        """g (float[2,3] x) => (float[2,3] y, float[2,3] z, float[2,3] y)
        { y = Relu(x)  z = Neg(y) }""",
        {"x": X},
    ),
    "an input among the outputs, twice": (
        17,
        "g (float[2,3] x) => (float[2,3] x, float[2,3] y, float[2,3] x) { y = Relu(x) }",
        {"x": X},
    ),
    "Scan of opset 8": (
        8,
        """g (float[2,3] s, float[2,4,3] q) => (float[2,3] y, float[2,4,3] z)
        { y, z = Scan<num_scan_inputs = 1, directions = [1], body = b (float[3] i, float[3] e)
          => (float[3] o, float[3] u) { o = Add(i, e)  u = Mul(o, e) }>(, s, q) }""",
        {"s": X, "q": np.arange(24, dtype=np.float32).reshape(2, 4, 3)},
    ),
    "Softmax of opset 11 of unknown rank": (
        11,
        """g (float[N,4,6] x, int64[R] t) => (float[A,B,C] y)
        { h = Reshape(x, t)  y = Softmax<axis = 1>(h) }""",
        {"x": IMAGE.reshape(1, 4, 24)[:, :, :6], "t": np.array([2, 3, 4])},
    ),
    "old operators that ONNX Runtime runs": (
        5,
        """g (float[1,6,4,4] x, int64[2] t) => (float[6,16] y)
        { h = Reshape(x, t)  y = Softmax(h) }""",
        {"x": IMAGE, "t": np.array([6, 16])},
    ),
    "ends of a Range with an axis": (
        17,
        """g (float[2,3] x) => (int64[N] y, float[2,3] z)
        <int64 one = {1}, int64 none = {0}, int64 six = {6}, int64[1] n = {2}, int64[1] k = {3}>
        { s = Size(x)  c = Equal(s, six)
          e = If (c) < then_branch = t () => (int64[1] o) { o = Identity(n) },
                       else_branch = f () => (int64[1] p) { p = Identity(k) }>
          y = Range(none, e, one)  z = Neg(x) }""",
        {"x": X},
    ),
    "a sequence, an optional value": (
        18,
        """g (seq(float[2,3]) s, optional(float[2,3]) o) => (float[2,3] y, bool h)
        <int64 last = {-1}> { y = SequenceAt(s, last)  h = OptionalHasElement(o) }""",
        {"s": [X, X + 1], "o": None},
    ),
    "a map": (
        17,
        """g (map(string,float) q) => (float[1,2] y)
        { y = ai.onnx.ml.DictVectorizer<string_vocabulary = ["a", "b"]>(q) }""",
        {"q": {"b": 2.0, "a": 1.0}},
    ),
    "names of a body that are used outside": (
        17,
        """g (bool c, float[2,3] x) => (float[2,3] y)
        { h = Relu(x)  y = If (c) <
            then_branch = t () => (float[2,3] o) { k = Neg(h)  o = Add(k, x) },
            else_branch = e () => (float[2,3] p) { k = Abs(h)  p = Sub(k, x) }> }""",
        {"c": YES, "x": X},
    ),
}


def written(folder: Path, text: str, opset: int, name: str = "a") -> Path:
    model = model_of_text(f'<ir_version: 8, opset_import: ["" : {opset}{_domains(text)}]>\n{text}')
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def _domains(text: str) -> str:
    return "".join(f', "{d}" : 1' for d in ("own", "ai.onnx.ml") if f"{d}." in text)


def as_given(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def compiled(folder: Path, *paths: Path) -> Path:
    models = tuple((path.stem, path) for path in paths)
    compile_models(CompileOptions(models=models, output=folder / "bundle"))
    return folder / "bundle"


def assert_right(bundle: Path, given: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> None:
    with load(bundle).session() as session:
        for asked in (None, *given):
            found = session.run(given, asked)
            for name in given if asked is None else (asked,):
                assert list(found[name]) == list(wanted)
                for output, array in wanted.items():
                    assert_close(found[name][output], array)


@pytest.mark.parametrize("case", ODD)
def test_two_in_a_bundle_give_what_the_file_gives(case: str, tmp_path: Path) -> None:
    opset, text, feeds = ODD[case]
    paths = [written(tmp_path, text, opset, name) for name in "ab"]
    bundle = compiled(tmp_path, *paths)
    assert_right(bundle, {"a": feeds, "b": feeds}, as_given(paths[0], feeds))


@pytest.mark.parametrize("field", ["input", "output"])
def test_shapes_may_be_left_out(field: str, tmp_path: Path) -> None:
    text = "g (float[2,3] x) => (float[3,2] y) { h = Softmax(x)  y = Transpose(h) }"
    path = written(tmp_path, text, 17)
    model = onnx.load(path)
    getattr(model.graph, field)[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    bundle = compiled(tmp_path, path)
    assert_right(bundle, {"a": {"x": X}}, as_given(path, {"x": X}))


DEFAULTS = """g (float[2,3] x, float factor, int64[2] t) => (float[A,B] y)
<float factor = {0.5}, int64[2] t = {2, 3}>
{ h = Mul(x, factor)  r = Relu(h)  y = Reshape(r, t) }"""


@pytest.mark.parametrize(
    "given",
    [{}, {"factor": np.array(-3, np.float32)}, {"t": np.array([3, 2])}],
    ids=["none", "a factor", "a shape"],
)
def test_defaults_can_be_overridden(given: dict[str, Any], tmp_path: Path) -> None:
    paths = [written(tmp_path, DEFAULTS, 17, name) for name in "ab"]
    bundle = compiled(tmp_path, *paths)
    (entry, _) = load(bundle).manifest.models
    assert [spec.name for spec in entry.inputs] == ["x"]
    assert [spec.name for spec in entry.optional] == ["factor", "t"]
    feeds = {"x": X, **given}
    assert_right(bundle, {"a": feeds, "b": feeds}, as_given(paths[0], feeds))


def test_a_default_is_overridden_for_one_model_alone(tmp_path: Path) -> None:
    paths = [written(tmp_path, DEFAULTS, 17, name) for name in "ab"]
    factor = np.array(2, np.float32)
    found = load(compiled(tmp_path, *paths)).run({"x": X, "a": {"factor": factor}})
    assert_close(found["a"]["y"], as_given(paths[0], {"x": X, "factor": factor})["y"])
    assert_close(found["b"]["y"], as_given(paths[1], {"x": X})["y"])


REFUSED: dict[str, tuple[int, str, str]] = {
    "broadcasting before opset 7": (
        6,
        """g (float[1,3,2,4] x) => (float[1,3,2,4] y) <float[3] s = {1, 2, 3}>
        { y = Add<axis = 1, broadcast = 1>(x, s) }""",
        r"ONNX Runtime cannot run model 'a'.*Add\(6\)",
    ),
    "PRelu before opset 7": (
        6,
        """g (float[1,3,2,3] x) => (float[1,3,2,3] y) <float[3] s = {1, 2, 3}>
        { y = PRelu(x, s) }""",
        r"ONNX Runtime cannot run model 'a'.*PRelu\(6\)",
    ),
    "the batch's own statistics": (
        9,
        f"""g (float[1,6,4,4] x) => (float[1,6,4,4] y, float[6] sm) {NORM}
        {{ y, m1, v1, sm, sv = BatchNormalization(x, s, b, m, v) }}""",
        "hands out the batch's own mean and variance",
    ),
    "sequences of different lengths": (
        8,
        """g (int64[2] n, float[2,3] s, float[2,4,3] q) => (float[2,3] y)
        { y = Scan<num_scan_inputs = 1, body = b (float[3] i, float[3] e) => (float[3] o)
          { o = Add(i, e) }>(n, s, q) }""",
        "takes a length for every sequence",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_newer_opset_can_say_is_refused(case: str, tmp_path: Path) -> None:
    opset, text, message = REFUSED[case]
    with pytest.raises(ModelError, match=message) as caught:
        compiled(tmp_path, written(tmp_path, text, opset))
    assert caught.value.exit_code == 3 and caught.value.hint
    assert not (tmp_path / "bundle").exists()
