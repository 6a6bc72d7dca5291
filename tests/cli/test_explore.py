from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.errors import DataError
from repsimc.compiler.explore.accuracy import Labelled
from repsimc.compiler.explore.exploration import ExploreOptions
from repsimc.compiler.options import CompileOptions
from tests.cli.conftest import Ran

Call = Callable[..., Ran]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks to be explored; nothing is."""
    seen: dict[str, Any] = {}

    def explore_models(options: CompileOptions, asked: ExploreOptions, progress: Any) -> None:
        seen.update(options=options, asked=asked)
        raise DataError("explored")

    monkeypatch.setattr("repsimc.compiler.explore.exploration.explore_models", explore_models)
    return seen


def test_every_option_reaches_the_exploration(repsimc: Call, asked: dict[str, Any]) -> None:
    ran = repsimc(
        *("explore", "a.onnx", "b.onnx", "--calib", "a=a.npz", "--calib", "net=b.npz"),
        *("--name", "net=b.onnx", "--points", 7, "--measure", 3, "--min-fidelity", 0.9),
        *("--only", "depth", "--without", "tie-weights", "--seed", 3, "--frames", 64),
        *("--same-frames", "--separate-inputs", "--tie", "a.x=net.x", "--frame-axis", "a.x=1"),
        *("--data", "d.npz", "--labels", "a=digit", "--labels", "net=parity"),
        *("--allow-script", "-o", "out", "--overwrite", "--confidence", 0.9),
        *("--parse-memory", "1GB", "--parse-seconds", "60s", "--precision", "auto"),
    )
    assert ran.err == "error: explored\n"
    assert asked["options"] == CompileOptions(
        models=(("a", Path("a.onnx")), ("net", Path("b.onnx"))),
        calibration={"a": Path("a.npz"), "net": Path("b.npz")},
        min_fidelity=0.9,
        only="depth",
        without=("tie-weights",),
        seed=3,
        frames=64,
        same_frames=True,
        tie_inputs=False,
        tie=("a.x=net.x",),
        frame_axis=("a.x=1",),
        allow_script=True,
        output=Path("out"),
        overwrite=True,
        confidence=0.9,
        parse_memory=10**9,
        parse_seconds=60.0,
        precision="auto",
    )
    labelled = Labelled(Path("d.npz"), {"a": "digit", "net": "parity"})
    assert asked["asked"] == ExploreOptions(7, 3, labelled)


def test_a_file_tells_what_is_explored_and_nothing_of_a_compilation(
    repsimc: Call, asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text(
        'models = ["x.onnx"]\ncalib = "f.npz"\nseed = 7\nframes = 50\nheld-out = 0.5\n'
        'budget = "50%"\nmin-fidelity = 0.5\nonly = "share"\noutput = "out"\noverwrite = true\n'
        '[metrics]\nx = "variance"\n[fidelity]\nx = 0.8\n'
    )
    assert repsimc("explore", "--config", "my.toml").err == "error: explored\n"
    assert asked["options"] == CompileOptions(
        models=(("x", Path("x.onnx")),),
        calibration=Path("f.npz"),
        seed=7,
        frames=50,
        held_out=0.5,
        min_fidelity=0.5,
        only="share",
        metrics={"x": "variance"},
        output_fidelity={"x": 0.8},
    )
    assert asked["asked"] == ExploreOptions(config=Path("my.toml"))


def test_labels_and_data_go_together(repsimc: Call) -> None:
    for words in (["--data", "d.npz"], ["--labels", "y"]):
        ran = repsimc("explore", "a.onnx", *words)
        assert ran.code == 2 and "--data and --labels go together" in ran.err
