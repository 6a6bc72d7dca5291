"""What benchmarks/prediction_figures.py and scatter.py make of trials; none needs the zoo."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

Importer = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Importer:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def trial(module: Importer, number: int, lost: float, **more: Any) -> Any:
    prediction = module("prediction")
    pair = prediction.Pair("cifar10_d", more.pop("receiver", "r"), "cifar10", "t", 9, "independent")
    values = {
        "cut": "c",
        "predicted": lost / 100,
        "damage": lost / 100,
        "probe_seconds": 1.0,
        "measure_seconds": 4.0,
        "scores": {"affine R2": 0.5, "CKA": -lost, "random": (number * 7 % 5) / 5},
    }
    return prediction.Trial(pair=pair, lost=lost, **{**values, **more})


def test_a_perfect_predictor_correlates_fully(module: Importer) -> None:
    figures = module("prediction_figures")
    trials = [trial(module, k, float(k)) for k in range(10)]
    records = {record.name: record for record in figures.prediction_records(trials)}
    found = records["prediction, independent/r of the probe"]
    assert found.value == pytest.approx(1) and found.met and "10 sites of 1 pairs" in found.extra
    assert records["prediction, independent/r of CKA"].value == pytest.approx(1)
    # A predictor that says the same of every site predicts nothing.
    assert records["prediction, independent/r of affine R2"].value == 0
    assert records["prediction, independent/time of a probe by a measured swap"].value == 0.25


def test_the_interval_holds_r_and_narrows_with_more_sites(module: Importer) -> None:
    figures = module("prediction_figures")
    random = np.random.default_rng(0)
    x = random.standard_normal(400)
    y = x + 0.5 * random.standard_normal(400)
    few, many = figures.interval(x[:30], y[:30]), figures.interval(x, y)
    assert many[0] < figures.correlation(x, y) < many[1]
    assert many[1] - many[0] < few[1] - few[0]


def test_regret_is_against_the_best_donor_of_the_same_cut(module: Importer) -> None:
    figures = module("prediction_figures")
    trials = [
        trial(module, 0, 4.0, predicted=0.01),  # the probe's choice
        trial(module, 1, 1.0, predicted=0.5),
        trial(module, 2, 0.0, predicted=0.0, cut="alone"),  # nothing to choose
    ]
    assert figures.regrets(trials) == {"d -> r": 3.0}
    near = [trial(module, 0, 4.0, predicted=0.105), trial(module, 1, 1.0, predicted=0.100)]
    assert figures.regrets(near) == {"d -> r": 0.0}
    assert figures.regrets(trials, "CKA") == {"d -> r": 0.0}  # here its score is exact


def test_trials_survive_a_file_and_the_plot_is_xml(module: Importer, tmp_path: Path) -> None:
    prediction = module("prediction")
    trials = [trial(module, k, float(k * k), receiver="<r>") for k in range(6)]
    prediction.write_trials(trials, tmp_path / "trials.json")
    assert prediction.read_trials(tmp_path / "trials.json") == trials
    root = ElementTree.fromstring(module("scatter").scatter(trials))
    dots = [e for e in root.iter() if e.tag.endswith("circle") and e.get("r") == "2.6"]
    assert len(dots) == 3 * len(trials)
