from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.options import CompileOptions, Settings
from repsimc.compiler.units import Budget, MacsLimit

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
        {"time_limit": 0},
        {"time_limit": -1.5},
    ],
    ids=str,
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CompileOptions(**({"models": (("a", A),)} | wrong))


WRONG: dict[str, list[Any]] = {
    "budget": [b"60%", [60], {}, True, "lots", 60, 0.6],
    "output": [3, b"a", ""],
    "min_fidelity": ["0.9", None, True, [0.9]],
    "output_fidelity": [0.9, {"a": "0.9"}, {3: 0.9}, [("a", 0.9)]],
    "metrics": ["top1", {"a": 1}],
    "exact_only": ["yes", 1, None],
    "only": [3, ["share"]],
    "without": [3, [3], None],
    "max_macs": [b"60%", [1], True, "60"],
    "max_latency": [b"8ms", [1], True, "8"],
    "time_limit": [b"10m", [1], True, "soon", "0s"],
    "resume": ["yes", 1, None],
    "plan": [3, ["a"]],
    "dry_run": ["no", None],
    "seed": ["0", 0.0, None, True, 10**30],
    "same_frames": [1],
    "tie_inputs": ["x", None],
    "layout": [3, None],
    "precision": [16],
    "target": [3, None],
    "frames": ["256", 256.0, True],
    "held_out": ["a quarter", None],
    "allow_script": [1],
    "overwrite": ["yes"],
    "confidence": ["0.9", None, True],
    "strict": ["yes", None],
    "min_stressed": ["0.9", True],
    "tie": [3, [3], None],
    "frame_axis": [3, [3], None],
    "size": [3, ["x"], {"x": 3}, {"x": ["a"]}, {3: [1]}, None],
    "parse_memory": [b"4GB", [1], True, "much"],
    "parse_seconds": [b"60s", [1], True, "60"],
    "calibration": [3, b"a", {"a": 3}, {3: "a"}, [1.0]],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_another_type_is_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(UsageError) as caught:
            CompileOptions(**{"models": (("a", A),), name: value})
        assert name in caught.value.message or "meant?" in caught.value.message, value


def test_every_setting_has_its_wrong_types() -> None:
    # A kind of setting that is read nowhere would take anything.
    assert set(Settings.__annotations__) <= set(WRONG)


def test_calibration_may_be_by_model_and_input() -> None:
    x = np.zeros((4, 3), np.float32)
    options = CompileOptions(models=(("a", A),), calibration={"a": {"x": x, "y": "y.npy"}})  # type: ignore[arg-type]
    assert options.calibration == {"a": {"x": x, "y": Path("y.npy")}}


def test_python_takes_what_the_command_line_takes() -> None:
    options = CompileOptions(
        models=(("a", A),),
        budget="60%",
        max_macs=np.int64(1000),
        max_latency="8ms",
        time_limit="10m",
        output="out",
        plan="plan.json",
        without="collapse",
        min_fidelity=np.float32(0.5),
        seed=np.int64(3),
        frames=np.uint16(64),
        exact_only=np.bool_(True),
        calibration={"a": "a.npz"},
    )
    assert options.budget == Budget(share=0.6) and options.max_macs == MacsLimit(count=1000)
    assert (options.max_latency, options.time_limit) == (0.008, 600)
    assert CompileOptions(models=(("a", A),), time_limit=np.int64(90)).time_limit == 90
    assert options.plan == Path("plan.json")
    assert (options.min_fidelity, options.seed, options.frames) == (0.5, 3, 64)
    assert options.without == ("collapse",) and options.exact_only is True
    assert options.calibration == {"a": Path("a.npz")}
    assert CompileOptions(models=(("a", A),), budget=10**6).budget == Budget(nbytes=10**6)  # type: ignore[arg-type]


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
