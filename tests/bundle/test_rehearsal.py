"""Finished bundles, run before they take their place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.bundle.rehearsal import Rehearsal
from repsimc.compiler.errors import ModelError
from repsimc.compiler.execution.agreement import Probe
from repsimc.compiler.graph.program import Program
from tests.programs import AsRead
from tests.runtime.bundles import EXTRA, INDEX, T, X, bundled, trunk_and_pick


def rehearsal(program: Program, **values: Any) -> Rehearsal:
    """What the bundle of `trunk` and `pick` is held against, with other values where told so."""
    expected = {"trunk": {"y": np.maximum(T, 0), "z": T + EXTRA}, "pick": {"y": T[:, INDEX]}}
    expected = {name: {**own, **values.get(name, {})} for name, own in expected.items()}
    feeds = {"x": X, "trunk/extra": EXTRA, "pick/index": INDEX}
    return Rehearsal(program, [Probe(feeds, expected)], AsRead(program), ())


def test_a_bundle_that_is_right_is_put_in_place(tmp_path: Path) -> None:
    program = trunk_and_pick()
    path = bundled(tmp_path, program, check=rehearsal(program).check)
    assert path.is_dir()


def test_one_that_differs_leaves_nothing_behind(tmp_path: Path) -> None:
    program = trunk_and_pick()
    for name, output, found in (("trunk", "z", T), ("pick", "y", T[:, INDEX] + 1)):
        wrong = rehearsal(program, **{name: {output: found}})
        with pytest.raises(ModelError, match=f"running all models, output '{output}' of .*{name}"):
            bundled(tmp_path, program, check=wrong.check)
        assert list(tmp_path.iterdir()) == []


def test_models_are_run_alone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = trunk_and_pick()
    real = np.float32(0)

    def alone(_: object, parts: Any, feeds: Any) -> dict[str, Any]:
        made = np.full_like(T[:, INDEX], real)
        return {"pick/y": made, "trunk/y": np.maximum(T, 0), "trunk/z": T + EXTRA}

    monkeypatch.setattr("repsimc.runtime.ort.OnnxRuntimeExecution._run_parts", alone)
    with pytest.raises(ModelError, match="running 'pick' alone, output 'y' of model 'pick'"):
        bundled(tmp_path, program, check=rehearsal(program).check)
    assert list(tmp_path.iterdir()) == []


def test_one_that_does_not_run_leaves_the_old_one(tmp_path: Path) -> None:
    program = trunk_and_pick()
    path = bundled(tmp_path, program)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    broken = rehearsal(program)
    feeds = {**broken.probes[0].feeds, "pick/index": INDEX + 7}
    broken = replace(broken, probes=[replace(broken.probes[0], feeds=feeds)])
    with pytest.raises(ModelError, match="the bundle does not run"):
        bundled(tmp_path, program, overwrite=True, check=broken.check)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_models_that_were_moved_are_held_against_the_program(tmp_path: Path) -> None:
    program = trunk_and_pick()
    wrong = rehearsal(program, pick={"y": T[:, INDEX] + 1})
    bundled(tmp_path, program, check=replace(wrong, moved={"pick"}).check)
