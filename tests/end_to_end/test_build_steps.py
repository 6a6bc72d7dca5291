"""Compiling as a step of a build: the same bytes anywhere, nothing to do, what depends on what."""

from __future__ import annotations

import shutil
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
