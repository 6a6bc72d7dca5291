from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsimc
from repsimc.compiler.graph import export
from repsimc.compiler.graph.program import Program
from repsimc.runtime.errors import BackendError, DataError, ModelError, UsageError
from repsimc.runtime.manifest import TensorSpec
from repsimc.runtime.session import load
from tests.programs import assert_close, joined
from tests.runtime.bundles import PLAIN, bundled, in_child, share, tied_pair, trunk_and_pick

X = np.float32([[1, 2, 3], [4, 5, 6]])
EXTRA = np.ones((2, 3), np.float32)
INDEX = np.int64([2, 0])
T = X * np.float32([1, -2, 3])


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("tied"), tied_pair())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trunk: x, extra -> y, z;  pick: x, index -> y;  both read one x."""
    return bundled(tmp_path_factory.mktemp("shared"), trunk_and_pick())


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("untied"), trunk_and_pick(tied=False))


# -- what run takes and gives ------------------------------------------------------------


def test_one_array_feeds_tied_models(tied: Path) -> None:
    bundle = repsimc.load(tied)
    assert bundle.models == ("a", "b")
    found = bundle.run(X)
    assert set(found) == {"a", "b"}
    assert_close(found["a"]["y"], np.tanh(X))
    assert_close(found["b"]["y"], -X)


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
    from repsimc.runtime.feeds import check

    spec = TensorSpec("x", "x", "float32", ("N", 3, 8, 8))
    with pytest.raises(DataError, match="transpose"):
        check(np.zeros((1, 8, 8, 3), np.float32), spec, "x")


def test_an_unknown_model_is_named_with_the_nearest(shared: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'trunk'"):
        load(shared).session().run(X, models=["trnk"])
    with pytest.raises(UsageError, match="no model was asked for"):
        load(shared).session().run(X, models=[])


# -- some of the models ------------------------------------------------------------------


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


def test_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(program: Program, folder: Path, stem: str) -> list[Path]:
        return export.write_model(program, folder, stem, inline_limit_nbytes=0)

    monkeypatch.setattr("repsimc.compiler.bundle.writing.write_model", outside)
    path = bundled(tmp_path, trunk_and_pick())
    assert "merged.onnx.data" in load(path).manifest.files
    frame = {"x": X, "extra": EXTRA, "index": INDEX}
    for models in (None, "trunk"):  # whole, then in parts
        assert_close(load(path).session().run(frame, models)["trunk"]["z"], T + 1)


def test_a_graph_that_cannot_be_cut_runs_whole(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repsimc.runtime.wire.GraphFile.parts", lambda *_: None)
    session = load(shared).session()
    frame = {"x": X, "extra": EXTRA, "index": INDEX}
    assert list(session.run(frame, "trunk")) == ["trunk"]
    with pytest.raises(DataError, match="no array for input 'index'"):
        session.run({"x": X, "extra": EXTRA}, "trunk")


# -- opening and closing -----------------------------------------------------------------


def test_a_closed_session_says_so(tied: Path) -> None:
    with load(tied).session() as session:
        session.run(X)
    with pytest.raises(UsageError, match="closed"):
        session.run(X)
    with pytest.raises(UsageError, match="closed"):
        session.run(X, "a")


def test_an_unknown_backend_and_no_threads_are_refused(tied: Path) -> None:
    with pytest.raises(UsageError, match="no backend 'tensorflow'"):
        load(tied).session(backend="tensorflow")
    with pytest.raises(UsageError, match="0 threads"):
        load(tied).session(threads=0)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no manifest\.json"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is not text"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["merged.onnx", "plan.json"])
def test_changed_bytes_are_refused(tmp_path: Path, name: str) -> None:
    path = bundled(tmp_path, tied_pair())
    content = bytearray((path / name).read_bytes())
    content[-2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"file '{name}' .* sha256 differs"):
        load(path).session()


def test_hashes_can_be_trusted(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    (path / "plan.json").write_text("{ }")
    assert_close(load(path).session(verify_hashes=False).run(X)["b"]["y"], -X)


def test_a_missing_or_longer_file_is_refused(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    with (path / "report.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=r"report\.json.* bytes, not"):
        load(path).session()
    (path / "report.json").unlink()
    with pytest.raises(ModelError, match=r"report\.json.* is missing"):
        load(path).session()


def test_a_file_that_is_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    (path / "plan.json").rename(tmp_path / "outside.json")
    (path / "plan.json").symlink_to("../outside.json")
    with pytest.raises(ModelError, match="leads out of its folder"):
        load(path).session()


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


def test_weights_outside_the_bundle_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(tmp_path, tied_pair())
    monkeypatch.setattr("repsimc.runtime.files.external_files", lambda _: ["../secret.bin"])
    with pytest.raises(ModelError, match=r"keeps weights in '\.\./secret\.bin'"):
        load(path).session()


def test_a_graph_that_onnxruntime_refuses(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    content = (path / "merged.onnx").read_bytes().replace(b"Tanh", b"Tahn")
    (path / "merged.onnx").write_bytes(content)
    with pytest.raises(BackendError, match="cannot open"):
        load(path).session(verify_hashes=False)


# -- what it imports ---------------------------------------------------------------------


def test_the_runtime_imports_neither_onnx_nor_torch_nor_the_compiler(tied: Path) -> None:
    done = in_child(
        """
import sys, numpy, repsimc
assert "onnxruntime" not in sys.modules
repsimc.load(sys.argv[1]).run(numpy.zeros((1, 3), numpy.float32), models="a")
unwanted = ("onnx", "torch", "onnx_graphsurgeon", "repsimc.compiler", "repsimc.passes")
print([name for name in unwanted if name in sys.modules])
""",
        tied,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_without_onnxruntime_the_error_says_what_to_install(
    tied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install .repsimc\[onnxruntime\]") as caught:
        load(tied).session()
    assert caught.value.exit_code == 6
