"""What happens on a machine without a GPU: a clear message and exit code 6, never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repsimc.compiler.cli.main import main
from repsimc.runtime.errors import BackendError
from repsimc.runtime.session import load
from repsimc.runtime.tensorrt import cuda
from tests.runtime.bundles import bundled, tied_pair


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-of-nobody.so.1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return bundled(tmp_path, tied_pair())


@pytest.mark.parametrize("command", ["build", "bench"])
def test_commands_end_with_6_and_name_the_command_for_the_device(
    path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(path), "--backend", "tensorrt"]) == 6
    said = capsys.readouterr().err
    assert "there is no CUDA driver on this machine" in said
    assert "on the device itself: repsimc build bundle/ --backend tensorrt" in said
    assert "--backend tensorrt-rtx" in said
    assert main([command, str(path), "--backend", "tensorrt", "--format", "json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 6


def test_a_session_says_the_same(path: Path) -> None:
    with pytest.raises(BackendError, match="no CUDA driver") as caught:
        load(path).session(backend="tensorrt")
    assert caught.value.exit_code == 6


def test_nothing_heavy_is_imported_to_find_out(path: Path) -> None:
    code = """
import sys
from repsimc.compiler.cli.main import main
code = main(["build", sys.argv[1], "--backend", "tensorrt"])
heavy = {"onnx", "onnxruntime", "onnx_graphsurgeon", "scipy", "networkx", "tensorrt", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
sys.exit(code)
"""
    from repsimc.runtime.tensorrt.cuda import open_library

    try:
        open_library("libcuda.so.1")
    except BackendError:
        pass
    else:
        pytest.skip("this machine has a driver")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 6, done.stderr


def test_onnx_runtime_runs_fp32_only(path: Path) -> None:
    from repsimc.runtime.errors import UsageError

    with pytest.raises(UsageError, match="not in fp16"):
        load(path).session(precision="fp16")


def test_doctor_says_what_would_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] is None
    by_name = {item["what"]: item for item in found["abilities"]}
    assert by_name["compile bundles"]["works"] is True
    engines = by_name["build, bench and run TensorRT engines"]
    assert engines["works"] is False and "no CUDA driver" in engines["reason"]
    assert main(["doctor"]) == 0
    assert "what would work" in capsys.readouterr().out
