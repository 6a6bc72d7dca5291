from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.options import CompileOptions

A, B = Path("models/a.onnx"), Path("models/b.onnx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ()},
        {"min_fidelity": 1.01},
        {"min_fidelity": float("nan")},
        {"output_fidelity": {"a": -0.1}},
        {"output_fidelity": {"c/y": 0.5}},
        {"metrics": {"c": "top1"}},
        {"held_out": 0.0},
        {"held_out": 1.0},
        {"frames": 1},
        {"seed": -1},
    ],
    ids=str,
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CompileOptions(**({"models": (("a", A),)} | wrong))


def test_floors_and_metrics_go_from_wide_to_narrow() -> None:
    options = CompileOptions(
        models=(("a", A), ("b", B)),
        min_fidelity=0.9,
        output_fidelity={"a": 0.8, "a/y": 0.7},
        metrics={"a": "top1", "a/y": "variance"},
    )
    assert [options.floor(*at) for at in (("a", "y"), ("a", "z"), ("b", "y"))] == [0.7, 0.8, 0.9]
    assert [options.metric(*at) for at in (("a", "y"), ("a", "z"), ("b", "y"))] == [
        "variance",
        "top1",
        None,
    ]
