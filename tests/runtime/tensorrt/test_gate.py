"""The compile gate, run for real: TensorRT-RTX needs no GPU to build. `make test-tensorrt`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.driver import compile_models
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.tensorrt.gate import reported
from tests.runtime.tensorrt.bundles import NET, bundle, pair
from tests.runtime.tensorrt.conftest import Ran

ROOT = Path(__file__).parents[3]
RTX = Path(os.environ.get("REPSIMC_WHEELS", "no wheels")) / "rtx"
DIGITS = ROOT / "examples" / "digits"
real = pytest.mark.skipif(
    not (RTX / "tensorrt_rtx").is_dir(),
    reason="no TensorRT-RTX here: make test-tensorrt fetches it",
)


def repsimc(*words: object, rtx: bool = True) -> Ran:
    code = "import sys; from repsimc.compiler.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(RTX)} if rtx else dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def gate(path: Path, *words: str) -> Ran:
    return repsimc("build", path, "--backend", "tensorrt-rtx", *words, "--format", "json")


def repeats(engine: dict[str, Any]) -> bool:
    """Two builds gave the same bytes, or at least two of three did: see GateEngine."""
    return engine["distinct_plans"] < max(engine["builds"], 2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped example, compiled with a half-precision graph."""
    folder = tmp_path_factory.mktemp("digits") / "bundle"
    names = ("digit", "parity", "digit_deep")
    compile_models(
        CompileOptions(
            models=tuple((name, DIGITS / f"{name}.onnx") for name in names),
            calibration=DIGITS / "frames.npz",
            exact_only=True,
            frames=100,
            precision="fp16",
            output=folder,
        )
    )
    return folder


@real
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_example_compiles_twice_to_the_same_bytes(digits: Path, precision: str) -> None:
    done = gate(digits, "--precision", precision)
    assert done.code == 0, done.err
    assert done.value["label"] == "TensorRT-RTX compile gate (sm_86)"
    [engine] = done.value["engines"]
    assert repeats(engine) and engine["plan_nbytes"] > 10_000
    assert engine["weights_nbytes"] == pytest.approx(engine["predicted_weights_nbytes"], rel=0.1)
    assert engine["activations_nbytes"] > 0
    assert not (digits / "engines").exists()  # nothing is kept


@real
def test_every_example_compiles_apart(digits: Path) -> None:
    from repsimc.runtime.tensorrt import gate as module

    code = (
        "import sys, json; from pathlib import Path;"
        "from repsimc.runtime.tensorrt.gate import gate_graph;"
        "print(json.dumps([gate_graph(Path(p), {'image': [[1, 1, 8, 8]] * 3}).to_json()"
        " for p in sys.argv[1:]]))"
    )
    paths = [str(path) for path in sorted(DIGITS.glob("*.onnx"))]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths],
        env={**os.environ, "PYTHONPATH": str(RTX)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(paths) and all(repeats(engine) for engine in found)
    assert module.LABEL


@real
def test_every_segment_compiles(tmp_path: Path) -> None:
    path = bundle(tmp_path, pair(NET), precision="fp16")
    for precision in ("fp32", "fp16"):
        done = gate(path, "--layout", "trunk-heads", "--batch", "1:2:4", "--precision", precision)
        assert done.code == 0, done.err
        assert [engine["name"] for engine in done.value["engines"]] == ["a+b", "a", "b"]


@real
def test_a_graph_that_is_refused_says_which_node(tmp_path: Path) -> None:
    from onnx import helper

    program = pair()
    program.graph.nodes[0].op, program.graph.nodes[0].domain = "Convolve", "my.ops"
    program.graph.import_domains = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    done = gate(bundle(tmp_path, program, references=None))
    assert done.code == 3 and "Traceback" not in done.err
    assert "refuses the graph" in done.err and "Convolve" in done.err


@real
def test_half_precision_needs_a_graph_in_it(tmp_path: Path) -> None:
    done = gate(bundle(tmp_path), "--precision", "fp16")
    assert done.code == 2 and "compile it with --precision fp16" in done.err


def test_without_rtx_it_says_what_to_install(tmp_path: Path) -> None:
    if (
        subprocess.run(
            [sys.executable, "-c", "import tensorrt_rtx"], capture_output=True
        ).returncode
        == 0
    ):
        pytest.skip("TensorRT-RTX is installed")
    done = repsimc("build", bundle(tmp_path), "--backend", "tensorrt-rtx", rtx=False)
    assert done.code == 6 and "pip install 'repsimc[rtx]'" in done.err


def test_the_log_is_read() -> None:
    log = "INFO: Total Activation Memory: 8519680 bytes\nINFO: Total Weights Memory: 22080 bytes\n"
    assert reported(log) == {"activation": 8519680, "weights": 22080}
    assert reported("nothing of the kind") == {}


def test_builds_that_all_differ_fail_the_gate_and_one_odd_one_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repsimc.compiler.reports.engines import gate_grid
    from repsimc.runtime.errors import ModelError
    from repsimc.runtime.tensorrt import gate as module
    from repsimc.runtime.tensorrt.building import BuildOptions

    class Silent:
        def stage(self, title: str, total: int | None) -> None: ...
        def advance(self, n: int = 1) -> None: ...

    def building(*digests: str) -> None:
        left = iter(digests)

        def run_child(kind: str, job: object, log: object = None) -> dict[str, Any]:
            return {"nbytes": 9, "sha256": next(left), "seconds": 0.0}

        monkeypatch.setattr(module, "run_child", run_child)

    monkeypatch.setattr(module, "rtx_version", lambda: "1.0")
    path = bundle(tmp_path)
    for digests, shown in ((("a", "a"), "same"), (("a", "b", "a"), "2 of 3 DIFFER")):
        building(*digests)
        found = module.run_gate(path, BuildOptions(), Silent())
        assert found.engines[0].same_bytes is (shown == "same")
        assert gate_grid(found).rows[0][2] == shown
    building("a", "b", "c")
    with pytest.raises(ModelError, match="three different plans"):
        module.run_gate(path, BuildOptions(), Silent())
