"""`repsimc export`: commands and configurations that other tools read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import onnx
import pytest
from google.protobuf.text_encoding import CUnescape

from repsimc.compiler.bundle import other_builders
from repsimc.compiler.cli.main import main
from repsimc.compiler.frontends.join import join
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph import export as writer
from repsimc.runtime.files import file_entry
from tests.programs import joined, model_of_text
from tests.runtime.tensorrt.bundles import NET, bundle, pair

TWO_INPUTS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3] x, float[1, 3] z) => (float[1, 3] y) { y = Add (x, z) }
"""


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_trtexec_commands_have_shapes_and_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle(tmp_path, pair(NET))
    assert main(["export", str(path), "--trtexec", "--precision", "fp16", "--batch", "1:2:4"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words == [
        "trtexec",
        f"--onnx={path}/merged.onnx",
        "--saveEngine=bundle.plan",
        "--fp16",
        "--minShapes=x:1x1x4x4",
        "--optShapes=x:2x1x4x4",
        "--maxShapes=x:4x1x4x4",
    ]


def test_fixed_shapes_need_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(bundle(tmp_path)), "--trtexec"]) == 0
    assert "Shapes" not in capsys.readouterr().out


def test_a_triton_repository_has_an_engine_with_all_outputs(tmp_path: Path) -> None:
    target = tmp_path / "models"
    assert main(["export", str(bundle(tmp_path)), "--triton", str(target)]) == 0
    assert files(target) == {"build.sh", "engine0-a-b/config.pbtxt", "onnx/engine0-a-b.onnx"}
    assert (target / "engine0-a-b" / "1").is_dir()
    config = (target / "engine0-a-b" / "config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in config
    assert 'input { name: "x" data_type: TYPE_FP32 dims: [ 1, 1, 4, 4 ] }' in config
    assert 'output { name: "b/best" data_type: TYPE_INT64 dims: [ 1, 1 ] }' in config
    script = (target / "build.sh").read_text()
    assert "--onnx=onnx/engine0-a-b.onnx --saveEngine=engine0-a-b/1/model.plan" in script
    assert (target / "build.sh").stat().st_mode & 0o100


def test_trunk_heads_become_an_ensemble_per_model(tmp_path: Path) -> None:
    target = tmp_path / "models"
    words = ["--triton", str(target), "--layout", "trunk-heads"]
    assert main(["export", str(bundle(tmp_path)), *words]) == 0
    config = (target / "b" / "config.pbtxt").read_text()
    assert 'platform: "ensemble"' in config
    assert config.index('model_name: "engine0-a-b"') < config.index('model_name: "engine2-b"')
    assert "engine1-a" not in config
    assert 'output_map { key: "a/r" value: "a/r" }' in config
    for name in ("engine0-a-b", "engine1-a", "engine2-b"):
        onnx.checker.check_model(str(target / "onnx" / f"{name}.onnx"), full_check=True)


def test_weights_in_a_file_of_their_own_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outside(program: object, folder: Path, stem: str) -> list[Path]:
        return writer.write_model(program, folder, stem, inline_limit_nbytes=0)  # type: ignore[arg-type]

    monkeypatch.setattr("repsimc.compiler.bundle.writing.write_model", outside)
    program = pair(NET.replace("float[2, 1, 3, 3] w", "float[2, 1, 3, 3] w"))
    monkeypatch.setattr(writer, "SMALL_NBYTES", 8)
    path = bundle(tmp_path, program)
    assert (path / "merged.onnx.data").is_file()
    for layout in ("merged", "trunk-heads"):
        target = tmp_path / layout
        words = ["--triton", str(target), "--layout", layout, "--batch", "1"]
        assert main(["export", str(path), *words]) == 0
        for file in (target / "onnx").glob("*.onnx"):
            onnx.load(file)  # finds its weights


def test_deepstream_gets_one_input_and_raw_outputs(tmp_path: Path) -> None:
    target = tmp_path / "deepstream"
    words = ["--deepstream", str(target), "--precision", "fp16", "--batch", "4"]
    assert main(["export", str(bundle(tmp_path, pair(NET))), *words]) == 0
    text = (target / "config_infer.txt").read_text()
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert settings["network-mode"] == "2" and settings["batch-size"] == "4"
    assert settings["infer-dims"] == "1;4;4"
    assert settings["output-blob-names"] == "a/y;a/best;b/y;b/best"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say one thing to export"),
        (["--trtexec", "--triton", "x"], "say one thing to export"),
        (["--trtexec", "--layout", "trunk-heads"], "the parts of a trunk-heads layout are none"),
        (["--deepstream", "d", "--layout", "trunk-heads"], "a trunk cannot feed a head there"),
        (["--trtexec", "--batch", "4:1:2"], "not in order"),
        (["--trtexec", "--shape", "x"], "is no shape"),
        (["--trtexec", "--shape", "q=1x2"], "no model has an input 'q'"),
        (["--trtexec", "--layout", "rows"], "no layout 'rows'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(bundle(tmp_path)), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    path = str(bundle(tmp_path))
    assert main(["export", path, "--triton", str(tmp_path / "mine")]) == 2
    assert main(["export", path, "--deepstream", str(tmp_path / "mine")]) == 2
    assert files(tmp_path / "mine") == {"file"}


def test_deepstream_takes_one_image_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle(tmp_path, joined(a=TWO_INPUTS), references=None)
    assert main(["export", str(path), "--deepstream", str(tmp_path / "d")]) == 2
    assert "DeepStream feeds one input, and the bundle has 2" in capsys.readouterr().err


def test_a_changed_bundle_is_not_exported(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    (path / "merged.onnx").write_bytes((path / "merged.onnx").read_bytes()[:-1] + b"x")
    assert main(["export", str(path), "--trtexec"]) == 3


# -- names that say more than they should ---------------------------------------------------


def renamed(folder: Path, name: str, old: str = "y") -> Path:
    """A bundle of NET whose value `old` is called `name`."""
    proto = model_of_text(NET)
    for node in proto.graph.node:
        node.input[:] = [name if value == old else value for value in node.input]
        node.output[:] = [name if value == old else value for value in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = name if value.name == old else value.name
    onnx.save(proto, folder / "a.onnx")
    program = join([read_model(folder / "a.onnx", "a")], [])
    return bundle(folder, program, references=None)


EVIL = "y\ncustom-lib-path=/tmp/evil.so\nq=1"


@pytest.mark.parametrize("name", [EVIL, "y;b", "y b", "y\u2028x", "y\\nb"])
def test_deepstream_refuses_a_name_that_would_be_a_setting(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deepstream"
    assert main(["export", str(renamed(tmp_path, name)), "--deepstream", str(target)]) == 3
    assert "has a name that nvinfer's list of outputs cannot hold" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(
    "name", [EVIL, 'y" data_type: TYPE_FP32 } evil { a: "', "back\\slash", "é"]
)
@pytest.mark.parametrize("layout", ["merged", "trunk-heads"])
def test_triton_reads_any_name_as_that_name(tmp_path: Path, name: str, layout: str) -> None:
    target = tmp_path / "models"
    words = ["--triton", str(target), "--layout", layout]
    assert main(["export", str(renamed(tmp_path, name)), *words]) == 0
    for config in target.rglob("config.pbtxt"):
        text = config.read_text()
        assert f"a/{name}" in strings(text)
        # Only strings may hold what a name says.
        assert not re.search("evil|custom", re.sub(STRING, "", text))


STRING = r'"((?:[^"\\\n]|\\.)*)"'


def strings(text: str) -> set[str]:
    """The strings of a protobuf text, unescaped as protobuf does."""
    return {CUnescape(found).decode() for found in re.findall(STRING, text)}


def test_trtexec_takes_colons_and_refuses_what_it_would_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(renamed(tmp_path, "in:0", "x")), "--trtexec"]) == 0
    assert "--minShapes='a/in:0':1x1x4x4" in shlex.split(capsys.readouterr().out)
    (tmp_path / "other").mkdir()
    assert main(["export", str(renamed(tmp_path / "other", "i,n", "x")), "--trtexec"]) == 3
    assert "trtexec's shapes cannot hold" in capsys.readouterr().err


def edited(path: Path, name: str) -> Path:
    """The bundle, as someone would edit it who calls model `a` by that name."""
    manifest = path / "manifest.json"
    text = manifest.read_text().replace('"name": "a"', f'"name": "{name}"')
    manifest.write_text(text.replace('"a"\n', f'"{name}"\n').replace('"a",', f'"{name}",'))
    return path


@pytest.mark.parametrize("name", ["..", ".", "a/b", "-a", "a\\\\b", "C:", "é", "a" * 256])
def test_a_model_is_never_called_like_another_folder(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(bundle(tmp_path), name)
    words = ["--triton", str(tmp_path / "models"), "--layout", "trunk-heads"]
    assert main(["export", str(path), *words]) == 3
    assert "is not a model name" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_called_like_a_folder_of_the_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(bundle(tmp_path), "ONNX")
    words = ["--triton", str(tmp_path / "models"), "--layout", "trunk-heads"]
    assert main(["export", str(path), *words]) == 2
    assert "--name ONNX_1=" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_weights_are_never_copied_from_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle(tmp_path)
    (tmp_path / "secret").write_bytes(b"\0" * 72)
    model = onnx.load(path / "merged.onnx")
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    (path / "merged.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((path / "manifest.json").read_text())
    entry = file_entry(path / "merged.onnx")
    manifest["files"]["merged.onnx"] = {"sha256": entry.sha256, "nbytes": entry.nbytes}
    (path / "manifest.json").write_text(json.dumps(manifest))
    for words in (["--triton", str(tmp_path / "t")], ["--deepstream", str(tmp_path / "d")]):
        assert main(["export", str(path), *words]) == 3
        assert "which is no file of the bundle" in capsys.readouterr().err
    assert files(tmp_path) == {"secret", *(f"bundle/{name}" for name in files(path))}


def test_a_full_disk_leaves_no_half_of_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(other_builders, "_write", full)
    path = bundle(tmp_path, pair(NET))
    for words in (["--triton", str(tmp_path / "t")], ["--deepstream", str(tmp_path / "d")]):
        assert main(["export", str(path), *words]) == 2
        assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
