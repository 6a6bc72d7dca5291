"""Engines as tables: what was built, how far outputs are from their references, the gate."""

from __future__ import annotations

from ...runtime.tensorrt.device_bench import DeviceBench
from ...runtime.tensorrt.engines import EngineRecord
from ...runtime.tensorrt.gate import LABEL, GateResult
from ..units import format_bytes
from .table import Grid, figures, words


def build_grid(record: EngineRecord) -> Grid:
    """A row per engine: its plan's size, the scratch memory it needs, how long it took."""
    rows = [
        (
            "+".join(engine.models),
            format_bytes(engine.nbytes),
            format_bytes(engine.scratch_nbytes),
            f"{engine.seconds:.1f} s",
        )
        for engine in record.engines
    ]
    largest = max((engine.scratch_nbytes for engine in record.engines), default=0)
    return Grid(
        f"engines for {record.key} ({record.layout}, {record.precision})",
        words("models") + figures("plan", "scratch", "built in"),
        tuple(rows),
        total=(
            "together",
            format_bytes(sum(engine.nbytes for engine in record.engines)),
            format_bytes(largest),
            f"{sum(engine.seconds for engine in record.engines):.1f} s",
        ),
        summary=("one scratch arena of the largest need serves all engines",),
    )


def check_grid(record: EngineRecord) -> Grid:
    """A row per output: its difference from the ONNX Runtime reference, and the tolerance."""
    rows = [
        (
            item.model,
            item.output,
            f"{100 * item.difference:.3g} %",
            f"{100 * item.tolerance:.3g} %",
            "kept" if item.met else "MISSED",
            str(item.runs),
        )
        for item in record.checked
    ]
    return Grid(
        "outputs beside the references in the bundle (largest difference by largest value)",
        words("model", "output") + figures("difference", "tolerance") + words("") + figures("runs"),
        tuple(rows),
        notes=record.notes,
    )


def gate_grid(result: GateResult) -> Grid:
    """A row per engine: predicted and reported bytes of weights and activations."""
    rows = [
        (
            engine.name,
            format_bytes(engine.plan_nbytes),
            "same" if engine.same_bytes else f"{engine.distinct_plans} of {engine.builds} DIFFER",
            _bytes(engine.predicted_weights_nbytes),
            _bytes(engine.weights_nbytes),
            _bytes(engine.predicted_activations_nbytes),
            _bytes(engine.activations_nbytes),
        )
        for engine in result.engines
    ]
    return Grid(
        f"{LABEL}: TensorRT-RTX {result.version}, {result.layout}, {result.precision}",
        words("engine")
        + figures("plan", "twice", "weights", "reported", "activations", "reported"),
        tuple(rows),
        summary=(
            "weights and activations as the compiler predicts them and, to the right, as reported "
            "by TensorRT-RTX, another product than the TensorRT of a Jetson: it shows "
            "that the bundle compiles, and is an estimate of nothing more",
        ),
    )


def device_bench_grid(result: DeviceBench) -> Grid:
    """Latency of one frame through all models, and memory by which the engines made it grow."""
    rows = [
        (
            side.name,
            f"{1e3 * side.latency.p50_seconds:.3g} ms",
            f"{1e3 * side.latency.p99_seconds:.3g} ms",
            _bytes(side.memory.scratch_nbytes),
            _bytes(side.memory.grown("available_nbytes", -1)),
            _bytes(side.memory.grown("pss_nbytes")),
            _bytes(side.memory.grown("gpu_nbytes")),
            _bytes(side.memory.grown("cuda_free_nbytes", -1)),
        )
        for side in result.sides
    ]
    notes = list(result.notes)
    if ram := result.ram():
        notes.append(f"tegrastats: at most {format_bytes(max(ram))} of RAM")
    sources = dict.fromkeys(str(side.memory.running.get("source")) for side in result.sides)
    return Grid(
        f"{result.device.key}, {result.precision}: {result.runs} runs",
        words("") + figures("p50", "p99", "scratch", "system", "PSS", "GPU", "CUDA"),
        tuple(rows),
        summary=(
            f"fed with {result.frame}; memory is growth from before the engines were loaded to "
            "after they ran, each side in a process of its own: system by MemAvailable, "
            f"GPU by {', '.join(sources)}, CUDA by cudaMemGetInfo",
        ),
        notes=tuple(notes),
    )


def _bytes(nbytes: int | None) -> str:
    return "-" if nbytes is None else format_bytes(nbytes)
