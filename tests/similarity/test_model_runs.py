"""Models run over frames: once each, and not again for what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import repsimc
from repsimc.compiler.frames.preprocessing import Preprocessing
from repsimc.compiler.similarity import reduction as reduction_module
from repsimc.compiler.similarity.compare import similarity
from tests.nets.networks import Net, smooth_images


def paths(folder: Path, *names: str) -> list[Path]:
    return [folder / f"{name}.onnx" for name in names]


class Counted(reduction_module.Executable):
    """Segments that count their runs."""

    frames = 0

    def __call__(self, feeds: Any) -> Any:
        Counted.frames += len(next(iter(feeds.values())))
        return super().__call__(feeds)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    Counted.frames = 0
    monkeypatch.setattr(reduction_module, "Executable", Counted)
    return Counted


def test_every_model_runs_once_over_the_frames(folder: Path, runs: type[Counted]) -> None:
    found = repsimc.similarity(
        paths(folder, "a", "b", "c"),
        folder / "frames.npz",
        measures=("cka", "r2", "cosine"),
        within=("a",),
    )
    assert runs.frames == 3 * 96
    assert [(pair.a, pair.b) for pair in found.pairs] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("a", "a"),
    ]
    assert found.layers("a") == ("s1", "s2", "s3", "globalaveragepool6")
    assert found.matrix("a", "b").shape == (4, 4)
    np.testing.assert_array_equal(found.matrix("b", "a", "r2"), found.matrix("a", "b", "r2").T)


def test_the_second_call_runs_nothing(folder: Path, runs: type[Counted], cache: Path) -> None:
    first = similarity(paths(folder, "a", "b"), folder / "frames.npz", measures=("cka-maps",))
    assert runs.frames == 2 * 96
    for names in (("cka-maps",), ("r2", "cosine", "rsa"), ("cka",)):
        again = similarity(paths(folder, "a", "b"), folder / "frames.npz", measures=names)
        if names == ("cka-maps",):
            assert json.dumps(again.to_json()) == json.dumps(first.to_json())
    assert runs.frames == 2 * 96
    for entry in cache.glob("*.npz"):
        entry.write_bytes(entry.read_bytes()[:100])
    similarity(paths(folder, "a", "b"), folder / "frames.npz", measures=("cka-maps",))
    assert runs.frames == 4 * 96


@pytest.mark.parametrize("change", ["model", "frames", "seed", "limit", "sketch", "maps"])
def test_anything_that_matters_misses_the_cache(
    folder: Path, runs: type[Counted], change: str
) -> None:
    similarity([folder / "a.onnx"], folder / "frames.npz")
    before = runs.frames
    wishes: dict[str, Any] = {}
    if change == "model":
        (folder / "a.onnx").write_bytes((folder / "b.onnx").read_bytes())
    elif change == "frames":
        np.savez(folder / "frames.npz", x=smooth_images(96, seed=1))
    else:
        wishes = {
            "seed": {"seed": 1},
            "limit": {"frames": 90},
            "sketch": {"sketch": True},
            "maps": {"measures": ("cka-maps",)},
        }[change]
    similarity([folder / "a.onnx"], folder / "frames.npz", **wishes)
    assert runs.frames > before


def test_other_preprocessing_misses_the_cache(folder: Path, runs: type[Counted]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "pixels.npz", x=pixels)
    for count, scale in enumerate((1.0, 2.0, 1.0)):
        recipe = {"a": Preprocessing(scale=scale)}
        similarity([folder / "a.onnx"], folder / "pixels.npz", preprocessing=recipe)
        assert runs.frames == 20 * min(count + 1, 2)


def test_without_a_cache_nothing_is_kept(folder: Path, runs: type[Counted], cache: Path) -> None:
    for _ in range(2):
        similarity([folder / "a.onnx"], folder / "frames.npz", cache=False)
    assert runs.frames == 2 * 96 and not cache.exists()


def test_features_too_large_for_memory_come_from_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repsimc.compiler.similarity import model_runs

    call = {"measures": ("cka", "cka-maps", "r2"), "sites": True}
    held = similarity(paths(folder, "a", "b"), folder / "frames.npz", cache=False, **call)
    monkeypatch.setattr(model_runs, "HELD_NBYTES", 0)
    for cache in (False, True, True):
        found = similarity(paths(folder, "a", "b"), folder / "frames.npz", cache=cache, **call)
        assert json.dumps(found.to_json()) == json.dumps(held.to_json())


def test_frames_of_a_fixed_batch_go_in_whole_batches(tmp_path: Path) -> None:
    net = Net(0)
    net.head(net.relu(net.conv("x", 3, 4), out="s"), 4, 3)
    onnx.save(net.model(x=(4, 3, 8, 8)), tmp_path / "fixed.onnx")
    free = Net(0)
    free.head(free.relu(free.conv("x", 3, 4), out="s"), 4, 3)
    onnx.save(free.model(x=("N", 3, 8, 8)), tmp_path / "free.onnx")
    found = similarity(paths(tmp_path, "fixed", "free"), smooth_images(90))
    assert found.frames == 88
    assert found.matrix("fixed", "free")[0, 0] == pytest.approx(1)
