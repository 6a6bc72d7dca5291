"""Compiling as a step of a build: the same bytes anywhere, nothing to do, what depends on what."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from repsimc.compiler.bundle.verification import verify_bundle
from repsimc.compiler.driver import compile_models
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.bench import BenchOptions, bench
from repsimc.runtime.session import load
from tests.end_to_end.conftest import content


def moved(family: Path, folder: Path) -> Path:
    """The family's files in another folder; one model's weights in a file beside it."""
    folder.mkdir(parents=True)
    shutil.copy(family / "a.onnx", folder)
    shutil.copy(family / "frames.npz", folder)
    onnx.save(
        onnx.load(family / "b.onnx"),
        folder / "b.onnx",
        save_as_external_data=True,
        location="b.bin",
        size_threshold=0,
    )
    assert (folder / "b.bin").stat().st_size > 1000
    return folder


def compiled(models: Path, output: Path, **wishes: object) -> Path:
    options = CompileOptions(
        models=(("a", models / "a.onnx"), ("b", models / "b.onnx")),
        calibration=models / "frames.npz",
        min_fidelity=0.9,
        frames=100,
        output=output,
        precision="fp16",
        **wishes,  # type: ignore[arg-type]
    )
    assert compile_models(options).bundle == output
    return output


def test_the_same_inputs_give_the_same_bytes_wherever_they_and_the_bundle_lie(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = moved(family, tmp_path / "one")
    two = moved(family, tmp_path / "two" / "deep" / "inside")
    first = compiled(one, tmp_path / "one" / "bundle")
    monkeypatch.chdir(two)
    second = compiled(Path(), Path("../../out/of/the/way"))
    assert {"manifest.json", "merged.onnx", "half.onnx", "report.json", "references.npz"} <= set(
        content(first)
    )
    assert content(first) == content(second)
    # The models are found again, though no bundle says where they are.
    monkeypatch.chdir(tmp_path)
    assert verify_bundle(load(two / second), one / "frames.npz")
    measured = bench(load(two / second), BenchOptions(runs=1, warmup=0, repeats=1))
    assert measured.apart is not None


def test_files_whose_bytes_stay_keep_their_times(family: Path, tmp_path: Path) -> None:
    models = moved(family, tmp_path / "models")
    bundle = compiled(models, tmp_path / "bundle")
    before = content(bundle)
    (bundle / "engines").mkdir()
    for name in before:
        os.utime(bundle / name, (1e9, 1e9))
    compiled(models, bundle, overwrite=True)  # the same bytes: what lies beside them stays
    (bundle / "engines").rmdir()
    assert content(bundle) == before
    times = {name: (bundle / name).stat().st_mtime for name in before}
    assert times.pop("manifest.json") > 1e9 + 1
    assert set(times.values()) == {1e9}

    compiled(models, bundle, overwrite=True, confidence=0.9)
    after = content(bundle)
    for name in before:
        kept = (bundle / name).stat().st_mtime == 1e9
        assert kept is (after[name] == before[name] and name != "manifest.json"), name
    assert after["merged.onnx"] == before["merged.onnx"]
    assert after["report.json"] != before["report.json"]


# Whatever of these was imported would fail.
LIGHT = """
import sys
for heavy in ("onnx", "onnxruntime", "onnx_graphsurgeon", "scipy", "networkx", "PIL"):
    sys.modules[heavy] = None
from repsimc.compiler.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def call(*words: str, program: str = "from repsimc.compiler.cli.main import main; main()") -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_step_that_has_nothing_to_do_loads_nothing_heavy(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(moved(family, tmp_path / "models"))
    words = ["compile", "a.onnx", "b.onnx", "--calib", "frames.npz", "--frames", "100"]
    words += ["--min-fidelity", "0.9", "-o", "../bundle", "--depfile", "../bundle.d", "-q"]
    assert call(*words).endswith("bundle written to ../bundle/\n")
    depfile = (tmp_path / "bundle.d").read_text()
    assert depfile.startswith("../bundle/manifest.json: \\\n  a.onnx \\\n  b.onnx \\\n  b.bin \\\n")
    (tmp_path / "bundle.d").unlink()
    assert call(*words, program=LIGHT) == "nothing to do: ../bundle/ is up to date\n"
    assert (tmp_path / "bundle.d").read_text() == depfile
    data = bytearray((tmp_path / "models" / "b.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "models" / "b.bin").write_bytes(data)
    assert call(*words, "--overwrite").endswith("bundle written to ../bundle/\n")
