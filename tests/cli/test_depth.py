from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.errors import DataError
from repsimc.compiler.options import CompileOptions
from tests.cli.conftest import Ran

Call = Callable[..., Ran]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks to be measured; nothing is."""
    seen: dict[str, Any] = {}

    def depth(options: CompileOptions, **wishes: Any) -> None:
        seen.update(wishes, options=options)
        raise DataError("measured")

    monkeypatch.setattr("repsimc.compiler.depth.curve.depth", depth)
    return seen


def test_every_option_reaches_the_measurement(repsimc: Call, asked: dict[str, Any]) -> None:
    ran = repsimc(
        *("depth", "a.onnx", "--calib", "f.npz", "--pick", 2, "--most", 5, "--seed", 3),
        *("--name", "net=a.onnx", "--frames", 64, "--allow-script", "-o", "out"),
    )
    assert ran.err == "error: measured\n"
    assert asked["options"] == CompileOptions(
        models=(("net", Path("a.onnx")),),
        calibration=Path("f.npz"),
        seed=3,
        frames=64,
        allow_script=True,
        output=Path("out"),
    )
    assert (asked["pick"], asked["keep"], asked["most"]) == (2, None, 5)


def test_a_file_tells_what_is_measured_and_nothing_of_a_compilation(
    repsimc: Call, asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "repsimc.toml").write_text(
        'models = ["x.onnx"]\ncalib = "f.npz"\nseed = 7\nframes = 50\nheld-out = 0.5\n'
        'budget = "50%"\nmin-fidelity = 0.5\nonly = "share"\noutput = "out"\n'
        '[metrics]\nx = "variance"\n'
    )
    assert repsimc("depth", "--seed", 0).err == "error: measured\n"
    assert asked["options"] == CompileOptions(
        models=(("x", tmp_path / "x.onnx"),),
        calibration=tmp_path / "f.npz",
        frames=50,
        held_out=0.5,
        metrics={"x": "variance"},
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "d.npz"], "--data and --labels go together"),
        (["--pick", "2", "--min-fidelity", "0.9"], "are two ways to choose"),
    ],
)
def test_options_that_do_not_go_together(repsimc: Call, words: list[str], said: str) -> None:
    ran = repsimc("depth", "a.onnx", *words)
    assert ran.code == 2 and said in ran.err
