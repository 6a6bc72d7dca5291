"""Files that others quantised, judged as our bundles are: bytes, outputs, latency, kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from compiling import Models
from numpy.typing import NDArray
from plain_rounding import OPSET, opset_of
from records import Record, figure
from running import Graph, latency_ratio
from static_quantiser import (
    Quantised,
    batches,
    first_size,
    inputs_of,
    plainly_quantised,
    short,
    statically_quantised,
)
from stored_bits import Stored, kernels, stored

from repsimc.compiler.execution.fidelity import VARIANCE, FidelityMeter
from repsimc.compiler.execution.positions import frames_first
from repsimc.runtime.ort import session_options

Array = NDArray[Any]
STATIC = "ONNX Runtime static"
PLAIN = "plain rounding"


@dataclass(frozen=True)
class Frames:
    """Arrays [N, ...] by input, to calibrate with and to judge by, and labels [N] by task."""

    calibration: Mapping[str, Array]
    dev: Mapping[str, Array]
    labels: Mapping[str, Array]


@dataclass(frozen=True)
class Judged:
    """What became of the outputs of one file.

    `explained` is the variance of the worst output that is explained; accuracies are shares, None
    without labels.
    """

    model: str
    output: str
    explained: float
    accuracy_original: float | None = None
    accuracy: float | None = None

    @property
    def lost(self) -> float | None:
        """Points of accuracy lost."""
        if self.accuracy is None or self.accuracy_original is None:
            return None
        return 100 * (self.accuracy_original - self.accuracy)

    def in_words(self) -> str:
        """'net 91.70 -> 91.60 %', or the output that is worst."""
        if self.accuracy is None or self.accuracy_original is None:
            return f"{self.model}/{self.output}"
        return f"{self.model} {100 * self.accuracy_original:.2f} -> {100 * self.accuracy:.2f} %"


@dataclass(frozen=True)
class Made:
    """A file that computes what the model's own does; several models may have one together.

    `names` are those of the model's inputs and outputs in the file, where they are others.
    """

    model: str
    original: Path
    path: Path
    names: Mapping[str, str] = field(default_factory=dict[str, str])


def judge(made: Made, dev: Mapping[str, Array], labels: Array | None) -> Judged:
    """The outputs of a file beside those of the model's own."""
    first, second = (
        ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
        for path in (made.original, made.path)
    )
    names = [value.name for value in first.get_outputs()]
    meters = {name: FidelityMeter(VARIANCE) for name in names}
    right, count = [0, 0], 0
    for feeds in batches(made.original, dev):
        rows = max(len(x) for x in feeds.values() if x.ndim)
        before = first.run(names, feeds)
        own = {made.names.get(name, name): x for name, x in feeds.items()}
        only = next(iter(feeds.values()))
        wanted = {value.name: own.get(value.name, only) for value in second.get_inputs()}
        after = second.run([made.names.get(name, name) for name in names], wanted)
        for name, one, two in zip(names, before, after):
            meters[name].update(*frames_first(rows, np.asarray(one), np.asarray(two)))
        if labels is not None:
            truth = labels[count : count + rows]
            right[0] += int(np.sum(np.asarray(before[0]).argmax(-1) == truth))
            right[1] += int(np.sum(np.asarray(after[0]).argmax(-1) == truth))
        count += rows
    worst = min(names, key=lambda name: meters[name].value)
    found = Judged(made.model, worst, meters[worst].value)
    if labels is None:
        return found
    return replace(found, accuracy_original=right[0] / count, accuracy=right[1] / count)


def one_frame(path: Path, arrays: Mapping[str, Array]) -> Graph:
    """The file, fed the first frame: as many as its batch holds."""
    first = next(batches(path, arrays))
    fixed = {value.name for value in inputs_of(path) if first_size(value) > 0}
    return Graph(path, {k: x if not x.ndim or k in fixed else x[:1] for k, x in first.items()})


def sides(made: Sequence[Made], dev: Mapping[str, Array]) -> tuple[list[Graph], list[Graph]]:
    """The files, each once, and the originals apart, on the same frame."""
    own = {name: x for one in made for name, x in renamed(one, dev).items()}
    paths = dict.fromkeys(one.path for one in made)
    return (
        [one_frame(path, {**dev, **own}) for path in paths],
        [one_frame(one.original, dev) for one in made],
    )


