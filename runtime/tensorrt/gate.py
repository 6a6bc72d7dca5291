"""The compile gate: TensorRT-RTX builds a bundle's engines where there is no GPU.

It shows that the graph parses and compiles, twice to the same bytes, and what that compiler says
of weights and activations. It is another product than the TensorRT of a Jetson: nothing here is a
statement about that.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendError, ModelError, UsageError
from ..files import check_files, read_manifest
from ..json_values import JsonValue
from ..manifest import MERGED, Manifest
from .building import BuildOptions, EngineGraph, Stages, build_job, chosen, engine_graphs
from .child import run_child
from .engines import graph_of

SCHEMA = "repsimc.gate/1"
MODULE = "tensorrt_rtx"
CAPABILITY = 86  # what TensorRT-RTX has that is nearest to the sm_87 of Orin
LABEL = "TensorRT-RTX compile gate (sm_86)"
# Scratch that TensorRT-RTX's kernels take in every engine with convolutions or products, besides
# what values need. Measured with 1.7.1 on 17 networks: 8 388 608 bytes where values need less, and
# 8 388 608 + 0.93 to 1.06 of the predicted peak in 16 of them (`benchmarks/tensorrt.py`).
KERNEL_NBYTES = 8 << 20
_REPORTED = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


@dataclass(frozen=True)
class GateEngine(JsonValue):
    """One engine that TensorRT-RTX built: bytes it reports beside bytes that were predicted.

    `same_bytes` says that two builds gave one plan. If they did not, a third was built, and
    `distinct_plans` of `builds` differ: once in some 200 pairs two did, and 60 repetitions of that
    one did not (1.7.1). Predictions are None where the manifest says nothing; reported figures
    where the log does not.
    """

    name: str
    plan_nbytes: int
    sha256: str
    builds: int
    distinct_plans: int
    seconds: float
    weights_nbytes: int | None
    activations_nbytes: int | None
    predicted_weights_nbytes: int | None
    predicted_activations_nbytes: int | None

    @property
    def same_bytes(self) -> bool:
        """True if two builds gave the same bytes."""
        return self.distinct_plans == 1

    def to_json(self) -> dict[str, Any]:
        """The engine as JSON values."""
        return {**super().to_json(), "same_bytes": self.same_bytes}


@dataclass(frozen=True)
class GateResult:
    """What the gate found for a bundle."""

    version: str
    layout: str
    precision: str
    engines: tuple[GateEngine, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, with schema version and what it is."""
        return {
            "schema": SCHEMA,
            "label": LABEL,
            "tensorrt_rtx": self.version,
            "layout": self.layout,
            "precision": self.precision,
            "engines": [engine.to_json() for engine in self.engines],
        }


def run_gate(bundle: Path, options: BuildOptions, stages: Stages) -> GateResult:
    """Build every engine of the bundle twice. Nothing is kept.

    Raises UsageError, ModelError (the graph is refused, or all builds differ), BackendError
    (TensorRT-RTX is not installed, or a build crashed; exit code 6).
    """
    version = rtx_version()
    manifest = read_manifest(bundle)
    layout, precision = chosen(manifest, options)
    check_files(bundle, manifest)
    graph, typed = graph_of(manifest, precision, typed=True)
    if not typed:
        raise UsageError(
            f"TensorRT-RTX takes {precision} from the graph only, and the bundle has none in half "
            "precision",
            f"compile it with --precision {precision}",
        )
    found: list[GateEngine] = []
    with engine_graphs(bundle, manifest, layout, graph, options) as parts:
        for number, part in enumerate(parts):
            name = "+".join(part.models)
            stages.stage(f"building engine {number + 1} of {len(parts)} ({name}) twice", None)
            predicted = _predicted(manifest, part, layout, precision)
            found.append(_engine(part, name, precision, predicted, options.libraries))
    differing = [e.name for e in found if e.distinct_plans == e.builds > 1]
    if differing:
        raise ModelError(
            f"three builds of {', '.join(differing)} gave three different plans",
            "TensorRT-RTX builds the same graph to the same bytes: please report this",
        )
    return GateResult(version, layout, precision, tuple(found))


def rtx_version() -> str:
    """The version of TensorRT-RTX that is installed. Raises BackendError (exit code 6)."""
    if importlib.util.find_spec(MODULE) is None:
        raise BackendError(
            "TensorRT-RTX is not installed", "pip install 'repsimc[rtx]' (x86-64, 100 MB)"
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tensorrt-rtx")
    except PackageNotFoundError:
        return "unknown"


def gate_graph(graph: Path, profile: Mapping[str, Any], precision: str = "fp32") -> GateEngine:
    """One ONNX file through the gate, without a bundle. Raises as `run_gate`."""
    part = EngineGraph((graph.stem,), (), (), graph, profile)
    return _engine(part, graph.stem, precision, (None, None))


def reported(log: str) -> dict[str, int]:
    """Bytes of 'activation' and 'weights' that TensorRT-RTX's log gives, by name."""
    return {kind.lower(): int(number) for kind, number in _REPORTED.findall(log)}


def _engine(
    part: EngineGraph,
    name: str,
    precision: str,
    predicted: tuple[int | None, int | None],
    plugins: Sequence[str] = (),
) -> GateEngine:
    with tempfile.TemporaryDirectory(prefix="repsimc-gate-") as scratch:
        log = Path(scratch) / "build.log"
        job = {
            "module": MODULE,
            "precision": precision,
            "typed": True,
            "quantised": False,
            "capability": CAPABILITY,
            "plugins": list(plugins),
        }
        # One file for all: a plan that is there twice is twice the disk.
        work = job | build_job(part, Path(scratch) / "plan")
        one = run_child("build", work, log)
        digests = [one["sha256"], run_child("build", work, log)["sha256"]]
        if digests[0] != digests[1]:
            digests.append(run_child("build", work, log)["sha256"])
        said = reported(log.read_text(encoding="utf-8")) if log.is_file() else {}
    return GateEngine(
        name=name,
        plan_nbytes=one["nbytes"],
        sha256=one["sha256"],
        builds=len(digests),
        distinct_plans=len(set(digests)),
        seconds=one["seconds"],
        weights_nbytes=said.get("weights"),
        activations_nbytes=said.get("activation"),
        predicted_weights_nbytes=predicted[0],
        predicted_activations_nbytes=predicted[1],
    )


def _predicted(
    manifest: Manifest, part: EngineGraph, layout: str, precision: str
) -> tuple[int | None, int | None]:
    """Weights and live activations that the compiler predicts of an engine, in bytes.

    The activations with what TensorRT-RTX's kernels take; None for segments.
    """
    halved = 1 if precision == "fp32" else 2
    # What is stored in 8 bits or fewer is kept so.
    stored = 2 if precision == "fp16" else 1
    if layout == MERGED:
        weights = manifest.memory.get("merged_weights_nbytes")
        peak = manifest.memory.get("merged_activations_peak_nbytes")
        return (
            None if weights is None else weights // stored,
            None if peak is None else peak // halved + KERNEL_NBYTES,
        )
    for segment in manifest.segments:
        if set(segment.models) == set(part.models):
            return segment.weights_nbytes // stored, None
    return None, None
