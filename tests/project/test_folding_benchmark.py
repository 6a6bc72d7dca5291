"""benchmarks/folding.py on networks built here: its figures, and what it says without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from tests.nets.networks import Net, smooth_images

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Importer = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def near_one() -> onnx.ModelProto:
    """Convolutions and linear layers with PReLUs of slope 1, and one of slope 0.9."""
    net = Net(1)
    x = net.node("PRelu", net.conv("x", 1, 8), net.weight(net.random.random((8, 1, 1))))
    x = net.node("PRelu", net.conv(x, 8, 24, 1), net.weight(np.ones((24, 1, 1))))
    x = net.node("PRelu", net.conv(x, 24, 8, 3, pads=[0] * 4), net.weight(np.full((8, 1, 1), 0.5)))
    flat = net.node("Flatten", x)
    h = net.node("PRelu", net.gemm(flat, 8 * 36, 48), net.weight(np.ones(48)))
    h = net.node("PRelu", net.gemm(h, 48, 128), net.weight(np.full(128, 0.9)))
    net.gemm(h, 128, 10, out="y")
    return net.model(x=("N", 1, 8, 8))


def over_wide() -> onnx.ModelProto:
    """Convolutions with norms of which most factors and offsets are 0."""
    net = Net(2)
    x, channels = "x", 1
    for width in (16, 24):
        x = net.conv(x, channels, width, bias=False)
        on = net.random.random(width) < 0.3
        norm = [net.normal(width) * on, net.normal(width) * on, net.normal(width)]
        norm.append(net.random.uniform(0.5, 2, width))
        x = net.relu(net.node("BatchNormalization", x, *map(net.weight, norm)))
        channels = width
    net.head(x, channels, 10)
    return net.model(x=("N", 1, 8, 8))


def data(module: Importer) -> Any:
    images = smooth_images(300, 1)
    labels = np.arange(300) % 10
    kind = module("digit_nets").Digits
    return kind((images[:100], labels[:100]), images[100:200], (images[200:], labels[200:]))


@pytest.mark.parametrize(
    ("build", "macs", "what"),
    [(near_one, 0.5, "folds the activation"), (over_wide, 0.3, "goes without")],
)
def test_exact_folds_keep_outputs_and_remove_operators(
    module: Importer, build: Callable[[], onnx.ModelProto], macs: float, what: str
) -> None:
    found = module("folding").network_records("case", build(), data(module))
    by_name = {record.name.removeprefix("case/"): record for record in found}
    assert by_name["exact, largest change of an output"].met
    assert by_name["exact, operators removed"].met
    assert by_name["exact, MACs"].value < macs
    assert by_name["free, MACs"].value <= by_name["exact, MACs"].value
    left = module("folding").MACS_LEFT * by_name["exact, MACs"].value
    assert by_name["inexact, MACs"].value <= left
    assert abs(by_name["inexact, change of accuracy"].value) <= 5
    assert what in by_name["inexact, change of accuracy"].extra
    assert by_name["exact, latency"].value > 0


def test_a_change_of_an_output_would_be_seen(module: Importer) -> None:
    folding = module("folding")
    original = folding.program_of(near_one())
    moved = original.copy()
    weight = next(t for t in moved.weights().values() if t.values.ndim == 1)
    weight.values = weight.values + np.float32(0.01)
    (change, *_) = folding.exact_records("case", original, moved, smooth_images(8, 1))
    assert change.met is False


def test_without_torch_it_says_so(module: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    folding = module("folding")
    monkeypatch.setattr(folding.importlib.util, "find_spec", lambda name: None)
    (record,) = folding.fold_records()
    assert record.name == "fold/skipped" and "torch" in record.extra
