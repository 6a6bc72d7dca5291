"""The cache: what it gives back, what it forgets, and what it does not believe."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsimc.compiler.similarity import store as store_module
from repsimc.compiler.similarity.extraction import features_of_arrays
from repsimc.compiler.similarity.features import ModelFeatures, Recipe
from repsimc.compiler.similarity.store import (
    FeaturesKey,
    SitesKey,
    Store,
    key_of,
)
from repsimc.runtime.placing import cache_folder

KEY = key_of(what="test")


def features(seed: int = 0, maps: bool = True) -> ModelFeatures:
    random = np.random.default_rng(seed)
    arrays = {
        "map": random.normal(size=(20, 3, 4, 4)).astype("f4"),
        "flat": random.normal(size=(20, 6)).astype("f4"),
        "dead": np.zeros((20, 3, 4, 4), "f4"),
    }
    return features_of_arrays("a", arrays, Recipe(batch=8, maps=maps))


def assert_equal(a: ModelFeatures, b: ModelFeatures) -> None:
    assert (a.model, a.frames, a.recipe, len(a.layers)) == (b.model, b.frames, b.recipe, 3)
    for p, q in zip(a.layers, b.layers):
        assert p.layer == q.layer and p.halves == q.halves
        assert repr(p.statistics) == repr(q.statistics)  # nan is not equal to itself
        np.testing.assert_array_equal(p.pooled, q.pooled)
        np.testing.assert_array_equal(p.rows, q.rows)
        assert (p.maps is None) == (q.maps is None)
        if p.maps is not None and q.maps is not None:
            np.testing.assert_array_equal(p.maps, q.maps)


@pytest.mark.parametrize("maps", [True, False])
def test_what_is_kept_comes_back(tmp_path: Path, maps: bool) -> None:
    store = Store(tmp_path / "new" / "folder")
    assert store.features(KEY) is None
    assert store.keep_features(KEY, features(maps=maps))
    found = Store(tmp_path / "new" / "folder").features(KEY)
    assert found is not None
    assert_equal(found, features(maps=maps))
    store.keep_note("n", [1, "x"])
    assert store.note("n") == [1, "x"] and store.note(KEY) is None


def test_only_the_kinds_asked_for_are_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_features(KEY, features())
    found = store.features(KEY, ("maps",))
    assert found is not None
    by_name = {layer.layer.name: layer for layer in found.layers}
    assert by_name["map"].pooled.size == 0 and by_name["map"].rows.size == 0
    assert by_name["map"].maps is not None and by_name["map"].maps.shape == (16, 8)
    assert by_name["flat"].pooled.shape == (20, 6)  # stands for the maps it does not have


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "text", "pickle", "other"])
def test_a_damaged_entry_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    store.keep_features(KEY, features())
    path = tmp_path / f"{KEY}.npz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flip":
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    elif damage == "text":
        path.write_text("not a zip")
    elif damage == "pickle":
        np.savez(path, **{"meta.json": np.array([{"a": 1}], dtype=object)})
    else:
        np.savez(path, **{"meta.json": np.frombuffer(b'{"frames": 3}', np.uint8)})
    assert store.features(KEY) is None
    assert store.keep_features(KEY, features())  # and is replaced
    assert store.features(KEY) is not None


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    """Also one whose check sum was changed with it: the arrays are sealed by a digest."""
    store = Store(tmp_path)
    kept = features()
    store.keep_features("key", kept)
    path = tmp_path / "key.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not array.size:
            continue
        changed = array.copy()
        changed.view(np.uint8).reshape(-1)[-1] ^= 1
        np.savez(path, **(arrays | {name: changed}))
        assert store.features("key") is None, name
    np.savez(path, **arrays)
    found = store.features("key")
    assert found is not None
    assert_equal(found, kept)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not Store(tmp_path / "file" / "cache").keep_features(KEY, features())


def write(folder: str, seed: int) -> None:
    for _ in range(5):
        Store(Path(folder)).keep_features(KEY, features(seed))


def test_two_processes_may_write_and_read_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(str(tmp_path), seed)) for seed in (0, 1)]
    for writer in writers:
        writer.start()
    wholes = [features(0), features(1)]
    seen = 0
    while any(writer.is_alive() for writer in writers) or not seen:
        found = Store(tmp_path).features(KEY)
        if found is not None:  # one of the two, never a mixture
            seen += 1
            first = found.layers[0].pooled
            assert any(np.array_equal(first, whole.layers[0].pooled) for whole in wholes)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"{KEY}.npz"]


def test_the_least_recently_used_goes_but_nothing_of_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        Store(tmp_path).keep_features(f"old{index}", features())
        os.utime(tmp_path / f"old{index}.npz", (1000 + index, 1000 + index))
    size = (tmp_path / "old0.npz").stat().st_size
    monkeypatch.setattr(store_module, "MAX_NBYTES", int(3.5 * size))
    store = Store(tmp_path)
    assert store.features("old0") is not None  # used: now the most recent
    store.keep_features("new1", features())
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new1", "old0", "old2"]
    for index in range(2, 6):
        store.keep_features(f"new{index}", features())
    kept = {path.stem for path in tmp_path.iterdir()}
    assert {f"new{index}" for index in range(1, 6)} <= kept


def test_the_place_follows_the_base_directory_specification(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() / "similarity" == tmp_path / "repsimc" / "similarity"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() / "similarity" == tmp_path / "me" / ".cache" / "repsimc" / "similarity"


def test_keys_tell_options_apart() -> None:
    assert key_of(a=1, b=[2]) == key_of(b=[2], a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a="1")}) == 4


RECIPE = {"sketched": True, "seed": 1, "batch": 8, "maps": False}
# Keys, and other values of each of their fields.
KEYS: dict[FeaturesKey | SitesKey, dict[str, list[Any]]] = {
    FeaturesKey("m", (("x", "d"),), "r", Recipe(), ""): {
        "model": ["n"],
        "frames": [(("x", "e"),), (("y", "d"),)],
        "rows": ["s"],
        "recipe": [Recipe(**{name: value}) for name, value in RECIPE.items()],
        "name": ["a"],
    },
    SitesKey((("a", "m"), ("b", "n")), "f", 0): {
        "models": [(("a", "m"), ("b", "m")), (("a", "m"), ("c", "n")), (("b", "n"), ("a", "m"))],
        "frames": ["g"],
        "seed": [1],
    },
}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: type(key).__name__)
def test_whatever_decides_an_entry_changes_its_key(key: FeaturesKey | SitesKey) -> None:
    assert list(KEYS[key]) == [field.name for field in fields(key)]
    assert list(RECIPE) == [field.name for field in fields(Recipe)]
    others = [replace(key, **{name: v}) for name, values in KEYS[key].items() for v in values]
    texts = [str(each) for each in (key, *others)]
    assert len(set(texts)) == len(texts)
    assert str(replace(key)) == texts[0]
