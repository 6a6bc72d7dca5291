"""Small compiles whose plans, graphs and weights are stored: what a change of the code changes.

Plans and graphs have to be the same, weights within float noise: the last bits of a fit depend on
the processor. `--update-golden` stores what comes out now.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.text import text
from repsimc.compiler.options import FEW_BITS, CompileOptions
from repsimc.compiler.planning import merge_speed
from repsimc.compiler.units import parse_budget, parse_macs
from tests.end_to_end.conftest import siblings
from tests.nets.foldable import (
    attention_net,
    gelu_mlp,
    sometimes_dead,
    twice_the_units,
    twins,
)
from tests.nets.networks import Array, Net, perturbed, pyramid, smooth_images
from tests.nets.residual import residual_net

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "compiles"
DIGITS = ROOT / "examples" / "digits"
# Of a weight's root mean square. Between OpenBLAS's kernels for Prescott, Nehalem, Haswell, Zen and
# SkylakeX fits differ by up to 5e-4 of it; where classifiers of the digits are fitted, 5e-3.
NOISE, DIGITS_NOISE = 2e-3, 2e-2
# A number that lies between two codes may take either: a step is 1 % of the largest number.
FEW_BITS_NOISE = 5e-2
# Two figures of four digits each, as they are stored.
DIGITS_TOLD = 1e-3
# Of a fidelity or similarity that a plan expects.
EXPECTED = 2e-3

Models = Mapping[str, onnx.ModelProto]
Frames = Mapping[str, Array]


def frozen() -> Models:
    """One trunk: other heads, and in c the last convolution too."""
    base = pyramid(0, (12, 16, 24))
    return {
        "a": base,
        "b": perturbed(base, 1.0, 9, only=["w6"]),
        "c": perturbed(base, 1.0, 5, only=["w6", "w4"]),
    }


def two_deep() -> Models:
    """A residual network, and one of its origin with another head."""
    base = residual_net(2, scale=0.3)
    head = base.graph.initializer[-2].name
    return {"a": base, "b": perturbed(perturbed(base, 1.0, 3, only=[head]), 0.02, 1)}


def two_inputs() -> Models:
    """Relatives of two branches, each from an input of its own."""
    net = Net(3)
    ends = net.relu(net.conv("x", 3, 8), out="p"), net.relu(net.conv("z", 2, 8), out="q")
    x = net.relu(net.conv(net.node("Add", *ends, out="s"), 8, 12, out="m"), out="r")
    net.head(net.relu(net.conv(x, 12, 8), out="t"), 8, 5)
    base = net.model(x=["N", 3, 8, 8], z=["N", 2, 8, 8])
    return {"a": base, "b": perturbed(base, 0.04, 1)}


def images(count: int = 200) -> Frames:
    return {"x": smooth_images(count)}


def some_tokens() -> Frames:
    """In all directions: fits of tokens in a few of them are worse conditioned, and noisier."""
    return {"x": np.random.default_rng(0).normal(size=(200, 6, 10)).astype(np.float32)}


def two_streams() -> Frames:
    return {"x": smooth_images(200), "z": smooth_images(200, 2, seed=5)}


@dataclass(frozen=True)
class Case:
    """Models, frames (one set for all, or one by model's name) and what is asked for.

    Without `models` it is the example with digits.
    """

    models: Callable[[], Models] | None
    frames: Callable[[], Frames] | Mapping[str, Callable[[], Frames]]
    wishes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def noise(self) -> float:
        """What weights may differ by between processors, of their root mean square."""
        if self.wishes.get("precision") in FEW_BITS:
            return FEW_BITS_NOISE
        return DIGITS_NOISE if self.models is None else NOISE


def one(model: Callable[[], onnx.ModelProto]) -> Callable[[], Models]:
    return lambda: {"a": model()}


# The choice between two plans must not hang on what processors round otherwise, so that each case
# is one of few kinds, of which one is the clear winner.
FOLDS = ("fold-activation", "prune-channels", "freeze-branch", "reuse-attention", "tie-weights")
WIDTHS = ("narrow-layer", "narrow-attention")
CASES: dict[str, Case] = {
    "digits_budget": Case(
        None, images, {"frames": 160, "budget": parse_budget("80%"), "only": "share"}
    ),
    "frozen_siblings": Case(frozen, images, {"min_fidelity": 0.99, "only": "share"}),
    "tuned_siblings": Case(siblings, images, {"budget": parse_budget("70%"), "only": "share"}),
    "fold_activation": Case(
        one(partial(gelu_mlp, 0.15)),
        some_tokens,
        {
            "max_macs": parse_macs("60%"),
            "min_fidelity": 0.7,
            "without": ("collapse", *FOLDS[1:], *WIDTHS),
        },
    ),
    "narrow_layer": Case(
        one(twice_the_units), images, {"budget": parse_budget("60%"), "without": FOLDS}
    ),
    "tie": Case(
        one(twins),
        images,
        {
            "budget": parse_budget("70%"),
            "min_fidelity": 0.5,
            "without": ("collapse", *FOLDS[:-1], *WIDTHS),
        },
    ),
    "regions": Case(
        one(partial(residual_net, 3, scale=0.3)),
        partial(images, 80),
        {"budget": parse_budget("60%"), "min_fidelity": 0.6, "without": (*FOLDS, *WIDTHS)},
    ),
    "joint_bytes": Case(
        two_deep,
        partial(images, 80),
        {"budget": parse_budget("33%"), "min_fidelity": 0.5, "without": (*FOLDS, *WIDTHS)},
    ),
    "several_inputs": Case(
        two_inputs,
        two_streams,
        {"budget": parse_budget("75%"), "min_fidelity": 0.8, "only": "share"},
    ),
    "few_bits": Case(
        frozen,
        partial(images, 80),
        {"precision": "int8", "only": "precision", "min_fidelity": 0.9},
    ),
    "frames_per_model": Case(
        lambda: {"a": sometimes_dead(), "b": attention_net()},
        {"a": images, "b": some_tokens},
        {
            "budget": parse_budget("80%"),
            "min_fidelity": 0.6,
            "without": ("collapse", "fold-activation", "tie-weights", *WIDTHS),
        },
    ),
}


def made(case: Case, folder: Path) -> CompileResult:
    """The case compiled; merges count as faster, whatever a clock says."""

    def saved(name: str, frames: Callable[[], Frames]) -> Path:
        np.savez(folder / f"{name}.npz", **frames())
        return folder / f"{name}.npz"

    if case.models is None:
        paths = sorted(DIGITS.glob("*.onnx"))
        calibration = DIGITS / "frames.npz"
    else:
        paths = []
        for name, proto in case.models().items():
            paths.append(folder / f"{name}.onnx")
            onnx.save(proto, paths[-1])
        if isinstance(case.frames, Mapping):
            calibration = {name: saved(name, given) for name, given in case.frames.items()}
        else:
            calibration = saved("frames", case.frames)
    wishes: dict[str, Any] = {"min_fidelity": 0.9, "calibration": calibration, **case.wishes}
    return compile_models(
        CompileOptions(models=tuple((path.stem, path) for path in paths), **wishes)
    )


def described(result: CompileResult) -> dict[str, Any]:
    """The plan, the graph without digests, and figures of each floating weight."""
    plan = result.plan.to_json()
    plan["models"] = list(plan["models"])
    for action in plan["actions"]:
        for key, value in action["expected"].items():
            if isinstance(value, float):
                action["expected"][key] = round(value, 3)
    plan["left_alone"] = {
        name: re.sub(r"\d\.\d+", "#", why) for name, why in plan["left_alone"].items()
    }
    graph = re.sub(r" #[0-9a-f]{8}\b", "", text(result.program))
    return {"plan": plan, "graph": graph.splitlines(), "weights": figures(result.program)}


def figures(program: Program) -> dict[str, str]:
    """Mean, standard deviation and the first four values of each floating weight."""
    found: dict[str, str] = {}
    for name, tensor in program.weights().items():
        values = np.asarray(tensor.values)
        if values.dtype.kind == "f" and values.size:
            flat = values.astype(np.float64).ravel()
            numbers = [flat.mean(), flat.std(), *flat[:4]]
            found[name] = " ".join(f"{number:.4g}" for number in numbers)
    return found


def differences(found: Any, stored: Any, noise: float = NOISE, where: str = "") -> list[str]:
    """Where the two differ by more than noise; floats are those that a plan expects."""
    if where == "/weights":
        return [
            f"{where}/{name}: {found.get(name)} is not {stored.get(name)}"
            for name in sorted({*found, *stored})
            if not _alike(found.get(name), stored.get(name), noise)
        ]
    if isinstance(found, dict) and isinstance(stored, dict):
        keys = sorted({*found, *stored})
        parts = [(str(key), found.get(key), stored.get(key)) for key in keys]
    elif isinstance(found, list) and isinstance(stored, list):
        parts = [(str(index), *pair) for index, pair in enumerate(zip_longest(found, stored))]
    elif isinstance(found, float) and isinstance(stored, float):
        return [] if abs(found - stored) <= EXPECTED else [f"{where}: {found} is not {stored}"]
    else:
        return [] if found == stored else [f"{where}: {found} is not {stored}"]
    return [
        line
        for key, one, other in parts
        for line in differences(one, other, noise, f"{where}/{key}")
    ]


def _alike(found: str | None, stored: str | None, noise: float) -> bool:
    if found is None or stored is None:
        return False
    one, other = (np.array(figures.split(), float) for figures in (found, stored))
    if len(one) != len(other):
        return False
    size = float(np.hypot(other[0], other[1]))
    return bool(np.all(np.abs(one - other) <= noise * size + DIGITS_TOLD * np.abs(other)))


@pytest.fixture(autouse=True)
def merges_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_speed, "best_seconds", lambda *_ends, **_options: [1.0, 0.9])


@pytest.mark.parametrize("name", CASES)
def test_a_compile_comes_out_as_it_was(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = described(made(CASES[name], tmp_path))
    path = GOLDEN / f"{name}.json"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8", newline="\n")
    unlike = differences(found, json.loads(path.read_text(encoding="utf-8")), CASES[name].noise)
    assert not unlike, "\n".join([*unlike[:20], "if that is meant: pytest --update-golden"])


def test_a_weight_that_is_one_percent_off_is_seen(tmp_path: Path) -> None:
    name = "narrow_layer"
    result = made(CASES[name], tmp_path)
    stored = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    weights = {name: t for name, t in result.program.weights().items() if t.values.any()}
    assert len(weights) > 3
    for weight, tensor in weights.items():
        values = tensor.values
        for off in (1.01, 0.99):
            tensor.values = values * np.float32(off)
            (line,) = differences(described(result), stored)
            assert line.startswith(f"/weights/{weight}: ")
        tensor.values = values
    assert differences(described(result), stored) == []


def test_other_plans_and_graphs_are_seen() -> None:
    stored = json.loads((GOLDEN / "regions.json").read_text(encoding="utf-8"))
    other = json.loads(json.dumps(stored))
    other["plan"]["actions"][0]["entry"] = "a/stem"
    other["plan"]["actions"][0]["expected"]["fidelity"] -= 0.01
    other["graph"][1] = "model b"
    del other["weights"]["a/w0"]
    assert [line.partition(":")[0] for line in differences(other, stored)] == [
        "/graph/1",
        "/plan/actions/0/entry",
        "/plan/actions/0/expected/fidelity",
        "/weights/a/w0",
    ]
    del other["graph"][-1]
    assert any(
        line.endswith(f"None is not {stored['graph'][-1]}") for line in differences(other, stored)
    )


def test_every_golden_compile_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)
