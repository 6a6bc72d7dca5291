"""What callers give and models take: forms, dtypes, shapes, inputs that others need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.runtime.errors import DataError, UsageError
from repsimc.runtime.feeds import check, sizes_of_inputs
from repsimc.runtime.manifest import Manifest, ModelEntry, SourceFile, TensorSpec
from repsimc.runtime.session import load
from tests.programs import assert_close, joined
from tests.runtime.bundles import (
    EXTRA,
    INDEX,
    PLAIN,
    T,
    X,
    bundled,
    share,
    trunk_and_pick,
)


@pytest.mark.parametrize(
    "inputs",
    [{"x": X}, {"a": X, "b": X.copy()}, {"a": {"x": X}}, {"b": {"x": X}}],
    ids=["by input", "equal arrays", "by model", "by the other model"],
)
def test_tied_inputs_can_be_given_in_any_form(tied: Path, inputs: Any) -> None:
    assert_close(load(tied).session().run(inputs)["b"]["y"], -X)


def test_two_frames_for_one_input_are_refused(tied: Path) -> None:
    with pytest.raises(DataError, match="input 'x' of model 'b' is given another array"):
        load(tied).session().run({"a": X, "b": X + 1})


def test_several_inputs_by_name(shared: Path) -> None:
    found = load(shared).session().run({"x": X, "extra": EXTRA, "index": INDEX})
    assert_close(found["trunk"]["y"], np.maximum(T, 0))
    assert_close(found["trunk"]["z"], T + 1)
    assert_close(found["pick"]["y"], T[:, INDEX])


def test_untied_models_take_their_own_frames(untied: Path) -> None:
    found = (
        load(untied)
        .session()
        .run({"trunk": {"x": X, "extra": EXTRA}, "pick": {"x": X[:1], "index": INDEX}})
    )
    assert_close(found["trunk"]["z"], T + 1)
    assert_close(found["pick"]["y"], T[:1, INDEX])


def test_an_input_name_of_several_untied_models_is_ambiguous(untied: Path) -> None:
    with pytest.raises(DataError, match="several models have an input 'x' of their own"):
        load(untied).session().run({"x": X, "extra": EXTRA, "index": INDEX})


REFUSED: list[tuple[Any, str]] = [
    (X, "inputs are not one"),
    ({"trunk": X}, "has 2 inputs"),
    ({"trunk": {"x": X, "extr": EXTRA}}, "did you mean 'extra'"),
    ({"x": X, "extra": EXTRA, "idx": INDEX}, "neither a model nor an input"),
    ({"x": X, "index": INDEX}, "no array for input 'extra' of model 'trunk'"),
    ({"x": X.astype(np.float64), "extra": EXTRA, "index": INDEX}, "float64, needs float32"),
    ({"x": X.astype(">f4"), "extra": EXTRA, "index": INDEX}, "needs float32"),
    ({"x": X[0], "extra": EXTRA, "index": INDEX}, "array[None]"),
    ({"x": X[:, :2], "extra": EXTRA, "index": INDEX}, "[2, 2], needs [N, 3]"),
    ({"x": X[:1], "extra": EXTRA, "index": INDEX}, "dimension 'N' is 1 in input 'x'"),
    ({"x": [[1], [2, 3]], "extra": EXTRA, "index": INDEX}, "is no array"),
    ({"x": X, "extra": EXTRA, "index": INDEX + 7}, "could not run this frame"),
]


@pytest.mark.parametrize(("inputs", "says"), REFUSED, ids=[case[1] for case in REFUSED])
def test_inputs_that_do_not_fit_are_refused(shared: Path, inputs: Any, says: str) -> None:
    with pytest.raises(DataError) as caught:
        load(shared).session().run(inputs)
    assert says in str(caught.value)


def test_channels_last_frames_get_a_hint() -> None:

    spec = TensorSpec("x", "x", "float32", ("N", 3, 8, 8))
    with pytest.raises(DataError, match="transpose"):
        check(np.zeros((1, 8, 8, 3), np.float32), spec, "x")


def test_an_unknown_model_is_named_with_the_nearest(shared: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'trunk'"):
        load(shared).session().run(X, models=["trnk"])
    with pytest.raises(UsageError, match="no model was asked for"):
        load(shared).session().run(X, models=[])


def test_a_model_that_depends_on_anothers_input_says_so(tmp_path: Path) -> None:
    # `pick` reads the trunk of `trunk`, whose own input is not tied to that of `pick`.
    program = share(trunk_and_pick(tied=False), "trunk/t", "pick/t")
    bundle = load(bundled(tmp_path, program))
    assert bundle.manifest.model("pick").needs == (("trunk", "x"),)
    pick = {"x": X, "index": INDEX}
    with pytest.raises(DataError, match="no array for input 'x' of model 'trunk', which pick"):
        bundle.run({"pick": pick}, models="pick")
    found = bundle.run({"pick": pick, "trunk": {"x": X}}, models="pick")
    assert_close(found["pick"]["y"], T[:, INDEX])


def test_an_input_that_nothing_depends_on_may_be_left_out(tmp_path: Path) -> None:
    program = share(joined(a=PLAIN, b=PLAIN.replace("Tanh", "Exp")), "a/y", "b/y")
    program.graph.outputs[1] = program.graph.outputs[0]
    program.models["b"].outputs["y"] = "a/y"
    program.graph.outputs.pop()
    bundle = load(bundled(tmp_path, program))
    assert bundle.manifest.model("b").unused == ("x",)
    for inputs in (X, {"a": X}, {"a": X, "b": X[:1]}):
        for models in (None, "b"):
            assert_close(bundle.run(inputs, models)["b"]["y"], np.tanh(X))
    with pytest.raises(DataError, match="input 'x' of model 'b' has shape"):
        bundle.run({"a": X, "b": X[0]})


HOLDING = """<ir_version: 8, opset_import: ["" : 18]>
g (seq(float[3]) s, optional(float[3]) o) => (float[3] y, bool h)
<int64 first = {0}> { y = SequenceAt(s, first)  h = OptionalHasElement(o) }"""


def test_sequences_and_optional_values_are_taken(tmp_path: Path) -> None:
    bundle = load(bundled(tmp_path, joined(a=HOLDING)))
    told = [spec.dtype for spec in bundle.manifest.model("a").inputs]
    assert told == ["sequence(float32)", "optional(float32)"]
    for value, there in ((None, False), (X[0], True)):
        found = bundle.run({"s": [X[0], X[1]], "o": value})
        assert_close(found["a"]["y"], X[0])
        assert bool(found["a"]["h"]) == there
    with pytest.raises(DataError, match=r"input 's' of model 'a' is ndarray, needs a sequence"):
        bundle.run({"s": X, "o": None})
    with pytest.raises(DataError, match=r"item 1 of input 's' of model 'a' has dtype int64"):
        bundle.run({"s": [X[0], INDEX], "o": None})
    with pytest.raises(DataError, match="no array for input 'o'"):
        bundle.run({"s": [X[0]]})


def test_a_map_is_a_mapping() -> None:
    spec = TensorSpec("m", "a/m", "map(object,float32)", None)
    assert check({"a": 1.0}, spec, "input 'm'") == {"a": 1.0}  # pyright: ignore
    with pytest.raises(DataError, match=r"input 'm' is list, needs a map"):
        check([1.0], spec, "input 'm'")


def test_a_default_stands_where_nothing_is_given(tmp_path: Path) -> None:
    model = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3] x, float k) => (float[N,3] y) <float k = {2}> { y = Mul(x, k) }"""
    bundle = load(bundled(tmp_path, joined(a=model, b=PLAIN)))
    k = np.array(5, np.float32)
    for models in (None, "a"):
        assert_close(bundle.run({"a": X, "b": X}, models)["a"]["y"], X * 2)
        assert_close(bundle.run({"a": {"x": X, "k": k}, "b": X}, models)["a"]["y"], X * 5)
    with pytest.raises(DataError, match="input 'k' of model 'a' has shape"):
        bundle.run({"a": {"x": X, "k": X}, "b": X})


