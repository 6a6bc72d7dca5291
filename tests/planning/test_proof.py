"""Floors that the held-out frames can't prove are told before anything is searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.case import Case, case_of, read_models
from repsimc.compiler.errors import FidelityError
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.proof import tell_unproved, unproved
from repsimc.compiler.progress import NoProgress
from tests.nets.networks import pyramid


def case(tmp_path: Path, count: int, **wishes: Any) -> Case:
    path = tmp_path / "a.onnx"
    onnx.save(pyramid(), path)
    x = np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)
    options = CompileOptions(models=(("a", path),), calibration={"x": x}, **wishes)
    return case_of(read_models(options, NoProgress()), options, NoProgress())


def test_the_number_of_frames_that_would_prove_it(tmp_path: Path) -> None:
    short = case(tmp_path, 100)
    with pytest.warns(UserWarning, match="the floor of 0.99 for a/y at 95 % confidence"):
        tell_unproved(short)
    told = unproved(short)
    assert told is not None and told[0].startswith("25 held-out frames can't")
    assert told[0].endswith("that takes 299 without a miss")
    assert told[1] == "give about 1200 frames"


def test_strict_refuses(tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="takes 299") as error:
        tell_unproved(case(tmp_path, 100, strict=True))
    assert "leave out --strict" in (error.value.hint or "")


@pytest.mark.parametrize(
    "wishes",
    [
        {"min_fidelity": 0.88},  # 24 frames
        {"min_fidelity": 0.97, "confidence": 0.5},  # 23 frames
        {"metrics": {"a": "variance"}},
    ],
)
def test_enough_frames(tmp_path: Path, wishes: dict[str, Any]) -> None:
    assert unproved(case(tmp_path, 100, **wishes)) is None


def test_no_number_of_frames_proves_one(tmp_path: Path) -> None:
    told = unproved(case(tmp_path, 100, min_fidelity=1.0))
    assert told == ("no number of frames proves the floor of 1 for a/y", "set a floor below 1")
