"""The figures of a bundle that come out the same each time, on this machine and the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...runtime.files import inside
from ...runtime.manifest import ModelEntry
from ...runtime.ort import import_onnxruntime, session_options
from ...runtime.session import Bundle
from ...runtime.tensorrt.checking import difference, read_references
from ...runtime.wire import GraphFile
from ..errors import BackendError
from ..graph.arrays import Array
from ..reports.report import MAX_DIFFERENCE
from .baseline import ExactFigure

# Of the output's largest value. Processors differ in the order in which they add.
_NOISE = 1e-3
# Of what compilations on two machines say of one output.
_FIDELITY_NOISE = 1e-6
Run = Mapping[str, Mapping[str, Array]]


def stated_figures(bundle: Bundle) -> list[ExactFigure]:
    """What the bundle's files and manifest tell: bytes, operators, MACs, memory, fidelity."""
    manifest = bundle.manifest
    told = (manifest.plan, manifest.report, "references.npz")
    stored = sum(entry.nbytes for name, entry in manifest.files.items() if name not in told)
    graph = GraphFile(inside(bundle.path, manifest.graph).read_bytes())
    found = [
        ExactFigure("files of the graph", stored, "B"),
        ExactFigure("operators", len(graph.nodes), "operators"),
    ]
    if manifest.segments:
        found.append(ExactFigure("MACs", sum(one.macs for one in manifest.segments), "MACs"))
    for name, key in (
        ("weights", "merged_weights_nbytes"),
        ("activations, predicted peak", "merged_activations_peak_nbytes"),
        ("memory, predicted", "merged_nbytes"),
    ):
        if key in manifest.memory:
            found.append(ExactFigure(name, manifest.memory[key], "B"))
    for entry in manifest.models:
        found += _stated_fidelity(entry)
    return found


def _stated_fidelity(entry: ModelEntry) -> Iterator[ExactFigure]:
    for told in entry.fidelity:
        value, output = told.get("value"), told.get("output")
        if isinstance(value, int | float) and isinstance(output, str):
            more = told.get("metric") != MAX_DIFFERENCE
            yield ExactFigure(
                f"fidelity {entry.name}/{output}", float(value), "share", more, _FIDELITY_NOISE
            )


def reference_figures(
    bundle: Bundle, originals: Mapping[str, Path] | None, threads: int | None
) -> list[ExactFigure]:
    """How far outputs on the bundle's reference frames are off, as run here on ONNX Runtime.

    By the largest value: off what the compilation's own run gave, and, with all `originals` (by
    model), off what those give. A figure for every output, its worst frame; none without frames.
    Raises ModelError, BackendError.
    """
    runs = read_references(bundle.path, bundle.manifest)
    if not runs:
        return []
    sessions = {name: _Original(name, path, threads) for name, path in (originals or {}).items()}
    off: dict[str, float] = {}
    with bundle.session(threads=threads) as session:
        for run in runs:
            for entry in bundle.manifest.models:
                feeds = _fed(bundle, entry, run)
                if feeds is None:
                    continue
                found = session.run(feeds, entry.name)[entry.name]
                given = None
                if entry.name in sessions:
                    given = sessions[entry.name].run(feeds[entry.name])
                for spec in entry.outputs:
                    if spec.value not in run["out"]:
                        continue
                    for name, expected in (
                        (f"off its reference, {entry.name}/{spec.name}", run["out"][spec.value]),
                        (
                            f"off the original, {entry.name}/{spec.name}",
                            None if given is None else given[spec.name],
                        ),
                    ):
                        if expected is not None:
                            one = difference(found[spec.name], expected)
                            off[name] = max(off.get(name, 0.0), one)
    return [
        ExactFigure(name, value, "of the largest", slack=_NOISE)
        for name, value in sorted(off.items())
    ]


def _fed(bundle: Bundle, entry: ModelEntry, run: Run) -> dict[str, dict[str, Array]] | None:
    """What the model and those that it needs are fed in this run; None if that is not there."""
    found: dict[str, dict[str, Array]] = {}
    for name in dict.fromkeys((entry.name, *(other for other, _ in entry.needs))):
        inputs = bundle.manifest.model(name).inputs
        own = {spec.name: run["in"][spec.value] for spec in inputs if spec.value in run["in"]}
        if name == entry.name and len(own) < len(inputs):
            return None
        found[name] = own
    return found


class _Original:
    """A model's own file, opened in ONNX Runtime."""

    def __init__(self, name: str, path: Path, threads: int | None) -> None:
        self._name = name
        try:
            self._session = import_onnxruntime().InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise BackendError(
                f"ONNX Runtime can't open model '{name}' ({path}): {error}"
            ) from error

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        names: Sequence[str] = [value.name for value in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(feed)), strict=True))
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise BackendError(
                f"the original of model '{self._name}' can't run the reference frames: {error}"
            ) from error
