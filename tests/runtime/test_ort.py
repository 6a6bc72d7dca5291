"""The graph in ONNX Runtime: whole, in parts, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from repsimc.compiler.graph import export
from repsimc.compiler.graph.program import Program
from repsimc.passes.pipeline import run_exact
from repsimc.runtime.errors import BackendError, DataError, ModelError
from repsimc.runtime.session import load
from tests.nets.few_bits import Storing, per_block, per_channel, put
from tests.programs import assert_close, joined, model_of_text
from tests.runtime.bundles import (
    EXTRA,
    INDEX,
    NEGATIVE,
    T,
    X,
    bundled,
    tied_pair,
    trunk_and_pick,
)


def test_models_not_asked_for_are_not_computed_and_need_no_inputs(shared: Path) -> None:
    session = load(shared).session()
    broken = INDEX + 7  # makes `pick` fail
    frame = {"x": X, "extra": EXTRA, "index": broken}
    with pytest.raises(DataError):
        session.run(frame)
    found = session.run(frame, models=["trunk"])
    assert list(found) == ["trunk"]
    assert_close(found["trunk"]["z"], T + 1)
    assert_close(session.run({"x": X, "index": INDEX}, "pick")["pick"]["y"], T[:, INDEX])


def test_a_session_that_ran_one_model_still_runs_all_the_same(shared: Path) -> None:
    frame = {"x": X, "extra": EXTRA, "index": INDEX}
    before = load(shared).session().run(frame)
    session = load(shared).session()
    session.warm("pick")
    after = session.run(frame)
    for model, outputs in before.items():
        for name, array in outputs.items():
            assert_close(after[model][name], array)


def test_weights_are_held_once_when_the_graph_is_in_parts(shared: Path) -> None:
    session = load(shared).session()
    session.warm("pick")
    assert session._execution._whole is None
    assert [sorted(part.models) for part, _ in session._execution._parts or []] == [
        ["pick", "trunk"],
        ["pick"],
        ["trunk"],
    ]


def test_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(program: Program, folder: Path, stem: str) -> list[Path]:
        return export.write_model(program, folder, stem, inline_limit_nbytes=0)

    monkeypatch.setattr("repsimc.compiler.bundle.writing.write_model", outside)
    path = bundled(tmp_path, trunk_and_pick())
    assert "merged.onnx.data" in load(path).manifest.files
    frame = {"x": X, "extra": EXTRA, "index": INDEX}
    for models in (None, "trunk"):  # whole, then in parts
        assert_close(load(path).session().run(frame, models)["trunk"]["z"], T + 1)


LAYER = """
<ir_version: 8, opset_import: ["" : 21]>
g (float[N, 256] x) => (float[N, 256] y) { y = MatMul (x, w) }
"""


@pytest.mark.parametrize("storing", [per_channel(8, 1), per_block(4, 0, 32)], ids=["8", "4"])
@pytest.mark.parametrize("ask", [None, "a"], ids=["whole", "in parts"])
def test_weights_in_few_bits_are_multiplied_in_float32(
    tmp_path: Path, storing: Storing, ask: str | None
) -> None:
    model = model_of_text(LAYER)
    random = np.random.default_rng(0)
    weight = random.standard_normal((256, 256)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    program = joined([[("a", "x"), ("b", "x")]], a=model, b=NEGATIVE.replace("3", "256"))
    put(program, "a/w", storing)
    x = random.standard_normal((8, 256)).astype(np.float32)
    found = load(bundled(tmp_path, program)).session().run({"x": x}, ask)["a"]["y"]
    exact = x.astype(np.float64) @ program.weights()["a/w"].values.astype(np.float64)
    # With x in 8 bits, as ONNX Runtime has it by itself, it is off by some 0.2 of 50.
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_a_graph_that_cannot_be_cut_runs_whole(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repsimc.runtime.wire.GraphFile.parts", lambda *_, **__: None)
    session = load(shared).session()
    frame = {"x": X, "extra": EXTRA, "index": INDEX}
    assert list(session.run(frame, "trunk")) == ["trunk"]
    with pytest.raises(DataError, match="no array for input 'index'"):
        session.run({"x": X, "extra": EXTRA}, "trunk")


def test_parts_take_other_shapes_than_a_stale_file_tells(tmp_path: Path) -> None:
    program = trunk_and_pick()
    program.values()["trunk/t"].shape = (1, 3)
    program.values()["trunk/y"].shape = (7, 3)
    session = load(bundled(tmp_path, program)).session()
    frame = {"x": X, "extra": EXTRA, "index": INDEX}
    for models in (None, "pick", "trunk", None):  # whole, then in parts
        found = session.run(frame, models)
        for model, output, wanted in (("trunk", "z", T + EXTRA), ("pick", "y", T[:, INDEX])):
            if model in found:
                assert_close(found[model][output], wanted)


def test_lists_pass_from_one_part_to_another(tmp_path: Path) -> None:
    split = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,K] y)
        {{ one = Constant<value_int = 1>() s = SplitToSequence<axis=1>(x, one) {head} }}"""
    one = split.format(head="i = Constant<value_int = 2>() y = SequenceAt(s, i)")
    other = split.format(head="y = ConcatFromSequence<axis=1>(s)")
    program = joined([[("a", "x"), ("b", "x")]], a=one, b=other)
    run_exact(program)
    session = load(bundled(tmp_path, program)).session()
    assert_close(session.run(X, "a")["a"]["y"], X[:, 2:])
    assert_close(session.run(X)["b"]["y"], X)


def edited(path: Path, edit: Any) -> Path:
    data = json.loads((path / "manifest.json").read_text())
    edit(data)
    (path / "manifest.json").write_text(json.dumps(data))
    return path


def test_a_manifest_that_is_not_the_graphs_is_refused(tmp_path: Path) -> None:
    def rename(data: Any) -> None:
        data["models"][0]["outputs"][0]["value"] = "a/gone"

    with pytest.raises(ModelError, match="disagree about a/gone"):
        load(edited(bundled(tmp_path, tied_pair()), rename)).session()


def test_a_graph_that_onnxruntime_refuses(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    content = (path / "merged.onnx").read_bytes().replace(b"Tanh", b"Tahn")
    (path / "merged.onnx").write_bytes(content)
    with pytest.raises(BackendError, match="cannot open"):
        load(path).session(verify_hashes=False)


def test_without_onnxruntime_the_error_says_what_to_install(
    tied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install .repsimc\[onnxruntime\]") as caught:
        load(tied).session()
    assert caught.value.exit_code == 6
