"""The command that compiles a point: it is read back to the options that it was made from."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.cli.main import main
from repsimc.compiler.errors import DataError
from repsimc.compiler.explore.replay_command import replay_command
from repsimc.compiler.explore.report import ExploredOutput
from repsimc.compiler.options import CompileOptions
from tests.explore.conftest import fidelity

MODELS = (("a", Path("a.onnx")), ("other", Path("my models/b.onnx")))
PLAN = Path("out/plans/003.json")


def outputs(*values: float, floor: float = 0.99) -> list[ExploredOutput]:
    return [ExploredOutput("a", f"y{k}", 0.0, fidelity(v, floor)) for k, v in enumerate(values)]


@pytest.mark.parametrize(
    "wishes",
    [
        {"calibration": Path("frames here.npz")},
        {"calibration": {"a": Path("a.npz"), "other": Path("b.npz")}, "same_frames": True},
        {"calibration": Path("f.npz"), "frames": 64, "seed": 3, "tie": ("a.x=other.x",)},
        {"calibration": Path("f.npz"), "tie_inputs": False, "frame_axis": ("a.x=1",)},
        {"calibration": Path("f.py"), "allow_script": True, "min_fidelity": 0.9},
        {"calibration": Path("f.npz"), "parse_memory": 1 << 30, "parse_seconds": 60.0},
        {"calibration": Path("f.npz"), "precision": "auto"},
    ],
    ids=str,
)
def test_the_command_says_what_was_asked(
    wishes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CompileOptions] = []

    def compile_models(options: CompileOptions, progress: object, **_: object) -> None:
        seen.append(options)
        raise DataError("asked")

    options = CompileOptions(models=MODELS, output=Path("bundle"), **wishes)
    words = shlex.split(replay_command(options, PLAN, outputs(0.999)))
    assert words[:2] == ["repsimc", "compile"]
    monkeypatch.setattr("repsimc.compiler.driver.compile_models", compile_models)
    monkeypatch.chdir(tmp_path)
    assert main(words[1:]) == DataError.exit_code
    assert seen == [replace(options, plan=PLAN)]


def test_a_floor_that_the_point_misses_is_lowered_below_what_was_measured() -> None:
    options = CompileOptions(models=MODELS, calibration=Path("f.npz"))
    command = replay_command(options, PLAN, outputs(0.97123, 0.981))
    assert "--min-fidelity 0.9712 " in command
    assert "--min-fidelity" not in replay_command(options, PLAN, outputs(0.999))
    unknown = [ExploredOutput("a", "y", 0.5)]
    assert "--min-fidelity" not in replay_command(options, PLAN, unknown)
    assert "--min-fidelity 0 " in replay_command(options, PLAN, outputs(float("nan")))


def test_a_floor_of_its_own_is_left_to_the_file_that_says_it() -> None:
    options = CompileOptions(
        models=MODELS, calibration=Path("f.npz"), output_fidelity={"a/y0": 0.99}
    )
    assert "--min-fidelity" not in replay_command(options, PLAN, outputs(0.9))


def test_a_file_of_options_is_named_again() -> None:
    options = CompileOptions(models=MODELS, calibration=Path("f.npz"))
    assert "--config 'my file.toml'" in replay_command(options, PLAN, [], Path("my file.toml"))


def test_arrays_have_no_name_on_a_command_line() -> None:
    options = CompileOptions(models=MODELS, calibration=np.zeros((20, 3)))
    assert "--calib FRAMES" in replay_command(options, PLAN, [])
