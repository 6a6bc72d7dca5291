from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.frontends.join import join
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.program import Program
from repsimc.runtime import rig as module
from repsimc.runtime.bench import BenchOptions, bench
from repsimc.runtime.errors import BackendError, UsageError
from repsimc.runtime.rig import GIVEN, NOISE
from tests.programs import model_of_text
from tests.runtime.bundles import NEGATIVE, PLAIN, bundled

MIB = 2**20


def heavy(seed: int) -> onnx.ModelProto:
    """x [N, 2048] times a weight of 16 MiB."""
    weight = np.random.default_rng(seed).standard_normal((2048, 2048)).astype(np.float32)
    model = model_of_text("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2048] x) => (float[N, 2048] y) { y = MatMul (x, w) }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


def compiled(folder: Path, **models: onnx.ModelProto) -> tuple[Path, Program]:
    """A bundle of these models, saved and read, all fed by one frame."""
    programs: list[Program] = []
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
        programs.append(read_model(folder / f"{name}.onnx", name))
    program = join(programs, [[(name, "x") for name in models]])
    memory = {"merged_nbytes": 30 * MIB, "apart_nbytes": 50 * MIB}
    return bundled(folder, program, memory=memory), program


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    return compiled(folder, a=model_of_text(PLAIN), b=model_of_text(NEGATIVE))[0]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_merged_beside_apart_measured_beside_predicted(tmp_path: Path) -> None:
    path, _ = compiled(tmp_path, a=heavy(0), b=heavy(1))
    result = bench(path, BenchOptions(runs=3, warmup=1, threads=1, repeats=1))
    assert result.apart is not None and result.merged.memory is not None
    assert result.apart.memory is not None
    for side in (result.merged, result.apart):
        assert side.memory is not None
        assert 32 * MIB < side.memory.uss_nbytes < 36 * MIB
        assert 0 < side.latency.p50_seconds <= side.latency.p90_seconds
        assert side.latency.p90_seconds <= side.latency.p99_seconds
    assert result.predicted_saving_nbytes == 20 * MIB
    assert result.measured_saving_nbytes == (
        result.apart.memory.uss_nbytes - result.merged.memory.uss_nbytes
    )
    assert (result.frame, result.runs, result.threads) == (NOISE, 3, 1)
    data = json.loads(json.dumps(result.to_json()))
    assert data["schema"] == "repsimc.bench/1"
    assert data["merged"]["memory"]["uss_nbytes"] == result.merged.memory.uss_nbytes
    assert data["merged"]["uss_nbytes"] == [result.merged.memory.uss_nbytes]


def test_every_run_is_told_and_the_ratio_with_its_doubt(pair: Path) -> None:
    result = bench(pair, BenchOptions(runs=5, warmup=0, threads=1, repeats=1))
    assert result.ratio is not None and result.apart is not None
    assert result.ratio.low <= result.ratio.value <= result.ratio.high
    assert "5 runs are too few to tell" in result.doubt
    data = json.loads(json.dumps(result.to_json()))
    for side in ("merged", "apart"):
        samples = data[side]["samples"]
        assert [len(samples[key]) for key in ("seconds", "processor_seconds")] == [5, 5]
        assert min(samples["seconds"]) <= data[side]["latency"]["p10_seconds"]
        assert data[side]["processor"]["p10_seconds"] > 0
    ratio = result.merged.latency.p10_seconds / result.apart.latency.p10_seconds
    assert data["ratio"]["value"] == pytest.approx(ratio)
    assert data["conditions"]["cores"] >= 1


def test_a_given_frame_and_a_missing_original(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_measure", lambda: False)
    (pair.parent / "b.onnx").rename(pair.parent / "moved.onnx")
    try:
        frame = np.ones((4, 3), np.float32)
        result = bench(pair, BenchOptions(runs=1, warmup=0), inputs=frame)
        moved = bench(
            pair, BenchOptions(runs=1, warmup=0), originals={"b": pair.parent / "moved.onnx"}
        )
    finally:
        (pair.parent / "moved.onnx").rename(pair.parent / "b.onnx")
    assert result.apart is None and result.measured_saving_nbytes is None
    assert result.frame == GIVEN
    assert result.merged.memory is None
    assert any(
        "original of model 'b' (b.onnx) is not where it was" in note for note in result.notes
    )
    assert any("Linux only" in note for note in result.notes)
    assert moved.apart is not None


def test_nonsense_is_refused(pair: Path) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        bench(pair, BenchOptions(runs=0))
    with pytest.raises(UsageError, match="no model 'c'"):
        bench(pair, originals={"c": "c.onnx"})


def test_a_frame_that_a_model_cannot_take_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    model = model_of_text("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N] x, float[M] y) => (float[K] z) { z = Add (x, y) }
    """)
    path = bundled(tmp_path, join([program_of_file(tmp_path, model)]))
    assert bench(path, BenchOptions(runs=1, repeats=1), sizes={"M": 3}).frame == NOISE
    with pytest.raises(BackendError, match=r"measuring latency failed.*Add"):
        bench(path, BenchOptions(runs=1, repeats=1), sizes={"M": 3, "N": 2})


def program_of_file(folder: Path, model: onnx.ModelProto) -> Program:
    onnx.save(model, folder / "m.onnx")
    return read_model(folder / "m.onnx", "m")
