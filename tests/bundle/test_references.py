from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.bundle import references as module
from repsimc.compiler.bundle.references import references_of
from repsimc.compiler.driver import compile_models
from repsimc.compiler.options import CompileOptions
from repsimc.runtime.files import check_files
from repsimc.runtime.session import load
from tests.programs import assert_close

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def compiled(folder: Path, **wishes: Any) -> Path:
    wishes = {"calibration": DIGITS / "frames.npz", "frames": 200, "exact_only": True} | wishes
    options = CompileOptions(
        models=(("digit", DIGITS / "digit.onnx"), ("parity", DIGITS / "parity.onnx")),
        output=folder,
        **wishes,
    )
    compile_models(options)
    return folder


def test_held_out_frames_travel_with_their_outputs(tmp_path: Path) -> None:
    path = compiled(tmp_path / "bundle")
    manifest = load(path).manifest
    [group] = manifest.references
    assert (group.models, group.runs) == (("digit", "parity"), module.FRAMES)
    session = load(path).session()
    with np.load(path / "references.npz") as arrays:
        for run in range(group.runs):
            [name] = [n for n in arrays.files if n.startswith(f"0/{run}/in/")]
            assert arrays[name].shape == (1, 1, 8, 8)
            found = session.run(arrays[name])
            for entry in manifest.models:
                for spec in entry.outputs:
                    expected = arrays[f"0/{run}/out/{spec.value}"]
                    assert_close(found[entry.name][spec.name], expected, rtol=1e-4, atol=1e-5)


def test_the_same_frames_give_the_same_bytes_and_the_hash_is_kept(tmp_path: Path) -> None:
    one, other = compiled(tmp_path / "one"), compiled(tmp_path / "other")
    assert (one / "references.npz").read_bytes() == (other / "references.npz").read_bytes()
    with (one / "references.npz").open("r+b") as file:
        file.seek(200)
        file.write(b"x")
    with pytest.raises(Exception, match=r"references\.npz.*sha256 differs"):
        check_files(one, load(one).manifest)


def test_without_frames_there_are_none(tmp_path: Path) -> None:
    path = compiled(tmp_path / "bundle", calibration=None, frames=None)
    assert load(path).manifest.references == ()
    assert not (path / "references.npz").exists()


def test_frames_that_take_too_much_room_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NBYTES", 700)  # two runs of 256 + 48 bytes
    path = compiled(tmp_path / "bundle")
    assert load(path).manifest.references[0].runs == 2
    assert references_of.__doc__ is not None


def test_precision_and_layout_are_recorded(tmp_path: Path) -> None:
    path = compiled(tmp_path / "bundle", layout="trunk-heads", precision="fp16")
    manifest = load(path).manifest
    assert (manifest.layout, manifest.precision) == ("trunk-heads", "fp16")
    assert manifest.lowered == {"fp16": "half.onnx"}
    assert "half.onnx" in manifest.files


def test_int8_is_recorded_where_something_is_stored_so(tmp_path: Path) -> None:
    path = compiled(tmp_path / "bundle", precision="int8")
    manifest = load(path).manifest
    assert manifest.quantised == (manifest.precision == "int8")
