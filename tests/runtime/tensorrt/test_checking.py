"""How far an output is from its reference, and plans that are not what they should be."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from repsimc.runtime.errors import BackendError, ModelError, UsageError
from repsimc.runtime.session import load
from repsimc.runtime.tensorrt.checking import difference, read_references
from repsimc.runtime.tensorrt.engines import EngineFile, plan_version, read_engine_file, replacing
from tests.runtime.tensorrt.bundles import bundle

X = np.float32([1, -2, 4])


@pytest.mark.parametrize(
    ("found", "expected", "share"),
    [
        (X, X, 0.0),
        (X * np.float32(1.01), X, 0.01),
        (X[::-1], X, 0.75),
        (X[:2], X, np.inf),
        (np.float32([1, np.nan, 4]), X, np.inf),
        (np.float32([1, np.nan, 4]), np.float32([1, np.nan, 4]), 0.0),
        (np.int64([1, 2]), np.int64([1, 3]), 0.5),
        (np.float32([]), np.float32([]), 0.0),
    ],
)
def test_difference_by_the_largest_value(found: object, expected: object, share: float) -> None:
    assert difference(np.asarray(found), np.asarray(expected)) == pytest.approx(share, rel=1e-4)


def test_references_are_read_run_by_run(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    runs = read_references(path, load(path).manifest)
    assert [set(run["in"]) for run in runs] == [{"x"}, {"x"}]
    assert set(runs[0]["out"]) == {"a/y", "a/best", "b/y", "b/best"}
    (path / "references.npz").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="cannot be read"):
        read_references(path, load(path).manifest)


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
