"""Recipes for images: values that make sense, and what a model's input takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.frames.preprocessing import Preprocessing
from tests.frames.given_frames import UNIT, Case, check_refused, images, spec


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": [0, 4]}, "height, width"),
        ({"size": "224"}, "finite numbers"),
        ({"layout": "CHW"}, "NCHW"),
        ({"colour": "rgb"}, "BGR"),
        ({"scale": 0}, "multiplied"),
        ({"scale": float("nan")}, "finite"),
        ({"mean": [1, 2]}, "one per channel"),
        ({"std": [1, 0, 1]}, "one per channel"),
        ({"resize": "squeeze"}, "letterbox"),
        ({"array": 3}, "name of an array"),
        ({"multiple": 0}, "whole number of pixels"),
        ({"multiple": 32, "size": [64, 64]}, "leave one of them out"),
    ],
)
def test_preprocessing_refuses_nonsense(fields, says):
    with pytest.raises(UsageError, match=says):
        Preprocessing(**fields)


def test_preprocessing_takes_what_toml_gives():
    read = Preprocessing(size=[4, 8], mean=0.5, std=[1, 2, 3], scale=1)  # pyright: ignore
    assert (read.size, read.mean, read.std) == ((4, 8), (0.5,), (1.0, 2.0, 3.0))
    assert hash(read)


CASES = {
    "images without a scale": Case(
        lambda p: images(p),
        ("pixel (0..255)", "nothing is guessed", "[preprocess.a]", "size = [4, 4]", '"NCHW"'),
    ),
    "layout not clear": Case(
        lambda p: images(p),
        ("does not say which axis is colour", 'layout = "NCHW"'),
        {"a": [spec(shape=("N", "C", "H", "W"))]},
        {"preprocessing": {"": UNIT}},
    ),
    "wrong channels": Case(
        lambda p: images(p),
        ("3 channels", "GRAY images have 1"),
        options={"preprocessing": {"a": Preprocessing(scale=1.0, colour="GRAY")}},
    ),
    "wrong size": Case(
        lambda p: images(p),
        ("[8, 8]", "takes [4, 4]"),
        options={"preprocessing": {"a": Preprocessing(scale=1.0, size=(8, 8))}},
    ),
    "means for three channels": Case(
        lambda p: images(p),
        ("mean has 3 values", "GRAY"),
        {"a": [spec(shape=("N", 1, 4, 4))]},
        {"preprocessing": {"a": Preprocessing(scale=1.0, mean=(1, 2, 3))}},
    ),
    "scale for an uint8 input": Case(
        lambda p: images(p),
        ("pixels 0..255 as they are", "leave scale"),
        {"a": [spec(dtype=np.uint8)]},
        {"preprocessing": {"a": Preprocessing(scale=0.5)}},
    ),
    "images for a vector": Case(
        lambda p: images(p), ("no [N, C, H, W] shape",), {"a": [spec(shape=("N", 48))]}
    ),
    "images for integers": Case(
        lambda p: images(p),
        ("takes int64",),
        {"a": [spec(dtype=np.int64)]},
        {"preprocessing": {"": UNIT}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str, tmp_path: Path):
    check_refused(CASES[name], tmp_path)
