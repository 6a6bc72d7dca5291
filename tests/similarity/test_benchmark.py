"""The benchmark's own machinery: its models, its measurements; nothing here needs the zoo."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from repsimc.compiler.similarity.compare import similarity

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "similarity.py"
Importer = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    """`module("synthetic")` is benchmarks/synthetic.py, imported as the benchmark imports it."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module


def test_deep_models_have_two_layers_per_block(module: Importer, tmp_path: Path) -> None:
    path = module("synthetic").deep(tmp_path / "m.onnx", 2, 0, channels=4)
    frames = np.random.default_rng(0).integers(0, 256, (6, 3, 224, 224), np.uint8)
    found = similarity([path], frames, sketch=True)
    # Each block's Mul and ReLU, the first ReLU, the pooling before it and the mean after.
    assert len(found.layers("m")) >= 2 * 2
    assert np.isfinite(found.matrix("m", "m")).any()


def test_speed_is_told_beside_plain_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    # The benchmark is called as the package's module is; import it by its path.
    spec = importlib.util.spec_from_file_location("similarity_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    with np.load(folder / "frames.npz") as data:
        frames = data["x"]
    models = [("a", folder / "a.onnx"), ("b", folder / "b.onnx")]
    [record], seconds = benchmark.speed("case", models, frames, 1, 16)
    assert record.name == "case/time by plain passes" and record.value > 0
    assert seconds > 0
    assert record.bar == "<= 1.5" and "4 x 4 layers, 96 frames" in record.extra
    assert benchmark.peak_nbytes() > 2**20


def test_the_zoo_may_be_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--case", "related", "--json", str(tmp_path / "r.json")],
        env={**os.environ, "REPSIMC_ZOO": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "zoo not found" in done.stderr


def test_the_memory_job_prints_its_peak(folder: Path) -> None:
    job = {
        "models": [str(folder / "a.onnx"), str(folder / "b.onnx")],
        "frames": str(folder / "frames.npz"),
        "count": 96,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "REPSIMC_SIMILARITY_JOB": json.dumps(job)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["pairs"] == 1 and said["layers"] == 4 and said["peak_nbytes"] > 2**20
