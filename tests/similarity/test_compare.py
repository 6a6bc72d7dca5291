"""The analysis from files and arrays to a result: matches, warnings, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.errors import DataError, UsageError
from repsimc.compiler.similarity.compare import similarity
from repsimc.compiler.similarity.report import similarity_grid
from tests.nets.networks import Net, smooth_images, tokens_net
from tests.programs import model_of_text


def paths(folder: Path, *names: str) -> list[Path]:
    return [folder / f"{name}.onnx" for name in names]


def test_a_noisy_copy_is_most_like_its_original(folder: Path) -> None:
    found = similarity(paths(folder, "a", "b"), folder / "frames.npz")
    values = found.matrix("a", "b")
    assert (np.diag(values) > 0.9).all()
    like = [match.like_layer for match in found.matches if match.model == "b"]
    assert like[:2] == ["s1", "s2"]
    # Pooled, the last map and the mean over it are the same thing.
    assert set(like[2:]) <= {"s3", "globalaveragepool6"}
    best = found.best(1)[0]
    assert best.r2 > 0.9 > abs(best.null) and best.value > 0.9 and best.spread < 0.1


def test_a_model_beside_itself_under_another_name(folder: Path) -> None:
    found = similarity(
        [folder / "a.onnx", folder / "a.onnx"],
        folder / "frames.npz",
        names={"one": folder / "a.onnx", "two": folder / "a.onnx"}.copy(),
    )
    np.testing.assert_allclose(np.diag(found.matrix("one", "two")), 1, atol=1e-9)


def test_sites_of_the_planner_are_marked(folder: Path) -> None:
    found = similarity(paths(folder, "a", "b"), folder / "frames.npz", sites=True)
    marks = found.pairs[0].sites
    assert marks and all(mark.r2 > 0.2 for mark in marks)
    told = found.to_json()["pairs"][0]["sites"]
    assert {site["donor"] for site in told} <= {"a", "b"}
    again = similarity(paths(folder, "a", "b"), folder / "frames.npz", sites=True)
    assert again.pairs[0].sites == marks


def test_tokens(tmp_path: Path) -> None:
    onnx.save(tokens_net(0), tmp_path / "t.onnx")
    onnx.save(tokens_net(1), tmp_path / "u.onnx")
    frames = np.random.default_rng(0).normal(size=(80, 6, 10)).astype("f4")
    found = similarity(paths(tmp_path, "t", "u"), frames, measures=("cka", "r2", "cosine"))
    assert np.isfinite(found.matrix("t", "u")).all()


# -- arrays ----------------------------------------------------------------------------------


def test_plain_arrays() -> None:
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("f4")
    one = similarity({"p": x, "q": x @ np.eye(6, 4, dtype="f4")}, measures=("cka", "r2"))
    assert 0.3 < one.matrix("p", "q")[0, 0] < 1
    assert one.matrix("p", "q", "r2")[0, 0] == pytest.approx(1, abs=1e-4)
    two = similarity({"m": {"first": x, "second": smooth_images(64)}})
    assert two.layers("m") == ("first", "second")
    assert [(pair.a, pair.b) for pair in two.pairs] == [("m", "m")]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no arrays"),
        ({"a": np.zeros((9, 3), int)}, "int64"),
        ({"a": np.zeros(9)}, r"\[9\]"),
        ({"a": {"p": np.zeros((9, 2)), "q": np.zeros((8, 2))}}, "8 frames, others have 9"),
        ({"a": np.zeros((9, 2)), "b": np.zeros((8, 2))}, "different numbers of frames"),
        ({"a": np.zeros((1, 2))}, "1 frames tell nothing"),
        ({"a": [1.0, 2.0]}, "list"),
    ],
)
def test_bad_arrays(arrays: Any, message: str) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        similarity(arrays)


# -- bad input -------------------------------------------------------------------------------


def test_a_single_frame_tells_nothing(folder: Path) -> None:
    with pytest.raises(DataError, match="1 frames for model 'a' tell nothing"):
        similarity(paths(folder, "a", "b"), smooth_images(1))


def test_identical_frames_are_undefined_not_an_error(folder: Path) -> None:
    frames = np.repeat(smooth_images(1), 40, axis=0)
    found = similarity(paths(folder, "a", "b"), frames, measures=("cka", "rsa", "cka-minibatch"))
    assert any("all frames are the same" in warning for warning in found.warnings)
    for name in found.measures:
        assert np.isnan(found.matrix("a", "b", name)).all()
    assert found.best() == ()
    told = found.to_json()
    assert told["matches"][0]["value"] == "undefined"
    json.dumps(told, allow_nan=False)
    assert "8 layers have no match" in " ".join(similarity_grid(found).notes)


def test_warnings_about_frames(folder: Path) -> None:
    good = similarity([folder / "a.onnx"], smooth_images(256), measures=("cosine",))
    assert good.warnings == ()
    few = similarity([folder / "a.onnx"], smooth_images(30), measures=("cosine",))
    assert "30 frames are few" in few.warnings[0]
    half = smooth_images(256)
    half[:128] = half[128:]
    assert "copies" in str(similarity([folder / "a.onnx"], half, measures=("cosine",)).warnings)
    alike = smooth_images(1) + 1e-3 * smooth_images(256)
    assert "alike" in str(similarity([folder / "a.onnx"], alike, measures=("cosine",)).warnings)
    black = smooth_images(256)
    black[:64] = np.arange(64, dtype="f4")[:, None, None, None] / 1000
    assert "nearly constant" in str(
        similarity([folder / "a.onnx"], black, measures=("cosine",)).warnings
    )


def test_a_constant_layer_is_undefined(tmp_path: Path) -> None:
    net = Net(0)
    alive = net.relu(net.conv("x", 3, 4), out="alive")
    dead = net.relu(net.node("Sub", alive, net.weight(np.full((1, 1, 1, 1), 1e6))), out="dead")
    net.head(net.node("Add", dead, net.weight(np.ones((1, 1, 1, 1)))), 4, 3)
    onnx.save(net.model(x=("N", 3, 8, 8)), tmp_path / "m.onnx")
    found = similarity([tmp_path / "m.onnx"], smooth_images(40))
    layers = {report.layer.name: report for report in found.models["m"]}
    assert layers["dead"].statistics.constant and not layers["alive"].statistics.constant
    row = found.layers("m").index("dead")
    assert np.isnan(found.matrix("m", "m")[row]).all()
    alive = found.layers("m").index("alive")
    assert found.matrix("m", "m")[alive, alive] == 1


def test_integers_are_skipped_with_the_reason(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, L, 4] x) => (float[N, 4] y)
    <int64[1] one = {1}>
    { r = Relu (x)
      i = Cast <to = 7> (r)
      j = Add (i, one)
      f = Cast <to = 1> (j)
      y = ReduceMean <axes = [1], keepdims = 0> (f) }
    """
    onnx.save(model_of_text(text), tmp_path / "m.onnx")
    frames = np.random.default_rng(0).normal(size=(20, 3, 4)).astype("f4")
    found = similarity([tmp_path / "m.onnx"], frames)
    reasons = {each.layer: each.reason for each in found.skipped}
    assert reasons["j"] == "it holds int64, not floats"
    print(reasons, found.layers("m"))
    assert "skipped" in " ".join(similarity_grid(found).notes)


