"""Accuracy of several models on labelled frames: theirs, or shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.case import Case, case_of, read_models
from repsimc.compiler.errors import DataError, UsageError
from repsimc.compiler.explore.accuracy import Judge, Labelled
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.progress import NoProgress
from tests.cli.conftest import MAP, SCORES, SHIFTED, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models a and b (class scores) and m (a map) on x [N, 3]; frames.npz, and labelled sets."""
    save(tmp_path, a=SCORES, b=SHIFTED, m=MAP)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "frames.npz", x=random.normal(size=(60, 3)).astype(np.float32))
    x = random.normal(size=(50, 3)).astype(np.float32)
    label = x.argmax(-1)
    half = np.where(np.arange(50) < 25, label, (label + 1) % 3)
    of_b = (x * np.float32([1, 1, 4])).argmax(-1)
    np.savez(tmp_path / "labelled.npz", x=x, label=label, half=half, of_b=of_b)
    np.savez(tmp_path / "reversed.npz", x=x[::-1], label=label[::-1])
    return tmp_path


def case(folder: Path, models: str, **wishes: Any) -> Case:
    options = CompileOptions(
        models=tuple((name, folder / f"{name}.onnx") for name in models),
        **{"calibration": folder / "frames.npz"} | wishes,
    )
    return case_of(read_models(options, NoProgress()), options, NoProgress())


def test_each_model_is_judged_by_its_own_labels(folder: Path) -> None:
    found = case(folder, "ab")
    judge = Judge(found, Labelled(folder / "labelled.npz", {"a": "half", "b": "of_b"}))
    assert judge.accuracy(found.original) == {("a", "y"): 0.5, ("b", "y"): 1.0}


def test_labels_for_all_are_meant_for_those_that_classify(folder: Path) -> None:
    found = case(folder, "am")
    judge = Judge(found, Labelled(folder / "labelled.npz", "label"))
    assert judge.accuracy(found.program) == {("a", "y"): 1.0}
    with pytest.raises(UsageError, match="no output of m holds class scores"):
        Judge(found, Labelled(folder / "labelled.npz", {"m": "label"}))
    with pytest.raises(UsageError, match="no output of m holds class scores"):
        Judge(case(folder, "m"), Labelled(folder / "labelled.npz", "label"))


def test_a_metric_says_what_holds_no_classes(folder: Path) -> None:
    found = case(folder, "ab", metrics={"b": "variance"})
    judge = Judge(found, Labelled(folder / "labelled.npz", "label"))
    assert set(judge.accuracy(found.original)) == {("a", "y")}


def test_models_may_have_labelled_frames_of_their_own(folder: Path) -> None:
    # Their calibration frames are one set, so their inputs are one in the program.
    found = case(folder, "ab")
    assert len(found.program.graph.inputs) == 1
    data = {"a": folder / "labelled.npz", "b": folder / "reversed.npz"}
    judge = Judge(found, Labelled(data, "label"))
    accuracy = judge.accuracy(found.program)
    assert accuracy["a", "y"] == 1.0
    alone = Judge(case(folder, "b"), Labelled(folder / "reversed.npz", "label"))
    assert alone.accuracy(case(folder, "b").program)["b", "y"] == accuracy["b", "y"] < 1


def test_all_labelled_frames_count_whatever_frames_are_used_for_fits(folder: Path) -> None:
    found = case(folder, "a", frames=20, held_out=0.25)
    judge = Judge(found, Labelled(folder / "labelled.npz", "half"))
    assert judge.accuracy(found.program) == {("a", "y"): 0.5}


def test_wrong_labels_are_refused(folder: Path) -> None:
    found = case(folder, "a")
    with pytest.raises(UsageError, match="labels are given for 'z'"):
        Judge(found, Labelled(folder / "labelled.npz", {"z": "label"}))
    with pytest.raises(DataError, match="no array 'none'"):
        Judge(found, Labelled(folder / "labelled.npz", "none"))
    np.savez(folder / "short.npz", x=np.zeros((40, 3), np.float32), label=np.zeros(3, np.int64))
    with pytest.raises(DataError, match="3 labels 'label' for 40 frames"):
        Judge(found, Labelled(folder / "short.npz", "label"))
    np.savez(folder / "wide.npz", x=np.ones((40, 3), np.float32), label=np.full(40, 3))
    with pytest.raises(DataError, match="a label is 3, and output 'y' of model 'a' has 3 classes"):
        Judge(found, Labelled(folder / "wide.npz", "label")).accuracy(found.program)
