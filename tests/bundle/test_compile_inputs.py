from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.bundle import compile_inputs as module
from repsimc.compiler.bundle.compile_inputs import (
    NOT_DECIDING,
    CompileInputs,
    inputs_of,
    remember_models,
)
from repsimc.compiler.frames.preprocessing import Preprocessing
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.options import CompileOptions, Settings
from repsimc.compiler.units import Budget, MacsLimit
from repsimc.runtime.originals import seen_folder
from tests.runtime.test_originals import external

X = np.float32([[1, 2, 3]])


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompileOptions:
    """A compilation of nets/a.onnx, whose weights are in nets/a.bin, in the working directory."""
    monkeypatch.chdir(tmp_path)
    external(Path("nets/a.onnx"))
    return CompileOptions(models=(("a", Path("nets/a.onnx")),))


def frames(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{number}.npy", X * number)
    return folder


def digest(options: CompileOptions) -> str:
    return inputs_of(options).digest


def changed(options: CompileOptions, path: Path) -> bool:
    """Whether another byte in the file makes another digest, and the old byte the old one."""
    before, content = digest(options), path.read_bytes()
    assert before
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    after = digest(options)
    path.write_bytes(content)
    assert digest(options) == before
    return after != before


def test_every_file_counts_and_is_told(options: CompileOptions) -> None:
    Path("plan.json").write_text("{}")
    Path("own.toml").write_text("seed = 1")
    options = replace(options, plan=Path("plan.json"), calibration=frames(Path("frames")))
    found = inputs_of(options, config=Path("own.toml"))
    frames_of = (f"frames/{number}.npy" for number in range(3))
    wanted = ("nets/a.onnx", "nets/a.bin", "plan.json", "own.toml", *frames_of)
    assert found.files == tuple(map(Path, wanted))
    assert found.folders == (Path("frames"),)
    assert len(found.digest) == 64
    for path in found.files:
        # What a file of options says is among the options.
        if path.name not in ("own.toml", "a.onnx"):
            assert changed(options, path), path
    model = onnx.load("nets/a.onnx", load_external_data=False)
    model.graph.name = "another"
    Path("nets/a.onnx").write_bytes(model.SerializeToString())
    assert digest(options) != found.digest


def test_a_model_is_known_by_the_digest_that_manifests_have(options: CompileOptions) -> None:
    source = read_model(Path("nets/a.onnx"), "a").models["a"].source
    assert inputs_of(options).models == {source.sha256: Path("nets/a.onnx")}


def test_where_files_lie_does_not_count(options: CompileOptions) -> None:
    options = replace(options, calibration={"a": frames(Path("frames"))}, output=Path("one"))
    before = inputs_of(options)
    Path("nets").rename("others")
    Path("frames").rename("pictures")
    moved = replace(
        options,
        models=(("a", Path("others/a.onnx").resolve()),),
        calibration={"a": Path("pictures").resolve()},
        output=Path("two"),
    )
    after = inputs_of(moved)
    assert after.digest == before.digest and after.files != before.files


def test_a_file_more_less_or_of_another_name_counts(options: CompileOptions) -> None:
    folder = frames(Path("frames"))
    options = replace(options, calibration=folder)
    seen = {digest(options)}
    (folder / "notes.txt").write_text("no frames")
    (folder / ".hidden.npy").write_bytes(b"")
    assert digest(options) in seen
    (folder / "2.npy").rename(folder / "0000.npy")  # it is the first now
    seen.add(digest(options))
    (folder / "in").mkdir()
    np.save(folder / "in" / "3.npy", X)
    seen.add(digest(options))
    assert inputs_of(options).folders == (folder, folder / "in")
    (folder / "1.npy").unlink()
    seen.add(digest(options))
    assert len(seen) == 4 and "" not in seen


OTHERS: dict[str, Any] = {
    "budget": Budget(share=0.5),
    "min_fidelity": 0.5,
    "confidence": 0.9,
    "strict": True,
    "min_stressed": 0.1,
    "output_fidelity": {"a/y": 0.3},
    "metrics": {"a": "variance"},
    "exact_only": True,
    "only": "share",
    "without": ("collapse",),
    "max_macs": MacsLimit(count=9),
    "max_latency": 0.5,
    "time_limit": 9.0,
    "seed": 4,
    "same_frames": True,
    "tie_inputs": False,
    "tie": ("a.x=a.x",),
    "frame_axis": ("x=1",),
    "layout": "trunk-heads",
    "precision": "fp16",
    "size": {"x": (1, 3)},
    "frames": 9,
    "held_out": 0.5,
}
"""Another value of every setting that decides."""


def test_every_setting_is_decided_on() -> None:
    assert set(OTHERS) | NOT_DECIDING == {one.name for one in fields(Settings)}
    assert not set(OTHERS) & NOT_DECIDING


@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_that_decides_counts(options: CompileOptions, name: str) -> None:
    assert digest(replace(options, **{name: OTHERS[name]})) not in ("", digest(options))


def test_what_decides_nothing_does_not_count(options: CompileOptions) -> None:
    other = replace(
        options,
        output=Path("elsewhere"),
        dry_run=True,
        overwrite=True,
        allow_script=True,
        resume=True,
        parse_memory=10**9,
        parse_seconds=9.0,
    )
    assert digest(other) == digest(options)


def test_names_preprocessing_plans_and_versions_count(
    options: CompileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [
        digest(options),
        digest(replace(options, models=(("b", Path("nets/a.onnx")),))),
        digest(replace(options, preprocessing={"a": Preprocessing(scale=2.0)})),
        inputs_of(options, plan={"actions": []}).digest,
        inputs_of(options, plan={"actions": [1]}).digest,
    ]
    monkeypatch.setattr(module, "__version__", "9.9")
    seen.append(digest(options))
    assert len(set(seen)) == len(seen) and "" not in seen


def test_arrays_count_by_dtype_shape_and_content(options: CompileOptions) -> None:
    several: list[Any] = [
        *(X, X + 1, X.astype(np.float64), X.reshape(3, 1), {"x": X}, {"a": {"x": X}}),
        {"y": X},
    ]
    seen = [digest(replace(options, calibration=one)) for one in several]
    assert len(set(seen)) == len(seen) and "" not in seen
    assert digest(replace(options, calibration=X.copy(order="F"))) == seen[0]
    assert digest(replace(options, calibration=np.array([object()]))) == ""


def script(options: CompileOptions) -> CompileOptions:
    Path("load.py").write_text("def load_data(): ...")
    return replace(options, calibration=Path("load.py"), allow_script=True)


def no_model(options: CompileOptions) -> CompileOptions:
    Path("nets/a.onnx").write_bytes(b"\x0a\xff")
    return options


def weights_elsewhere(options: CompileOptions) -> CompileOptions:
    model = onnx.load("nets/a.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../secret"
    Path("secret").write_text("mine")
    Path("nets/a.onnx").write_bytes(model.SerializeToString())
    return options


def missing_frames(options: CompileOptions) -> CompileOptions:
    return replace(options, calibration=Path("none.npz"))


def missing_plan(options: CompileOptions) -> CompileOptions:
    return replace(options, plan=Path("none.json"))


def a_folder(options: CompileOptions) -> CompileOptions:
    return replace(options, models=(("a", Path("nets")),))


@pytest.mark.parametrize(
    "case", [script, no_model, weights_elsewhere, missing_frames, missing_plan, a_folder]
)
def test_where_nobody_can_tell_what_changed_there_is_no_digest(
    options: CompileOptions, case: Callable[[CompileOptions], CompileOptions]
) -> None:
    found = inputs_of(case(options))
    assert found.digest == ""
    assert Path("secret") not in found.files
    if case is script:
        assert Path("load.py") in found.files


def test_models_are_remembered_and_a_cache_that_cannot_be_written_is_none(
    options: CompileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remember_models(inputs_of(options))
    [place] = seen_folder().iterdir()
    assert place.read_text() == str(tmp_path / "nets" / "a.onnx")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember_models(CompileInputs((), (), "", {"0" * 64: Path("nets/a.onnx")}))