def any_size() -> Manifest:
    inputs = (
        TensorSpec("x", "x", "float32", ("N", 3, "H", "W")),
        TensorSpec("w", "a/w", "float32", ("N", 2)),
    )
    source = SourceFile("a.onnx", "0" * 64, 1)
    outputs = (TensorSpec("y", "a/y", "float32", None),)
    return Manifest(repsimc="0", models=(ModelEntry("a", source, inputs, outputs),), files={})


def test_sizes_to_try_a_bundle_with() -> None:
    manifest = any_size()
    with pytest.raises(UsageError, match="input 'x' of model 'a' may have any size"):
        sizes_of_inputs(manifest)
    for name in ("x", "a.x", "a/x"):
        found = sizes_of_inputs(manifest, {name: (2, 3, 8, 4)})
        assert found == {"x": (2, 3, 8, 4), "a/w": (1, 2)}
    assert sizes_of_inputs(manifest, {"H": 8, "W": 4})["x"] == (1, 3, 8, 4)
    compiled = replace(manifest, sizes={"x": (1, 3, 16, 16)})
    assert sizes_of_inputs(compiled)["x"] == (1, 3, 16, 16)
    assert sizes_of_inputs(compiled, {"x": (1, 3, 8, 4)})["x"] == (1, 3, 8, 4)
    with pytest.raises(UsageError, match="cannot be 1x4x8x8: it takes Nx3xHxW"):
        sizes_of_inputs(manifest, {"x": (1, 4, 8, 8)})
    with pytest.raises(UsageError, match="no input 'z'"):
        sizes_of_inputs(manifest, {"z": (1,)})