def renamed(made: Made, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays by the names that the model's inputs have in the file."""
    only = next(iter(arrays.values()))
    return {
        made.names[value.name]: arrays.get(value.name, only)
        for value in inputs_of(made.original)
        if value.name in made.names
    }


def quantiser_records(
    name: str,
    models: Models,
    tasks: Mapping[str, str],
    frames: Frames,
    plain: bool,
    runs: int,
    scratch: Path,
) -> list[Record]:
    """What other ways leave of the models, each apart: none of their figures has a bar."""

    def static(path: Path) -> Quantised:
        return statically_quantised(path, frames.calibration, scratch)

    def raised(path: Path) -> Quantised:
        return statically_quantised(path, frames.calibration, scratch, True)

    def rounded(path: Path) -> Quantised:
        return plainly_quantised(path, scratch)

    records, refused = way_records(f"{name}/{STATIC}", models, tasks, frames, static, runs, scratch)
    if refused and any(opset_of(onnx.load(path)) < OPSET for _, path in models):
        more, _ = way_records(
            f"{name}/{STATIC}, operators raised", models, tasks, frames, raised, runs, scratch
        )
        records += more
    if plain:
        more, _ = way_records(f"{name}/{PLAIN}", models, tasks, frames, rounded, runs, scratch)
        records += more
    return records


def way_records(
    title: str,
    models: Models,
    tasks: Mapping[str, str],
    frames: Frames,
    way: Callable[[Path], Quantised],
    runs: int,
    scratch: Path,
) -> tuple[list[Record], bool]:
    """The figures of one way, and whether it left a model without a file that can be run."""
    made: list[Made] = []
    remarks: list[str] = []
    try:
        for model, path in models:
            found = way(path)
            if found.path is None:
                return [missing(title, tasks, f"{model}: {found.remark}")], True
            made.append(Made(model, path, found.path))
            if found.remark and found.remark not in remarks:
                remarks.append(found.remark)
        return made_records(title, made, tasks, frames, runs, scratch, "; ".join(remarks)), False
    except Exception as error:  # a file that opens may still not run
        return [missing(title, tasks, short(error))], True
    finally:
        for one in made:
            one.path.unlink(missing_ok=True)


def merged_records(
    title: str,
    made: Sequence[Made],
    tasks: Mapping[str, str],
    frames: Frames,
    runs: int,
    scratch: Path,
) -> list[Record]:
    """What the static quantiser leaves of one file that several models have together."""
    own = {name: x for one in made for name, x in renamed(one, frames.calibration).items()}
    whole = statically_quantised(made[0].path, {**frames.calibration, **own}, scratch)
    if whole.path is None:
        return [missing(title, tasks, whole.remark)]
    quantised = [replace(one, path=whole.path) for one in made]
    found = made_records(title, quantised, tasks, frames, runs, scratch, whole.remark)
    whole.path.unlink()
    return found


def missing(title: str, tasks: Mapping[str, str], why: str) -> Record:
    """The record of a way that led to nothing."""
    if all(tasks.values()):
        return figure(f"{title}/points lost", None, "points", None, why)
    return figure(f"{title}/variance explained", None, "", None, why)


def made_records(
    title: str,
    made: Sequence[Made],
    tasks: Mapping[str, str],
    frames: Frames,
    runs: int,
    scratch: Path,
    remark: str = "",
    bars: Mapping[str, str] | None = None,
) -> list[Record]:
    """Bytes, bits, worst output, latency and kernels of files beside the models apart.

    `bars` by the figure that they are of.
    """
    bars = bars or {}
    paths = list(dict.fromkeys(one.path for one in made))
    held = [stored(path) for path in paths]
    before = sum(stored(one.original).nbytes for one in made)
    share = sum(one.nbytes for one in held) / before
    counts = {bits: sum(one.weights.get(bits, 0) for one in held) for bits in range(1, 65)}
    whole = Stored({bits: n for bits, n in counts.items() if n}, 0)
    judged = [judge(one, frames.dev, frames.labels.get(tasks[one.model])) for one in made]
    words = ", ".join(one.in_words() for one in judged)
    points = [one.lost for one in judged if one.lost is not None]
    worst = min(judged, key=lambda one: one.explained)
    ours, apart = sides(made, frames.dev)
    ratio, said = latency_ratio(ours, apart, runs, scratch)
    taken = [kernels(path, scratch) for path in paths]
    integer = sum(one.integer for one in taken)
    told = "; ".join(one.in_words() for one in taken)
    lost = round(max(points), 9) + 0.0 if points else None
    outputs = ("points lost", lost, "points", words)
    if len(points) < len(judged):
        outputs = ("variance explained", worst.explained, "", worst.in_words())
    rows: list[tuple[str, float | None, str, str]] = [
        ("bytes of the tensors", share, "ratio", remark),
        ("weights in 8 bits or fewer", whole.share(), "share", whole.in_words()),
        outputs,
        ("latency", ratio, "ratio", said),
        ("integer kernels", integer, "kernels", told),
    ]
    return [
        figure(f"{title}/{what}", x, unit, bars.get(what), text) for what, x, unit, text in rows
    ]
