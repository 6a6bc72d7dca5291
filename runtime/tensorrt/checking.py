"""Engines beside the references that travel with the bundle: how far each output is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..array_archive import read_arrays
from ..errors import ModelError
from ..feeds import placeholder
from ..files import DAMAGED, inside, read_manifest
from ..manifest import MANIFEST, REFERENCES, Manifest
from .engines import Checked, engine_files
from .execution import in_declared_types, output_values
from .loaded_engines import Library, LoadedEngines

Array = NDArray[Any]

# A compilation keeps 64 MiB of frames and outputs at most, four runs of each group.
_REFERENCES_NBYTES = 128 << 20
_MOST_RUNS = 1024
# Largest difference by the largest value of the output, where nothing else is asked for. float32
# on tensor cores has ten bits of mantissa (TF32), as has float16; int8 has seven.
TOLERANCES = {"fp32": 5e-3, "fp16": 5e-2, "int8": 1e-1}


def read_references(folder: Path, manifest: Manifest) -> list[dict[str, dict[str, Array]]]:
    """Per run, {'in': {value: array}, 'out': {value: array}}; groups that run apart are joined.

    Where one group has fewer runs than another its last one comes again. Raises ModelError.
    """
    if not manifest.references:
        return []
    found = read_arrays(inside(folder, REFERENCES), _REFERENCES_NBYTES, DAMAGED)
    if max(group.runs for group in manifest.references) > _MOST_RUNS:
        raise ModelError(f"{MANIFEST} tells of more reference runs than there are", DAMAGED)
    runs: list[dict[str, dict[str, Array]]] = []
    for index in range(max(group.runs for group in manifest.references)):
        joined: dict[str, dict[str, Array]] = {"in": {}, "out": {}}
        for number, group in enumerate(manifest.references):
            start = f"{number}/{min(index, group.runs - 1)}/"
            for name, array in found.items():
                if name.startswith(start):
                    kind, _, value = name.removeprefix(start).partition("/")
                    joined.setdefault(kind, {})[value] = array
        runs.append(joined)
    return runs


def difference(found: Array, expected: Array) -> float:
    """The largest difference by the largest value expected; infinite if shapes or NaNs differ.

    Of integers and truth values the share that differs.
    """
    if found.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    if expected.dtype.kind not in "fc":
        return float(np.count_nonzero(found != expected)) / expected.size
    one, other = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    finite = np.isfinite(other)
    if not finite.any():
        return 0.0
    largest = float(np.abs(other[finite]).max())
    return float(np.abs(one[finite] - other[finite]).max()) / max(largest, 1e-6)


def compare(
    engines: LoadedEngines,
    manifest: Manifest,
    runs: Sequence[Mapping[str, Mapping[str, Array]]],
    tolerance: float,
) -> list[Checked]:
    """Every output of every model that has references, at its worst run."""
    worst: dict[tuple[str, str], list[float]] = {}
    names = [entry.name for entry in manifest.models]
    for run in runs:
        feeds = dict(run["in"])
        for entry in manifest.models:
            for spec in entry.inputs:
                if spec.value not in feeds:
                    feeds[spec.value] = placeholder(spec)
        feeds, times = _widened(engines, feeds)
        values = in_declared_types(manifest, engines.run(names, feeds))
        for entry in manifest.models:
            for spec in entry.outputs:
                expected = run["out"].get(spec.value)
                if expected is None or spec.value not in values:
                    continue
                got = values[spec.value]
                if times > 1 and got.ndim and got.shape[0] == times * expected.shape[0]:
                    got = got[: expected.shape[0]]
                worst.setdefault((entry.name, spec.name), []).append(difference(got, expected))
    return [
        Checked(model, output, _finite(max(found)), tolerance, len(found))
        for (model, output), found in worst.items()
    ]


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 1e30  # JSON has no infinity


def _widened(engines: LoadedEngines, feeds: dict[str, Array]) -> tuple[dict[str, Array], int]:
    """The frame as often as the engines' smallest batch takes it, and how often that is."""
    times = 1
    for name, array in feeds.items():
        least = engines.least(name)
        if least is not None and array.ndim and array.shape[0] and least[0] > array.shape[0]:
            times = max(times, -(-least[0] // array.shape[0]))
    if times == 1:
        return feeds, 1
    wide = {
        name: np.concatenate([array] * times) if engines.least(name) is not None else array
        for name, array in feeds.items()
    }
    return wide, times


def check_here(job: dict[str, Any]) -> dict[str, Any]:
    """What the child finds: scratch bytes of the engines, and every output beside its reference."""
    bundle = Path(job["bundle"])
    manifest = read_manifest(bundle)
    files = engine_files(job["plans"])

    def say(severity: str, message: str) -> None:
        print(f"{severity}: {message}")

    engines = LoadedEngines(
        Path(job["folder"]),
        files,
        output_values(manifest),
        Library(job["version"], job["module"], job["plugins"], say),
    )
    try:
        checked = compare(engines, manifest, read_references(bundle, manifest), job["tolerance"])
        return {
            "needs_nbytes": list(engines.needs_nbytes),
            "checked": [item.to_json() for item in checked],
        }
    finally:
        engines.close()