def test_a_layer_whose_frames_are_not_on_axis_0_is_skipped(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 6] x) => (float[N, 6] y)
    <int64[2] shape = {-1, 3}, int64[2] back = {-1, 6}>
    { a = Tanh (x)
      s = Reshape (a, shape)
      t = Relu (s)
      y = Reshape (t, back) }
    """
    onnx.save(model_of_text(text), tmp_path / "m.onnx")
    found = similarity(
        [tmp_path / "m.onnx"], np.random.default_rng(0).normal(size=(20, 6)).astype("f4")
    )
    assert found.layers("m") == ("a",)
    assert [(s.layer, s.reason) for s in found.skipped] == [
        ("t", "it gave [40, 3] for 20 frames of [3]")
    ]


def test_models_that_see_other_frames_are_not_compared(folder: Path) -> None:
    sets = {"a": {"x": smooth_images(40)}, "b": {"x": smooth_images(40, seed=1)}}
    with pytest.raises(DataError, match="no two models see the same frames"):
        similarity(paths(folder, "a", "b"), sets)  # type: ignore[arg-type]
    found = similarity(paths(folder, "a", "b"), sets, within=("a",))  # type: ignore[arg-type]
    assert "a and b are not compared" in found.notes[0]
    same = similarity(paths(folder, "a", "b"), sets, same_frames=True)  # type: ignore[arg-type]
    assert same.pairs


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"measures": ("cca",)}, "no measure 'cca'"),
        ({"measures": ()}, "no measure was asked"),
        ({"within": ("z",)}, "--within z names no model"),
        ({"calibration": None}, "there are none"),
        ({"models": []}, "no models given"),
    ],
)
def test_wrong_wishes(folder: Path, wishes: dict[str, Any], message: str) -> None:
    given = {"models": paths(folder, "a", "b"), "calibration": smooth_images(20)} | wishes
    with pytest.raises(UsageError, match=message):
        similarity(**given)
