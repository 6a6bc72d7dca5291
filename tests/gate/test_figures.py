"""Figures that come out the same each time, of a compiled bundle with reference frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.driver import compile_models
from repsimc.compiler.errors import ModelError
from repsimc.compiler.gate.figures import reference_figures, stated_figures
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.array_archive import read_arrays, write_arrays
from repsimc.runtime.session import Bundle, load
from tests.cli.conftest import SCORES, SHIFTED, save
from tests.runtime.bundles import bundled, tied_pair


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    x = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
    np.savez(tmp_path / "frames.npz", x=x)
    paths = save(tmp_path, a=SCORES)
    compile_models(
        CompileOptions(
            models=tuple(paths.items()),
            calibration=tmp_path / "frames.npz",
            output=tmp_path / "bundle",
            exact_only=True,
        )
    )
    return load(tmp_path / "bundle")


def test_the_same_each_time_and_off_nothing(bundle: Bundle) -> None:
    stated = {one.name: one.value for one in stated_figures(bundle)}
    assert stated["operators"] == 1 and stated["fidelity a/y"] == 1
    assert stated["weights"] == 12
    assert stated_figures(bundle) == stated_figures(bundle)
    found = reference_figures(bundle, {"a": bundle.path.parent / "a.onnx"}, 1)
    assert {one.name: one.value for one in found} == {
        "off its reference, a/y": 0.0,
        "off the original, a/y": 0.0,
    }


def test_another_original_shows(bundle: Bundle) -> None:
    other = save(bundle.path.parent, shifted=SHIFTED)["shifted"]
    found = {one.name: one.value for one in reference_figures(bundle, {"a": other}, 1)}
    assert found["off its reference, a/y"] == 0.0
    assert 0 < found["off the original, a/y"] < 1


def test_other_references_are_refused(bundle: Bundle) -> None:
    path = bundle.path / "references.npz"
    arrays = read_arrays(path, 1 << 20, "")
    write_arrays(path, {name: 2 * a if "/out/" in name else a for name, a in arrays.items()})
    with pytest.raises(ModelError, match="sha256 differs"):
        reference_figures(bundle, None, 1)


def test_no_frames_no_figures(tmp_path: Path) -> None:
    assert reference_figures(load(bundled(tmp_path, tied_pair())), None, 1) == []
