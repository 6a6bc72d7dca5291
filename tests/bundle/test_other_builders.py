"""`repsimc export`: commands and configurations that other tools read."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest

from repsimc.compiler.cli.main import main
from repsimc.compiler.graph import export as writer
from tests.programs import joined
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
