"""Frames, inputs and recipes that the tests of calibration are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from repsimc.compiler.frames.calibration import InputSpec, Preprocessing

UNIT = Preprocessing(scale=1.0)


def spec(name="x", shape=("N", 3, 4, 4), dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), shape)


def floats(count=20, shape=(3, 4, 4), seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(dtype)


def pixels(count=20, shape=(4, 4, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def all_rows(frames, model):
    return np.sort(np.concatenate([frames.fit_rows(model), frames.held_out_rows(model)]))


def fed(frames, model="a", name="x"):
    return frames.feed(model, np.arange(frames.count(model)))[name]


def save_images(folder: Path, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}{suffix}")
    return folder


ONE = {"a": [spec()]}
