"""A bundle's engines on this device, behind the same `Session` as ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..feeds import Array, placeholder, required
from ..files import check_files
from ..manifest import MERGED, Manifest
from .engines import find_engines
from .loaded_engines import Library, LoadedEngines
from .probe import probe


class TensorRTExecution:
    """The engines that were built here for that layout and precision (default: the bundle's).

    Raises BackendError (exit code 6) without a GPU, TensorRT, or engines of this device.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        layout: str,
        precision: str | None = None,
        verify_hashes: bool = True,
        plugins: Sequence[str | Path] = (),
    ) -> None:
        device = probe()
        self.manifest = manifest
        self.layout = layout
        folder, record = find_engines(
            path, manifest, device.key, layout, precision or manifest.precision
        )
        if verify_hashes:
            check_files(path, manifest)
        self.engines = LoadedEngines(
            folder,
            record.engines,
            output_values(manifest),
            Library(device.version, plugins=[str(path) for path in plugins]),
        )

    def run(self, models: tuple[str, ...], feeds: dict[str, Array]) -> dict[str, Any] | None:
        """The values that these models need; None where one engine computes all of them."""
        if self.layout == MERGED and len(models) < len(self.manifest.models):
            needed = {spec.value for _, spec in required(self.manifest, models)}
            everything = {
                spec.value
                for _, spec in required(self.manifest, [e.name for e in self.manifest.models])
            }
            if needed != everything:
                return None
        return in_declared_types(self.manifest, self.engines.run(models, complete(self, feeds)))

    def warm(self, models: tuple[str, ...]) -> None:
        """Nothing: the engines are loaded."""

    def close(self) -> None:
        """Frees all GPU memory."""
        self.engines.close()


def output_values(manifest: Manifest) -> set[str]:
    """The values that are outputs of models."""
    return {spec.value for entry in manifest.models for spec in entry.outputs}


def complete(execution: TensorRTExecution, feeds: dict[str, Array]) -> dict[str, Array]:
    """The feeds, with zeros for inputs that engines take and no output depends on."""
    found = dict(feeds)
    for entry in execution.manifest.models:
        for spec in entry.inputs:
            if spec.name in entry.unused and spec.value not in found:
                found[spec.value] = placeholder(spec)
    return found


def in_declared_types(manifest: Manifest, values: dict[str, Array]) -> dict[str, Array]:
    """The outputs in the types of the manifest: TensorRT 8 gives 32-bit integers for 64-bit."""
    for entry in manifest.models:
        for spec in entry.outputs:
            array = values.get(spec.value)
            if array is not None and spec.dtype != "unknown" and array.dtype.name != spec.dtype:
                values[spec.value] = array.astype(np.dtype(spec.dtype))
    return values
