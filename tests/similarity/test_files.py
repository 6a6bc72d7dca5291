"""What is written: JSON, matrices, annotated models; and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from repsimc.compiler.cli import main as cli
from repsimc.compiler.errors import ModelError, UsageError
from repsimc.compiler.similarity.compare import similarity
from repsimc.compiler.similarity.files import write_similarity
from tests.nets.networks import smooth_images

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command("a.onnx", ...)` gives the exit code, stdout and stderr of `repsimc similarity`."""
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["similarity", *(str(word) for word in words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_writes_everything(folder: Path, command: Command) -> None:
    a, b, out = folder / "a.onnx", folder / "b.onnx", folder / "out"
    frames = folder / "frames.npz"
    code, said, told = command(a, b, "--calib", frames, "--measure", "cka,r2", "-o", out)
    assert code == 0, told
    assert "a/s1" in said and "affine R2" in said and "written to" in said
    assert "96 frames are few" in told
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "similarity.json",
        "index.html",
        "a__b.npz",
        "a__b.cka.png",
        "a__b.r2.png",
        "models/a.onnx",
        "models/b.onnx",
    }
    value = json.loads((out / "similarity.json").read_text())
    assert value["schema"] == "repsimc.similarity/1" and value["mode"] == "exact"
    assert value["pairs"][0]["measures"]["cka"]["pairs"] == 16
    assert value["pairs"][0]["sites"]
    with np.load(out / "a__b.npz", allow_pickle=False) as matrices:
        assert matrices["layers_a"].tolist() == ["s1", "s2", "s3", "globalaveragepool6"]
        assert matrices["cka"].shape == matrices["cka.null"].shape == (4, 4)
        assert matrices["r2.applicable"].dtype == bool


def test_an_analysis_is_replaced_only_when_asked(folder: Path, command: Command) -> None:
    call = [folder / "a.onnx", "--calib", folder / "frames.npz", "-o", folder / "out"]
    assert command(*call)[0] == 0
    code, _, told = command(*call)
    assert code == 2 and "--overwrite" in told
    (folder / "out" / "mine.txt").write_text("keep me")
    code = command(*call, "--measure", "rsa", "--overwrite")[0]
    assert code == 0
    assert (folder / "out" / "a__a.rsa.png").exists()
    assert not (folder / "out" / "a__a.cka.png").exists()  # of the analysis before
    assert (folder / "out" / "mine.txt").read_text() == "keep me"
    code, _, told = command(folder / "a.onnx", "--calib", folder / "frames.npz", "-o", folder)
    assert code == 2 and "holds other files" in told


def test_a_list_of_files_cannot_reach_outside(folder: Path) -> None:
    victim = folder / "victim.txt"
    victim.write_text("mine")
    found = similarity([folder / "a.onnx"], folder / "frames.npz")
    write_similarity(found, folder / "out")
    path = folder / "out" / "similarity.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"files": ["../victim.txt", str(victim), 3]}))
    write_similarity(found, folder / "out", overwrite=True)
    assert victim.read_text() == "mine"


def test_json_and_options_of_the_command(folder: Path, command: Command) -> None:
    a, frames = folder / "a.onnx", folder / "frames.npz"
    code, said, _ = command(
        a,
        f"--name=net={a}",
        "--calib",
        frames,
        "--frames",
        40,
        "--sketch",
        "--format",
        "json",
        "-q",
    )
    assert code == 0
    value = json.loads(said)
    assert (value["frames"], value["mode"], value["models"][0]["name"]) == (40, "sketch", "net")
    code, said, told = command(a, "--calib", frames, "--measure", "cka,nonsense")
    assert code == 2 and "no measure 'nonsense'" in told and not said
    code, _, told = command(a)
    assert code == 2 and "--calib" in told
    code, _, told = command(folder / "missing.onnx", "--calib", frames)
    assert code == 3


def test_options_may_come_from_a_file(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "repsimc.toml").write_text(
        'models = ["a.onnx", "b.onnx"]\ncalib = "frames.npz"\nframes = 50\nseed = 3\n'
    )
    code, said, told = command("--format", "json")
    assert code == 0, told
    value = json.loads(said)
    assert (value["frames"], value["seed"], len(value["models"])) == (50, 3, 2)


# -- annotated models ------------------------------------------------------------------------


def test_annotated_models_compute_the_same_and_say_more(folder: Path) -> None:
    found = similarity([folder / "a.onnx", folder / "b.onnx"], folder / "frames.npz")
    before = (folder / "a.onnx").read_bytes()
    write_similarity(found, folder / "out", {name: folder / f"{name}.onnx" for name in "ab"})
    assert (folder / "a.onnx").read_bytes() == before
    proto = onnx.load(folder / "out" / "models" / "a.onnx")
    onnx.checker.check_model(proto, full_check=True)
    [node] = [node for node in proto.graph.node if "s1" in node.output]
    notes = {entry.key: entry.value for entry in node.metadata_props}
    assert notes["repsimc.similarity_to"] == "b/s1"
    assert re.fullmatch(r"cka [01]\.\d{4} to b/s1", notes["repsimc.similarity"])
    assert {
        "repsimc.similarity_null",
        "repsimc.affine_r2",
        "repsimc.activation_entropy",
        "repsimc.intrinsic_dimension",
    } <= set(notes)
    [plain] = [node for node in proto.graph.node if "c1" in node.output]
    assert not plain.metadata_props
    frames = {"x": smooth_images(4)}
    outputs = [
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, frames)
        for path in (str(folder / "a.onnx"), str(folder / "out" / "models" / "a.onnx"))
    ]
    np.testing.assert_array_equal(*(each[0] for each in outputs))


def test_annotating_twice_does_not_pile_up(folder: Path) -> None:
    found = similarity([folder / "a.onnx"], folder / "frames.npz", measures=("cka",))
    write_similarity(found, folder / "one", {"a": folder / "a.onnx"})
    write_similarity(found, folder / "two", {"a": folder / "one" / "models" / "a.onnx"})
    files = [(folder / place / "models" / "a.onnx").read_bytes() for place in ("one", "two")]
    assert files[0] == files[1]


def test_external_data_comes_along(folder: Path) -> None:
    where = folder / "large"
    where.mkdir()
    onnx.save(
        onnx.load(folder / "a.onnx"),
        where / "a.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    found = similarity([where / "a.onnx"], folder / "frames.npz")
    write_similarity(found, folder / "out", {"a": where / "a.onnx"})
    copy = folder / "out" / "models" / "a" / "a.onnx"
    assert (copy.parent / "weights.bin").read_bytes() == (where / "weights.bin").read_bytes()
    ort.InferenceSession(str(copy), providers=["CPUExecutionProvider"])


def test_external_data_outside_is_not_copied(folder: Path) -> None:
    (folder / "secret.bin").write_bytes(b"\0" * 4096)
    where = folder / "models"
    where.mkdir()
    proto = onnx.load(folder / "a.onnx")
    found = similarity([folder / "a.onnx"], folder / "frames.npz")
    tensor = proto.graph.initializer.add(name="unused", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (where / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        write_similarity(found, folder / "out", {"a": where / "a.onnx"})


def test_names_that_become_one_file_name(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)).astype("f4")
    found = similarity({"a b": x, "a_b": x, "c": x})
    written = write_similarity(found, tmp_path / "out")
    assert len({*written}) == len(written) == 3 * 2 + 2
    with pytest.raises(UsageError, match="exists"):
        write_similarity(found, tmp_path / "out")
