"""Engines measured beside the originals' on a pretended device."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.runtime.tensorrt.bundles import NET, bundle, pair
from tests.runtime.tensorrt.conftest import Machine


def test_bench_measures_engines_beside_the_originals(machine: Machine, tmp_path: Path) -> None:

    import onnx

    from repsimc.compiler.graph.program import Source
    from tests.programs import model_of_text

    path = tmp_path / "a.onnx"
    onnx.save(model_of_text(NET.replace("[N,", "[1,")), path)
    program = pair()
    content = path.read_bytes()
    for model in program.models.values():
        model.source = Source(path, len(content), hashlib.sha256(content).hexdigest())
    made = bundle(tmp_path, program)
    done = machine.repsimc("bench", made, "--backend", "tensorrt")
    assert done.code == 6 and "no engines for this device" in done.err
    assert machine.repsimc("build", made, "--layout", "trunk-heads").code == 0
    words = ["--backend", "tensorrt", "--layout", "trunk-heads", "--runs", "3"]
    done = machine.repsimc("bench", made, *words, "--format", "json")
    assert done.code == 0, done.err
    ours, apart = done.value["sides"]
    assert (ours["name"], apart["name"]) == ("repsimc, trunk-heads", "originals apart")
    # One arena of the largest need; apart each engine has its own.
    assert ours["memory"]["scratch_nbytes"] == 3000
    assert apart["memory"]["scratch_nbytes"] == 6000
    assert (ours["latency"]["p50_seconds"] > 0 and "INFO" in apart["log"]) or apart["log"] == ""
    assert done.value["frame"] == "a held-out frame"
    path.unlink()
    done = machine.repsimc("bench", made, *words)
    assert done.code == 0 and "originals apart: not measured" in " ".join(done.out.split())


def test_bench_on_engines_takes_no_options_of_the_other_backend(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path)
    done = machine.repsimc("bench", path, "--backend", "tensorrt", "--threads", "1")
    assert done.code == 2
    assert machine.repsimc("bench", path, "--layout", "merged").code == 2
    assert machine.repsimc("bench", path, "--backend", "trt").code == 2
