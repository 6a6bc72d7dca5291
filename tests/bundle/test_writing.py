from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.bundle import writing as writer
from repsimc.compiler.bundle.writing import BundleContents, check_output, write_bundle
from repsimc.compiler.cli.shell import Stopped
from repsimc.compiler.errors import ModelError, UsageError
from repsimc.runtime import placing
from repsimc.runtime.manifest import TensorSpec
from repsimc.runtime.session import load
from tests.nets.few_bits import Storing, per_block, per_channel, put
from tests.programs import assert_close, joined, run
from tests.runtime.bundles import NEGATIVE, bundled, tied_pair, trunk_and_pick

X = np.float32([[1, 2, 3]])


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- what is written ---------------------------------------------------------------------


def test_the_manifest_tells_models_tensors_files_and_figures(tmp_path: Path) -> None:
    fidelity = {"pick": [{"output": "y", "metric": "top-1 agreement", "value": 1.0, "frames": 9}]}
    path = bundled(
        tmp_path,
        trunk_and_pick(),
        plan={"b": 1, "a": [2]},
        report={"models": []},
        memory={"merged_nbytes": 77},
        fidelity=fidelity,
    )
    manifest = load(path).manifest
    trunk, pick = manifest.models
    assert trunk.inputs == (
        TensorSpec("x", "x", "float32", ("N", 3)),
        TensorSpec("extra", "trunk/extra", "float32", ("N", 3)),
    )
    assert [spec.value for spec in trunk.outputs] == ["trunk/y", "trunk/z"]
    assert pick.inputs[1] == TensorSpec("index", "pick/index", "int64", ("K",))
    assert pick.needs == ()
    assert (pick.source.file, pick.source.path) == ("pick.onnx", "")
    assert pick.fidelity == tuple(fidelity["pick"])
    assert manifest.memory == {"merged_nbytes": 77}
    assert json.loads((path / "plan.json").read_text()) == {"b": 1, "a": [2]}
    written = content(path)
    assert set(written) == {*manifest.files, "manifest.json"}
    for name, entry in manifest.files.items():
        assert entry.nbytes == len(written[name])
        assert entry.sha256 == hashlib.sha256(written[name]).hexdigest()


def test_the_graph_passes_the_checker_and_nodes_say_where_they_come_from(tmp_path: Path) -> None:
    model = onnx.load(bundled(tmp_path, trunk_and_pick()) / "merged.onnx")
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        assert {entry.key for entry in node.metadata_props} >= {"repsimc.source"}


