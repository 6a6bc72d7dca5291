from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.errors import DataError
from repsimc.compiler.isolation.allowance import ParseLimits
from tests.cli.conftest import Ran

Call = Callable[..., Ran]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks to be compared; nothing is."""
    seen: dict[str, Any] = {}

    def similarity(models: object, calibration: object, **wishes: Any) -> None:
        seen.update(wishes, models=models, calibration=calibration)
        raise DataError("compared")

    monkeypatch.setattr("repsimc.compiler.similarity.compare.similarity", similarity)
    return seen


def test_every_option_reaches_the_comparison(repsimc: Call, asked: dict[str, Any]) -> None:
    ran = repsimc(
        *("similarity", "a.onnx", "b.onnx", "--calib", "a=a.npz", "--calib", "eye=b.npz"),
        *("--name", "eye=b.onnx", "--measure", "cka, r2", "--within", "a", "--seed", 3),
        *("--frames", 64, "--same-frames", "--allow-script", "--sketch", "--no-cache"),
        *("--parse-memory", "1GB", "--parse-seconds", "9s"),
    )
    assert ran.err == "error: compared\n"
    del asked["progress"]
    assert asked == {
        "models": (Path("a.onnx"), Path("b.onnx")),
        "calibration": {"a": Path("a.npz"), "eye": Path("b.npz")},
        "measures": ["cka", "r2"],
        "within": ["a"],
        "names": {"eye": Path("b.onnx")},
        "frames": 64,
        "seed": 3,
        "sketch": True,
        "sites": False,
        "cache": False,
        "preprocessing": {},
        "same_frames": True,
        "allow_script": True,
        "parse_limits": ParseLimits(10**9, 9.0),
        "frame_axis": (),
    }


def test_the_command_line_wins_over_the_file(
    repsimc: Call, asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "repsimc.toml").write_text(
        'models = ["x.onnx"]\ncalib = "f.npz"\nseed = 7\nframes = 50\nsame-frames = true\n'
    )
    assert repsimc("similarity", "--frames", 64).err == "error: compared\n"
    assert (asked["models"], asked["calibration"]) == ((tmp_path / "x.onnx",), tmp_path / "f.npz")
    assert (asked["seed"], asked["frames"], asked["same_frames"]) == (7, 64, True)
