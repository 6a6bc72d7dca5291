"""A cache of features by content, never trusted blindly.

An entry is one .npz file. It holds a digest of each array, and one of those; an entry that cannot
be read or was changed is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...runtime.array_archive import read_arrays
from ...runtime.json_reader import read_json
from ..errors import ModelError
from ..execution.content_cache import ContentCache, content_key
from ..graph.arrays import Array
from .features import LayerFeatures, LayerStatistics, ModelFeatures, Recipe
from .layers import Layer, Skipped

# Raised whenever what an entry holds, or how it is computed, changes.
FORMAT = 2
# What the cache may take.
MAX_NBYTES = 4 << 30
KINDS = ("pooled", "maps", "rows")
_META = "meta.json"
_SEAL = "seal"
_MAX_META_NBYTES = 16 << 20


@dataclass(frozen=True)
class FeaturesKey:
    """All that decides the features of a model; as text the name of their entry.

    `model` is the sha256 of its files, `frames` a digest per input of the rows as the model takes
    them, after preprocessing, `rows` the sha256 of which are used, in which order. `name` is the
    model's where it decides something, else ''.
    """

    model: str
    frames: tuple[tuple[str, str], ...]
    rows: str
    recipe: Recipe
    name: str

    def __str__(self) -> str:
        return key_of(what="features", **asdict(self))


@dataclass(frozen=True)
class SitesKey:
    """All that decides the sites between models; as text the name of their entry.

    `models` are name and sha256 of each, in order (of equal weights the first model's stay),
    `frames` is the fingerprint of all.
    """

    models: tuple[tuple[str, str], ...]
    frames: str
    seed: int

    def __str__(self) -> str:
        return key_of(what="sites", **asdict(self))


def key_of(**parts: object) -> str:
    """The sha256 (hex) of JSON types by name, and of the entries' format."""
    return content_key(format=FORMAT, **parts)


class Store:
    """Features and notes in a folder, which is made when something is first kept."""

    def __init__(self, folder: Path) -> None:
        self._cache = ContentCache(folder, ".npz", MAX_NBYTES)

    def features(self, key: str, kinds: Collection[str] = KINDS) -> ModelFeatures | None:
        """The features kept under `key`; None when there are none, or none that can be read.

        Only arrays of `kinds` are read; the others come back empty ([0, 0]). 'maps' of a layer
        without places are its 'pooled'. An entry without maps has none to read.
        """
        try:
            meta, arrays = self._read(key, lambda name: _wanted(name, kinds))
            return _features_of(meta, arrays, kinds)
        except _UNREADABLE:
            return None

    def keep_features(self, key: str, features: ModelFeatures) -> bool:
        """Keep features under `key`; False, and no error, where the folder cannot be written."""
        arrays: dict[str, Array] = {}
        layers: list[dict[str, Any]] = []
        for index, layer in enumerate(features.layers):
            flat = "" if layer.layer.spatial else "flat-"
            arrays[f"{index}-{flat}pooled"], arrays[f"{index}-rows"] = layer.pooled, layer.rows
            if layer.maps is not None:
                arrays[f"{index}-maps"] = layer.maps
            layers.append(
                {
                    "layer": asdict(layer.layer),
                    "halves": layer.halves,
                    "statistics": {
                        name: None
                        if isinstance(value, float) and not math.isfinite(value)
                        else value
                        for name, value in asdict(layer.statistics).items()
                    },
                }
            )
        meta = {
            "model": features.model,
            "frames": features.frames,
            "recipe": asdict(features.recipe),
            "layers": layers,
            "skipped": [asdict(each) for each in features.skipped],
        }
        return self._write(key, meta, arrays)

    def note(self, key: str) -> Any:
        """The JSON value kept under `key`, None if there is none."""
        try:
            return self._read(key)[0]["note"]
        except _UNREADABLE:
            return None

    def keep_note(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`."""
        self._write(key, {"note": value}, {})

    def _read(
        self, key: str, wanted: Callable[[str], bool] = lambda _: True
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        path = self._cache.path(key)
        found = read_arrays(
            path, MAX_NBYTES, "", lambda name: name in (_META, _SEAL) or wanted(name)
        )
        packed, seal = found.pop(_META), found.pop(_SEAL)
        if packed.dtype != np.uint8 or packed.nbytes > _MAX_META_NBYTES:
            raise ValueError("the entry has no description")
        if seal.tobytes() != hashlib.sha256(packed.tobytes()).digest():
            raise ValueError("the description is not the one that was written")
        sealed = read_json(packed.tobytes(), _META, "")
        digests, meta = sealed["sha256"], sealed["meta"]
        if any(_digest(array) != digests[name] for name, array in found.items()):
            raise ValueError("an array is not the one that was written")
        arrays = {name: array for name, array in found.items() if wanted(name)}
        self._cache.touch(key)
        return meta, arrays

    def _write(self, key: str, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> bool:
        sealed = {"sha256": {name: _digest(a) for name, a in arrays.items()}, "meta": meta}
        text = json.dumps(sealed, allow_nan=False).encode()
        packed = np.frombuffer(text, np.uint8)
        seal = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
        content = cast("Any", {_META: packed, _SEAL: seal, **arrays})
        try:
            self._cache.write(key, lambda file: np.savez(file, **content))
        except OSError:
            return False
        return True


_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    ModelError,
)


def _digest(array: Array) -> str:
    """The sha256 of an array's type, shape and content."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _wanted(name: str, kinds: Collection[str]) -> bool:
    kind = name.rpartition("-")[2]
    return kind in kinds or ("flat-" in name and "maps" in kinds)


def _features_of(
    meta: Mapping[str, Any], arrays: Mapping[str, Array], kinds: Collection[str]
) -> ModelFeatures:
    """The features of an entry. Raises ValueError, KeyError or TypeError for a damaged one."""
    frames = int(meta["frames"])
    recipe = Recipe(**meta["recipe"])
    layers: list[LayerFeatures] = []
    for index, entry in enumerate(meta["layers"]):
        known = dict(entry["layer"])
        known["shape"] = tuple(int(size) for size in known["shape"])
        numbers = {
            name: float("nan") if value is None else value
            for name, value in entry["statistics"].items()
        }
        layer = Layer(**known)
        absent = np.zeros((0, 0), np.float32)
        flat = "" if layer.spatial else "flat-"
        places = (
            ("pooled", f"{index}-{flat}pooled"),
            ("rows", f"{index}-rows"),
            *([("maps", f"{index}-maps")] if layer.spatial and recipe.maps else []),
        )
        found = {kind: arrays[name] if _wanted(name, kinds) else absent for kind, name in places}
        for kind, array in found.items():
            if array.dtype != np.float32 or array.ndim != 2:
                raise ValueError("the entry holds an array of another kind")
            if array is not absent and kind == "pooled" and len(array) != frames:
                raise ValueError("the entry holds fewer frames than it says")
        statistics = LayerStatistics(**cast("Any", numbers))
        halves = bool(entry["halves"])
        layers.append(
            LayerFeatures(
                layer, found["pooled"], found.get("maps"), found["rows"], halves, statistics
            )
        )
    skipped = tuple(Skipped(**each) for each in meta["skipped"])
    return ModelFeatures(str(meta["model"]), frames, recipe, tuple(layers), skipped)
