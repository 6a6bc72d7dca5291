"""A bundle's outputs beside the originals', on frames of the user's choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...runtime.manifest import ModelEntry, TensorSpec
from ...runtime.originals import check_original, find_original
from ...runtime.ort import import_onnxruntime, session_options
from ...runtime.session import Bundle
from ..errors import BackendError, DataError, ModelError, UsageError
from ..execution.executable import BATCH_NBYTES
from ..execution.fidelity import TOP1, FidelityMeter, LossMeter, metric_for
from ..execution.positions import frames_first
from ..frames.axes import interface
from ..frames.calibration import FrameOptions, Frames, InputSpec, load_frames
from ..frames.labels import load_labels, require_classes
from ..frames.scenes import SmallFrames
from ..frames.splits import RUNS
from ..graph.arrays import Array, Int64
from ..options import DEFAULT_FLOOR
from ..progress import NoProgress, Progress
from ..reports.measurements import OutputVerification
from ..reports.report import OutputFidelity

if TYPE_CHECKING:
    import onnxruntime


# Frames per run where the batch is free: enough to keep a few cores busy, little memory.
_BATCH = 64


@dataclass(frozen=True)
class VerificationOptions:
    """What a bundle is compared by beside frames.

    `originals` is a folder that holds the models that were compiled, by file name; without one
    they are found by `find_original`. `labels` names the array of class indices in the data: one
    for all models, or by model. `metrics` ('model' or 'model/output') overrides the manifest's.
    `frames` says how the data is read; all of it is held out.
    """

    originals: Path | None = None
    labels: str | Mapping[str, str] | None = None
    metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    frames: FrameOptions = field(default_factory=lambda: FrameOptions(held_out=None))


def verify_bundle(
    bundle: Bundle,
    data: Path | Mapping[str, Path],
    options: VerificationOptions | None = None,
    progress: Progress | None = None,
) -> list[OutputVerification]:
    """Every output of every model, measured on `data`: one set for all models, or one per model.

    The originals must be the files that were compiled (sha256). Floors are those of the manifest.

    Raises ModelError (a bundle or original that can't be used), DataError (frames or labels),
    UsageError (unknown models).
    """
    options = options or VerificationOptions()
    labels = options.labels
    entries = {entry.name: entry for entry in bundle.manifest.models}
    wanted = dict.fromkeys(entries, labels) if isinstance(labels, str) else dict(labels or {})
    for name in wanted:
        if name not in entries:
            raise UsageError(
                f"labels are given for '{name}', and the bundle has no such model",
                f"its models are {', '.join(entries)}",
            )
    steps = progress or NoProgress()
    steps.stage("reading originals and frames", None)
    paths = {
        name: original_path(bundle, entry, options.originals) for name, entry in entries.items()
    }
    found = load_frames(
        data,
        {
            name: interface([_input_spec(name, spec) for spec in entry.inputs], _handed_on(entry))
            for name, entry in entries.items()
        },
        replace(options.frames, held_out=None),
    )
    _require_needed(entries, found)
    labelled = {
        name: load_labels(
            data[name] if isinstance(data, Mapping) else data,
            wanted[name],
            found.held_out_rows(name),
        )
        for name in entries
        if name in wanted
    }
    comparisons = {
        name: _Comparison(entry, options.metrics, labelled.get(name))
        for name, entry in entries.items()
    }
    # One name for all models is meant for those that classify; a model's own is meant for it.
    judged = [comparisons[name] for name in wanted]
    if not isinstance(labels, str) or all(comparison.scores is None for comparison in judged):
        for comparison in judged:
            comparison.require_scores()
    sessions = {name: _open(name, path) for name, path in paths.items()}
    total = sum(len(found.held_out_rows(models[0])) for models in found.streams)
    steps.stage("comparing with the originals", total)
    with bundle.session() as merged:
        for models in found.streams:
            for together, rows in _batches(found, models):
                feeds = {name: found.feed(name, rows) for name in _fed(entries, together)}
                compiled = merged.run(feeds, together)
                for name in together:
                    comparisons[name].small.add(found.seen(name, rows))
                    comparisons[name].update(
                        _run(name, sessions[name], feeds[name], entries[name]), compiled[name], rows
                    )
                steps.advance(len(rows) if together[0] == models[0] else 0)
    steps.done()
    return [result for comparison in comparisons.values() for result in comparison.results()]


def original_path(bundle: Bundle, entry: ModelEntry, originals: Path | None) -> Path:
    """Where the model's original lies. Raises ModelError if it is missing or another file."""
    try:
        if originals is None:
            return find_original(bundle.path, entry)
        path = originals / Path(entry.source.file.replace("\\", "/")).name
        check_original(path, entry)
    except ModelError as error:
        raise ModelError(
            error.message, f"say where {entry.source.file} lies: --originals FOLDER"
        ) from error
    return path


def _input_spec(model: str, spec: TensorSpec) -> InputSpec:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise DataError(
            f"input '{spec.name}' of model '{model}' is {spec.dtype}, which frames can't be"
        ) from error
    if spec.shape is None:
        raise DataError(f"input '{spec.name}' of model '{model}' has no known number of axes")
    return InputSpec(spec.name, dtype, spec.shape)


def _handed_on(entry: ModelEntry) -> list[InputSpec]:
    """The outputs that may carry states on: those of a dtype and rank that frames have."""
    return [
        InputSpec(spec.name, _dtype(spec), spec.shape)
        for spec in entry.outputs
        if spec.shape is not None
    ]


def _open(model: str, path: Path) -> onnxruntime.InferenceSession:
    ort = import_onnxruntime()
    try:
        return ort.InferenceSession(
            str(path), session_options(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise BackendError(f"ONNX Runtime can't open model '{model}' ({path}): {error}") from error


def _run(
    model: str, session: onnxruntime.InferenceSession, feed: Mapping[str, Array], entry: ModelEntry
) -> dict[str, Any]:
    names = [spec.name for spec in entry.outputs]
    try:
        return dict(zip(names, session.run(names, dict(feed)), strict=True))
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise DataError(
            f"the original of model '{model}' can't run these frames: {error}"
        ) from error


def _batches(frames: Frames, models: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Int64]]:
    """(models to run together, rows): all at once where they take equally many rows per run."""
    sizes = {model: frames.batch(model) for model in models}
    fixed = {size for size in sizes.values() if size is not None}
    groups = [tuple(models)] if len(fixed) <= 1 else [(model,) for model in models]
    for group in groups:
        step = next((size for model in group if (size := sizes[model]) is not None), _BATCH)
        for rows in frames.alike(group, frames.held_out_rows(group[0])):
            if all(sizes[model] is None for model in group):
                step = _step(frames, group, rows[:1])
            for start in range(0, len(rows), step):
                yield group, rows[start : start + step]


def _step(frames: Frames, models: Sequence[str], row: Int64) -> int:
    """How many frames like this one run together: what is made of them grows with their size."""
    nbytes = sum(array.nbytes for model in models for array in frames.feed(model, row).values())
    return max(1, min(_BATCH, BATCH_NBYTES // max(nbytes, 1)))


def _fed(entries: Mapping[str, ModelEntry], models: Sequence[str]) -> list[str]:
    """The models whose inputs a run of `models` reads: their own and those they need."""
    others = (other for name in models for other, _ in entries[name].needs)
    return list(dict.fromkeys((*models, *others)))


def _require_needed(entries: Mapping[str, ModelEntry], frames: Frames) -> None:
    for name, entry in entries.items():
        for other, _ in entry.needs:
            if not frames.aligned(name, other):
                raise UsageError(
                    f"model '{name}' of this bundle reads what '{other}' computes, so both have "
                    "to be fed the same frame, and the data does not say that they are",
                    "give one set for all models, or --same-frames if row k is the same frame",
                )


@dataclass
class _Comparison:
    """The outputs of one model, compared batch by batch."""

    entry: ModelEntry
    metrics: Mapping[str, str]
    labels: Int64 | None
    meters: dict[str, FidelityMeter] = field(default_factory=dict[str, FidelityMeter])
    losses: dict[str, LossMeter] = field(default_factory=dict[str, LossMeter])
    small: SmallFrames = field(default_factory=SmallFrames)
    scores: str | None = None
    right: list[int] = field(default_factory=lambda: [0, 0])
    judged: int = 0

    def __post_init__(self) -> None:
        told = {str(item.get("output")): item for item in self.entry.fidelity}
        self.told = told
        self.floors: dict[str, float] = {}
        for spec in self.entry.outputs:
            item = told.get(spec.name, {})
            metric = self.metrics.get(
                f"{self.entry.name}/{spec.name}", self.metrics.get(self.entry.name)
            )
            if metric is None and isinstance(item.get("metric"), str):
                metric = str(item["metric"])
            self.meters[spec.name] = FidelityMeter(metric_for(spec.shape, metric, _dtype(spec)))
            floor = item.get("floor")
            self.floors[spec.name] = (
                float(floor) if isinstance(floor, int | float) else DEFAULT_FLOOR
            )
            if self.meters[spec.name].metric == TOP1:
                self.losses[spec.name] = LossMeter()
        if self.labels is not None:
            self.scores = next(
                (
                    spec.name
                    for spec in self.entry.outputs
                    if spec.shape is not None
                    and len(spec.shape) == 2
                    and self.meters[spec.name].metric == TOP1
                ),
                None,
            )

    def require_scores(self) -> None:
        """Raise UsageError if labels were given and no output holds class scores."""
        if self.labels is not None and self.scores is None:
            raise UsageError(
                f"labels are given for model '{self.entry.name}', and none of its outputs holds "
                "class scores [N, C]",
                "leave --labels out for this model",
            )

    def update(self, original: Mapping[str, Any], compiled: Mapping[str, Any], rows: Int64) -> None:
        for name, meter in self.meters.items():
            if not _numeric(original[name]) or not _numeric(compiled[name]):
                raise DataError(
                    f"output '{name}' of model '{self.entry.name}' holds no numbers, so there is "
                    "no fidelity to measure",
                    "check it with `repsimc run`",
                )
            one, other = frames_first(
                len(rows), cast("Array", original[name]), cast("Array", compiled[name])
            )
            meter.update(one, other)
            if name in self.losses:
                self.losses[name].update(one, other)
        if self.labels is not None and self.scores is not None:
            self._judge(original[self.scores], compiled[self.scores], self.labels[rows])

    def _judge(self, original: Array, compiled: Array, truth: Int64) -> None:
        assert self.scores is not None
        require_classes(truth, original.shape[-1], self.entry.name, self.scores)
        for index, scores in enumerate((original, compiled)):
            self.right[index] += int(np.sum(scores.argmax(-1) == truth))
        self.judged += len(truth)

    def results(self) -> Iterator[OutputVerification]:
        run = max(1, self.small.count // RUNS)
        scenes = self.small.scenes(self.small.count // 8, run)
        for name, meter in self.meters.items():
            judged = self.judged if name == self.scores else 0
            confidence = self._told(name, "confidence")
            confidence = 0.95 if confidence is None else min(max(confidence, 0.5), 0.9999)
            loss = self.losses.get(name)
            yield OutputVerification(
                model=self.entry.name,
                fidelity=OutputFidelity(
                    name,
                    meter.metric,
                    meter.value,
                    self.floors[name],
                    meter.frames,
                    meter.bound(confidence, scenes),
                    confidence,
                    max_difference=meter.max_difference,
                    score_change=None if loss is None else loss.change,
                ),
                max_difference=meter.max_difference,
                accuracy_original=self.right[0] / judged if judged else None,
                accuracy_compiled=self.right[1] / judged if judged else None,
                stated=self._told(name, "lower"),
                stated_stressed=self._told(name, "stressed"),
            )

    def _told(self, output: str, key: str) -> float | None:
        """A number that the manifest, which anyone may have edited, says of an output."""
        value: object = self.told.get(output, {}).get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value)


def _numeric(array: object) -> bool:
    return isinstance(array, np.ndarray) and cast("Array", array).dtype.kind in "fiub"


def _dtype(spec: TensorSpec) -> Any:
    try:
        return np.dtype(spec.dtype)
    except TypeError:  # bfloat16 and the like: floating all the same
        return np.dtype(np.float32)