DENSE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 2] y)
<float[4, 2] w = {1,2,-3,4,5,-6,7,8}, int64[1] axes = {1}>
{
  t = MatMul (x, w)
  m = ReduceMean <axes = [1], keepdims = 1> (t)
  y = Sub (t, m)
}
"""
ROW = np.float32([[1, -2, 3, 4]])


@pytest.mark.parametrize(
    ("storing", "opset"),
    [(per_channel(8, 1), 17), (per_channel(4, 1), 21), (per_block(8, 0, 2), 21)],
    ids=["8 bits", "4 bits", "blocks"],
)
def test_weights_in_few_bits_raise_the_opset_only_where_it_cannot_say_them(
    tmp_path: Path, storing: Storing, opset: int
) -> None:
    program = joined(a=DENSE)
    weight = put(program, "a/w", storing)
    contents: list[dict[str, bytes]] = []
    for _ in range(2):
        path = bundled(tmp_path, program, overwrite=True, precision="fp16")
        contents.append(content(path))
    assert contents[0] == contents[1]
    assert program.graph.opset == 17
    for name in ("merged.onnx", "half.onnx"):
        model = onnx.load(path / name)
        onnx.checker.check_model(model, full_check=True)
        assert (model.opset_import[0].version, model.ir_version) == (opset, 10)
        assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 1
    bundle = load(path)
    assert bundle.manifest.quantised
    # Since opset 18 the axes of ReduceMean are a constant.
    axes_nbytes = 8 if opset > 17 else 0
    assert bundle.manifest.segments[0].weights_nbytes == weight.nbytes + axes_nbytes
    found = bundle.session().run({"a": {"x": ROW}})["a"]["y"]
    assert_close(found, run(program, {"a/x": ROW})["a/y"])


def test_a_model_that_cannot_be_raised_is_named(tmp_path: Path) -> None:
    program = joined(
        a="""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N, 4] x) => (float[N, 1] y) <float[4, 2] w = {1,2,-3,4,5,-6,7,8}>
        { t = MatMul (x, w)  y = own.mean <over = [1]> (t) }
        <domain: "own", opset_import: ["" : 17]>
        mean <over> (t) => (m) { m = ReduceMean <axes: ints = @over> (t) }
        """
    )
    put(program, "a/w", per_channel(8, 1))
    assert load(bundled(tmp_path / "eight", program)).manifest.quantised
    put(program, "a/w", per_channel(4, 1))
    with pytest.raises(
        ModelError, match=r"function 'mean' .* cannot be raised from opset 17 to 21"
    ):
        bundled(tmp_path / "four", program)
    assert list((tmp_path / "four").iterdir()) == []


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    program = trunk_and_pick()
    first = content(bundled(tmp_path, program))
    second = content(bundled(tmp_path, trunk_and_pick(), overwrite=True))
    assert first == second


def test_figures_that_are_no_json_are_a_fault_and_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        bundled(tmp_path, tied_pair(), report={"value": float("nan")})
    assert names(tmp_path) == []


# -- where it is written -----------------------------------------------------------------


def test_parents_are_made_and_an_empty_folder_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "some" / "where"
    write_bundle(target, BundleContents(tied_pair(), {}, {}))
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", BundleContents(tied_pair(), {}, {}))
    assert names(target) == names(tmp_path / "empty")


def test_an_existing_bundle_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    before = content(path)
    with pytest.raises(UsageError, match="bundle exists") as caught:
        bundled(tmp_path, joined(c=NEGATIVE))
    assert caught.value.exit_code == 2
    assert content(path) == before
    bundled(tmp_path, joined(c=NEGATIVE), overwrite=True)
    assert load(path).models == ("c",)
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("manifest", [None, "{}", '{"schema": "other/1"}'])
def test_a_foreign_folder_is_never_replaced(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (tmp_path / "bundle" / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="is not a repsimc bundle"):
        bundled(tmp_path, tied_pair(), overwrite=True)
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "years of work"


def test_what_is_left_of_a_bundle_without_its_manifest_may_be_replaced(tmp_path: Path) -> None:
    # Ninja removes the outputs of a step that it interrupts.
    path = bundled(tmp_path, tied_pair(), report={"schema": "repsimc.report/1"})
    (path / "manifest.json").unlink()
    (path / "merged.onnx").unlink()
    with pytest.raises(UsageError, match="bundle exists") as caught:
        check_output(path, overwrite=False)
    assert "may be replaced" in caught.value.hint
    (path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not a repsimc bundle"):
        check_output(path, overwrite=True)
    (path / "notes.txt").unlink()
    bundled(tmp_path, joined(c=NEGATIVE), overwrite=True, report={"schema": "another"})
    assert load(path).models == ("c",)
    (path / "manifest.json").unlink()
    with pytest.raises(UsageError, match="is not a repsimc bundle"):
        check_output(path, overwrite=True)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        check_output(tmp_path / "bundle", overwrite=True)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_the_new_takes_the_place_of_the_old_with_and_without_renameat2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    if not in_one_step:
        monkeypatch.setattr(placing, "exchange", lambda *_: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux swaps folders in one step")
    else:
        monkeypatch.setattr(Path, "rename", None)  # the other way must not be needed
    path = tmp_path / "bundle"
    for program in (tied_pair(), joined(c=NEGATIVE)):
        write_bundle(path, BundleContents(program, {}, {}), overwrite=True)
    assert load(path).models == ("c",)
    assert names(tmp_path) == ["bundle"]


def test_if_the_new_cannot_take_its_place_the_old_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(tmp_path, tied_pair())
    monkeypatch.setattr(placing, "exchange", lambda *_: False)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == path and not self.name.endswith("-old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UsageError, match="Input/output error"):
        bundled(tmp_path, joined(c=NEGATIVE), overwrite=True)
    assert load(path).models == ("a", "b")
    assert names(tmp_path) == ["bundle"]


# -- when it goes wrong half way ---------------------------------------------------------

CHILD = """
import resource, sys, time
from pathlib import Path
from repsimc.compiler.bundle import writing as writer
from repsimc.compiler.errors import RepsimcError
from tests.programs import joined
from tests.runtime.bundles import NEGATIVE, bundled

folder, how = Path(sys.argv[1]), sys.argv[2]
if how == "slow":
    def stop(name):
        def stopped(*_):
            print("half way", flush=True)
            time.sleep(600)
        setattr(writer, name, stopped)
    stop(sys.argv[3])
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    bundled(folder, joined(c=NEGATIVE), overwrite=True)
except RepsimcError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("step", ["write_model", "_check_model", "put_in_place"])
def test_kill_half_way_leaves_the_old_bundle_and_the_next_write_cleans_up(
    tmp_path: Path, step: str
) -> None:
    path = bundled(tmp_path, tied_pair())
    before = content(path)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "slow", step],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "half way\n"
    bundled(tmp_path, tied_pair(), overwrite=True)  # must not touch what is being written
    assert len(names(tmp_path)) == 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert content(path) == before
    assert_close(load(path).session().run(X)["b"]["y"], -X)
    assert len(names(tmp_path)) == 2
    foreign = tmp_path / f".bundle.partial-{child.pid}-mine"
    foreign.mkdir()
    (foreign / "note.txt").write_text("not yours")
    bundled(tmp_path, tied_pair(), overwrite=True)
    assert names(tmp_path) == [foreign.name, "bundle"]


@pytest.mark.parametrize("step", ["write_model", "_check_model", "put_in_place"])
def test_a_signal_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(tmp_path, tied_pair())
    before = content(path)

    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(writer, step, stopped)
    with pytest.raises(Stopped):
        bundled(tmp_path, joined(c=NEGATIVE), overwrite=True)
    assert content(path) == before
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("limit", [10, 800], ids=["in the graph", "in the manifest"])
def test_a_full_disk_leaves_the_old_bundle(tmp_path: Path, limit: int) -> None:
    path = bundled(tmp_path, tied_pair())
    before = content(path)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), "full", str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written: File too large" in done.stdout
    assert content(path) == before
    assert names(tmp_path) == ["bundle"]


def test_a_bundle_left_aside_by_a_killed_write_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(tmp_path, tied_pair())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.rename(tmp_path / f".bundle.partial-{dead.pid}-0-old")
    monkeypatch.setattr(writer, "write_model", full_disk)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        bundled(tmp_path, joined(c=NEGATIVE), overwrite=True)
    # The new one failed; the old one is back in its place nevertheless.
    assert load(path).models == ("a", "b")


def full_disk(*_: object) -> list[Path]:
    raise OSError(28, "No space left on device")
