"""benchmarks/robustness.py: mutants made again, workers watched, comparisons."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from tests.nets.networks import Net

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Importer = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_six_models_are_sound_and_mutants_are_the_same_again(module: Importer) -> None:
    mutants = module("mutants")
    files = list(mutants.models().values())
    for content in files:
        onnx.checker.check_model(onnx.load_from_string(content))
    made = [mutants.mutant(files, index) for index in range(60)]
    assert made == [mutants.mutant(files, index) for index in range(60)]
    assert made[:12] != [mutants.mutant(files, index, seed=1) for index in range(12)]
    assert all(one != files[index % 6] for index, one in enumerate(made))


def test_outputs_are_compared_by_kind(module: Importer) -> None:
    difference = module("robustness_worker").difference
    x = np.array([1.0, np.nan, np.inf], np.float32)
    assert difference(x, x) == ""
    assert difference(x * np.float32(1 + 1e-5), x) == ""
    assert "off by" in difference(np.array([1.1, np.nan, np.inf], np.float32), x)
    assert "instead of" in difference(x.astype(np.float64), x)
    assert "shape" in difference(x[:2], x)
    assert difference(np.array([1, 2]), np.array([1, 3])) == "other values"
    assert difference([x, x], [x]) == "a sequence of another length"


def saved(folder: Path) -> Path:
    net = Net()
    net.relu(net.conv("x", 3, 4), out="y")
    folder.mkdir()
    onnx.save(net.model(x=("N", 3, 6, 6)), folder / "a.onnx")
    return folder


def test_a_worker_says_what_became_of_a_case_and_is_killed_in_time(
    module: Importer, tmp_path: Path
) -> None:
    watched = module("watched")
    job = {"do": "case", "place": str(saved(tmp_path / "case")), "folder": str(tmp_path / "out")}
    (tmp_path / "out").mkdir()
    worker = watched.Worker(watched.Limits())
    try:
        found = worker.do(job)
    finally:
        worker.close()
    assert (found.end, found.result["code"], found.result["problems"]) == ("done", 0, {})
    assert found.peak_nbytes > 2**20 and found.step.startswith("run")
    worker = watched.Worker(watched.Limits(seconds=0.0))
    assert worker.do(job).end == "hang"


def test_folders_that_are_not_there_are_refused(
    module: Importer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module("robustness").main(["--cases", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_growth_is_that_of_the_models_asked_for(
    module: Importer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    growth = module("growth")
    for make in (growth.chain, growth.readers):
        onnx.checker.check_model(make(20))
    many = growth.chain(30, inputs=4, outputs=5)
    onnx.checker.check_model(many)
    assert (len(many.graph.input), len(many.graph.output)) == (4, 6)
    monkeypatch.setattr(growth, "GROWING", {"chain": (50, growth.GROWING["chain of nodes"][1])})
    [record] = growth.growth_records(tmp_path, quick=True)
    assert json.loads(json.dumps(record.name)) == "growth/chain" and record.value is not None
