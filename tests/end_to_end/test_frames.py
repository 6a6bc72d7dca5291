"""Whole compilations on frames of several sizes, and of models with states and fixed batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.bundle.verification import verify_bundle
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import DataError
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.session import load
from tests.end_to_end.conftest import save_all
from tests.nets.networks import Net, smooth_images
from tests.programs import assert_close, model_of_text, run


def compiled(folder: Path, **options: object) -> CompileResult:
    """The models of a folder, compiled into its bundle/."""
    models = tuple((path.stem, path) for path in sorted(folder.glob("*.onnx")))
    return compile_models(
        CompileOptions(models=models, output=folder / "bundle", **options)  # type: ignore[arg-type]
    )


def detector(seed: int) -> onnx.ModelProto:
    net = Net(0)
    x = net.relu(net.conv("x", 3, 6, strides=[2, 2]))
    x = net.relu(net.conv(x, 6, 6))
    net.random = np.random.default_rng(seed)
    net.conv(x, 6, 2, out="y")
    return net.model(x=("N", 3, "H", "W"))


def test_frames_of_several_sizes(tmp_path: Path) -> None:
    save_all(tmp_path, {"a": detector(1), "b": detector(2)})
    frames = tmp_path / "frames"
    frames.mkdir()
    sizes = (8, 12, 8, 16)
    for index, size in enumerate(sizes):
        np.savez(frames / f"{index}.npz", x=smooth_images(12, size=size, seed=index))
    report = compiled(tmp_path, calibration=frames).report
    assert report.ties == ("a.x = b.x (the same frames)",)
    for model in report.models:
        (output,) = model.fidelity
        assert (output.value, output.frames) == (1.0, 12)
    assert report.macs_after < report.macs_before
    bundle = load(tmp_path / "bundle")
    x = np.random.default_rng(0).normal(size=(3, 3, 10, 6)).astype(np.float32)
    found = bundle.run(x)
    for name in "ab":
        wanted = run(tmp_path / f"{name}.onnx", {"x": x})["y"]
        assert_close(found[name]["y"], wanted, 1e-4, 1e-5)
    checked = verify_bundle(bundle, frames)
    assert [(each.fidelity.value, each.fidelity.frames) for each in checked] == [(1.0, 48)] * 2


STREAMING = """<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 4] x, float[2, batch, 3] state, int64 rate)
  => (float[batch, 3] y, float[2, batch, 3] stateN)
<float[4, 3] w = {%s}, float[3, 3] r = {1, -1, 1, 2, 0, 1, 1, 1, 3}> {
  f = Cast<to=1> (rate)
  a = MatMul (x, w)
  b = MatMul (state, r)
  c = Add (a, b)
  d = Mul (c, f)
  stateN = Tanh (d)
  y = ReduceMean<axes = [0], keepdims = 0> (stateN)
}"""


@pytest.mark.parametrize("moving", [False, True])
def test_states_and_scalars(tmp_path: Path, moving: bool) -> None:
    weights = [", ".join(map(str, range(first, first + 12))) for first in (-5, -4)]
    save_all(tmp_path, {n: model_of_text(STREAMING % w) for n, w in zip("ab", weights)})
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 4)).astype(np.float32)
    given = {"x": x, "rate": np.array(2)}
    if moving:
        given["state"] = random.normal(size=(2, 40, 3)).astype(np.float32)
    np.savez(tmp_path / "frames.npz", **given)
    report = compiled(tmp_path, calibration=tmp_path / "frames.npz").report
    assert report.ties == ("a.x = b.x (the same frames)", "a.rate = b.rate (the same frames)")
    still = [note for note in report.notes if note.startswith("states were the same")]
    assert bool(still) != moving
    if still:
        assert "a.state (left out: zeros), b.state (left out: zeros)" in still[0]
    # What frames hold still is not folded away: another state and rate give what the files give.
    fed = {"x": x[:5], "rate": np.array(3)}
    states = {name: random.normal(size=(2, 5, 3)).astype(np.float32) for name in "ab"}
    inputs = {name: {**fed, "state": states[name]} for name in "ab"}
    bundle = load(tmp_path / "bundle")
    found = bundle.run(inputs)
    for name in "ab":
        wanted = run(tmp_path / f"{name}.onnx", inputs[name])
        for own, array in wanted.items():
            assert_close(found[name][own], array, 1e-4, 1e-5)
    checked = verify_bundle(bundle, tmp_path / "frames.npz")
    assert {each.fidelity.value for each in checked} == {1.0}


CLASSIFIER = """<ir_version: 8, opset_import: ["" : 17]>
g (float[%s, 4] x) => (float[%s, 3] y)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, -1, 2, -3, 4, -5, 6, -7, 8},
 float[4, 3] v = {%s}> {
  h = MatMul (x, w)
  r = Relu (h)
  y = MatMul (r, v)
}"""


@pytest.mark.parametrize("tie", [(), ("a.x=b.x",)])
def test_a_free_batch_is_lost_only_where_that_is_asked_for(tmp_path: Path, tie: tuple[str]) -> None:
    heads = [", ".join(map(str, np.random.default_rng(s).normal(size=12))) for s in range(2)]
    batches = ("N", "1")
    texts = [CLASSIFIER % (n, n, head) for n, head in zip(batches, heads)]
    save_all(tmp_path, {name: model_of_text(text) for name, text in zip("ab", texts)})
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "frames.npy", x)
    result = compiled(tmp_path, calibration=tmp_path / "frames.npy", tie=tie, min_fidelity=0.5)
    bundle = load(tmp_path / "bundle")
    wanted = {n: run(tmp_path / f"{n}.onnx", {"x": x[:1]})["y"] for n in "ab"}
    for name in "ab":
        found = bundle.run({"a": {"x": x[:1]}, "b": {"x": x[:1]}})[name]["y"]
        assert_close(found, wanted[name], 1e-4, 1e-4)
    if tie:
        assert result.report.ties == ("a.x = b.x (--tie)",)
        with pytest.raises(DataError):
            bundle.run({"a": {"x": x[:5]}}, ["a"])
        return
    assert result.report.ties == ()
    notes = "\n".join(result.report.notes)
    assert "a.x and b.x stay apart, though the same frames feed them" in notes
    assert "a is left alone: it takes any size or batch and the others a fixed one" in notes
    alone = bundle.run({"a": {"x": x[:5]}}, ["a"])["a"]["y"]
    assert_close(alone, run(tmp_path / "a.onnx", {"x": x[:5]})["y"], 1e-4, 1e-4)
