"""A bundle for the gate's tests, and a baseline of it that nothing was measured for."""

from __future__ import annotations

from repsimc.compiler.gate.baseline import (
    FIXED,
    Baseline,
    ExactFigure,
    Machine,
    Shares,
    interface_of,
)
from repsimc.runtime.manifest import Manifest


def baseline_of(manifest: Manifest, **changed: object) -> Baseline:
    fields = {
        "repsimc": "0",
        "models": {entry.name: entry.source.sha256 for entry in manifest.models},
        "interface": interface_of(manifest),
        "figures": (ExactFigure("operators", 2.0, "operators"),),
        "uss_nbytes": (1, 2, 3),
        "latency": {FIXED: Shares((0.5,) * 6, (0.5,) * 6, True)},
        "threads": 1,
        "frame": "noise",
        "machine": Machine("Linux x", "y", "1"),
    }
    return Baseline(**{**fields, **changed})  # type: ignore[arg-type]
