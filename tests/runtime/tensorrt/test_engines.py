"""Plans that are not what they should be: foreign, damaged, of another version, half written."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path

import pytest

from repsimc.runtime.errors import BackendError, UsageError
from repsimc.runtime.placing import replacing
from repsimc.runtime.tensorrt.engines import EngineFile, plan_version, read_engine_file
from tests.runtime.tensorrt.bundles import NET, bundle, pair
from tests.runtime.tensorrt.conftest import Machine


def header(tag: bytes, *version: int) -> bytes:
    return tag + struct.pack("<I", 0) + bytes(16) + bytes([*version, 0])


def test_a_plan_tells_its_version_without_tensorrt() -> None:
    assert plan_version(header(b"ftrt", 10, 3, 0)) == ("10", "3", "0")
    assert plan_version(header(b"vtrt", 1, 7, 1)) == ("1", "7", "1")
    assert plan_version(header(b"else", 1, 7, 1)) is None
    assert plan_version(b"short") is None


def test_a_plan_of_another_version_is_not_loaded(tmp_path: Path) -> None:
    content = header(b"ftrt", 10, 3, 0) + b"rest"
    (tmp_path / "0.plan").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    plan = EngineFile("0.plan", ("a",), (), (), len(content), digest, 1.0)
    assert read_engine_file(tmp_path, plan, "10.3.0.26") == content
    with pytest.raises(BackendError, match=r"built by TensorRT 10\.3\.0, here is 8\.6\.1"):
        read_engine_file(tmp_path, plan, "8.6.1")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    with replacing(folder) as partial:
        (partial / "old").write_text("old")
    with pytest.raises(UsageError, match="No space left"), replacing(folder) as partial:
        (partial / "new").write_text("new")
        raise OSError(28, "No space left on device")
    assert [path.name for path in folder.iterdir()] == ["old"]
    with replacing(folder) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]


REFUSED = """
from repsimc.runtime.errors import RepsimcError
try:
    load(path).session(backend="tensorrt")
except RepsimcError as error:
    print(error.exit_code, error)
else:
    raise AssertionError("it opened")
"""


def test_engines_of_another_device_or_version_are_never_loaded(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    assert "no engines for this device" in machine.session(bundle(tmp_path), REFUSED)
    path = ready
    for env in ({"STUB_CUDA_MP": "16"}, {"DOUBLE_VERSION": "10.4.0"}, {"STUB_CUDA_NAME": "X"}):
        said = machine.session(path, REFUSED, **env)
        assert said.startswith("6 ")
        assert "stub-gpu-sm87-8mp-tensorrt-10.3.0 (merged-fp32), " in said
        assert "which do not run here" in said
        assert f"repsimc build {path} --backend tensorrt" in said


def test_a_folder_that_was_renamed_does_not_help(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(ready, tmp_path / "bundle"))
    [folder] = (path / "engines").iterdir()
    shutil.move(folder, folder.with_name(folder.name.replace("8mp", "16mp")))
    said = machine.session(path, REFUSED, STUB_CUDA_MP="16")
    assert said.startswith("6 ") and "were built for stub-gpu-sm87-8mp" in said


def test_a_plan_that_was_changed_is_refused(machine: Machine, ready: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(ready, tmp_path / "bundle"))
    [plan] = (path / "engines").rglob("merged-fp32/*.plan")
    plan.write_bytes(plan.read_bytes() + b"x")
    said = machine.session(path, REFUSED)
    assert said.startswith("3 ") and "sha256 differs" in said
    plan.unlink()
    assert "is missing" in machine.session(path, REFUSED)


def test_a_bundle_compiled_again_needs_new_engines(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    other = bundle(tmp_path / "other", pair(NET.replace("[N,", "[1,").replace("3.3", "4.4")))
    shutil.copytree(ready / "engines", other / "engines")
    said = machine.session(other, REFUSED)
    assert said.startswith("6 ") and "built from other files" in said


def test_memory_that_runs_out_is_told(machine: Machine, ready: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(ready, tmp_path / "bundle"))
    said = machine.session(path, REFUSED, STUB_CUDA_FREE_MIB="0")
    assert said.startswith("6 ") and "CUDA_ERROR_OUT_OF_MEMORY" in said
