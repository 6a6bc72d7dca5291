"""Related small networks as files, frames for them, and compilations of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.units import parse_budget
from tests.nets.networks import perturbed, pyramid, smooth_images

WIDTHS = (12, 16, 24)


def siblings() -> dict[str, onnx.ModelProto]:
    """A network; the same with weights moved by some percent and another head, twice."""
    base = pyramid(0, WIDTHS)
    head = perturbed(base, 1.0, 9, only=["w6"])
    return {"a": base, "b": perturbed(head, 0.03, 1), "c": perturbed(base, 0.08, 2)}


def save_all(folder: Path, models: Mapping[str, onnx.ModelProto]) -> Path:
    """name.onnx for every model, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.onnx, b.onnx, c.onnx and their frames.npz."""
    folder = save_all(tmp_path_factory.mktemp("family"), siblings())
    np.savez(folder / "frames.npz", x=smooth_images(400))
    return folder


@pytest.fixture(scope="session")
def work(family: Path) -> Callable[..., CompileResult]:
    """`work(budget="60%", ...)` compiles the family; further keywords are CompileOptions."""

    def run(
        *, models: str = "abc", budget: str | None = None, folder: Path = family, **wishes: Any
    ) -> CompileResult:
        wishes = {"calibration": folder / "frames.npz", "min_fidelity": 0.9} | wishes
        return compile_models(
            CompileOptions(
                models=tuple((name, folder / f"{name}.onnx") for name in models),
                budget=None if budget is None else parse_budget(budget),
                **wishes,
            )
        )

    return run


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
