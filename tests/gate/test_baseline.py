"""Baselines: written whole, read with every field checked, and of this bundle only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.errors import DataError, UsageError
from repsimc.compiler.gate.baseline import (
    ExactFigure,
    interface_of,
    machine_here,
    read_baseline,
    write_baseline,
)
from repsimc.runtime.manifest import Manifest
from repsimc.runtime.session import load
from tests.gate.bundles import baseline_of
from tests.runtime.bundles import bundled, tied_pair


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return load(bundled(tmp_path, tied_pair())).manifest


def test_what_is_written_is_read(manifest: Manifest, tmp_path: Path) -> None:
    figures = (ExactFigure("f", math.inf, "B"), ExactFigure("g", 0.5, "share", True, 1e-3))
    baseline = baseline_of(manifest, figures=figures)
    write_baseline(tmp_path / "b.json", baseline)
    assert read_baseline(tmp_path / "b.json", manifest) == baseline
    assert baseline.figure("g") == figures[1] and baseline.figure("h") is None
    first = (tmp_path / "b.json").read_bytes()
    write_baseline(tmp_path / "b.json", baseline)
    assert (tmp_path / "b.json").read_bytes() == first


def test_none_there(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no baseline"):
        read_baseline(tmp_path / "b.json", manifest)
    with pytest.raises(DataError, match="can't be read"):
        read_baseline(tmp_path, manifest)


def changed(at: list[Any], value: object) -> Any:
    def change(data: dict[str, Any]) -> None:
        inside: Any = data
        for step in at[:-1]:
            inside = inside[step]
        inside[at[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(["schema"], "repsimc.baseline/9"), "this version reads 'repsimc.baseline/1'"),
        (changed(["yardstick"], 9), "version 9 of the yardstick"),
        (changed(["interface"], ["a: z -> y"]), "of another bundle: it has a: z -> y; not a: x"),
        (changed(["figures", 0, "value"], "many"), r"figures\[0\].value' is not a number"),
        (changed(["latency", "fixed network", "clock", 0], 0), "is not a number above zero"),
        (changed(["latency", "fixed network", "clock"], [1.0] * 10_001), "at most 10000"),
        (changed(["models", "a"], "x"), "sha256 digest"),
        (changed(["machine"], None), "'machine' is not an object"),
        (lambda data: data.pop("threads"), "has no 'threads'"),
    ],
)
def test_damaged(manifest: Manifest, tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "b.json"
    write_baseline(path, baseline_of(manifest))
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=said):
        read_baseline(path, manifest)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"schema": 1}'])
def test_no_json(manifest: Manifest, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.json").write_bytes(content)
    with pytest.raises(DataError):
        read_baseline(tmp_path / "b.json", manifest)


def test_a_place_that_can_not_be_written(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_baseline(tmp_path / "file" / "b.json", baseline_of(manifest))


def test_whose_it_is(manifest: Manifest) -> None:
    assert interface_of(manifest) == ("a: x -> y", "b: x -> y")
    here = machine_here()
    assert here.system and here.processor and here.onnxruntime
