"""Whether a program that is meant to be exact computes what the users' files compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..errors import ModelError
from ..frames.calibration import Frames
from ..graph.arrays import Array
from ..graph.export import every_node
from ..graph.program import Program
from ..graph.weights import element_name
from .executable import Executable
from .feeds import StreamFeeds, held_out_feeds, run_groups
from .given import Originals

# The largest difference of a float output by its largest value that is taken for float noise, by
# the coarsest type that the model computes in. Folding a normalisation moves float32 outputs by
# some 1e-6, and a deep network makes that more.
NOISE = 1e-3
_COARSE = {"float16": 2e-2, "bfloat16": 1e-1}
_QUANTISED_NOISE = 5e-2  # a value that lies between two steps falls to either side
_QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
# Of integers that floats decide (the best class, the order of scores), the share that may differ.
_DECIDED = 1e-2
# Where more differs, the file itself is asked how much inputs matter that are moved by this share.
_NUDGE = 1e-6
_TIMES, _MOST = 10.0, 5e-2
_SMALLEST = 1e-6  # an output with no larger value is compared by this
PROBED = 4  # frames


@dataclass(frozen=True)
class Probe:
    """Inputs by value of the program, and what the files make of them: {model: {output: value}}."""

    feeds: Mapping[str, Array]
    expected: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """An output that is not the file's: by how much of its largest value, and what is allowed.

    `problem` says what went wrong where there is nothing to compare.
    """

    model: str
    output: str
    gap: float
    allowed: float
    problem: str = ""

    def __str__(self) -> str:
        where = f"output '{self.output}' of model '{self.model}'"
        if self.problem:
            return f"{where}: {self.problem}"
        if np.isinf(self.gap):
            return f"{where} has another type or shape, or values that are no numbers elsewhere"
        return f"{where} differs by {self.gap:.2g} of its largest value ({self.allowed:g} allowed)"


def frame_probes(
    original: Program, frames: Frames, given: Originals
) -> tuple[list[Probe], dict[str, str]]:
    """A few held-out frames with what the files make of them; and which models are random.

    Where frames are of several sizes, some of each of the first few.
    Of those it says why nothing can be compared. Raises ModelError if a file does not run.
    """
    probes: list[Probe] = []
    random: dict[str, str] = {}
    for group in run_groups(frames):
        feeds = held_out_feeds(original, frames, group[0])
        parts = feeds.alike[:PROBED]
        each = feeds.fixed or PROBED // len(parts)
        rows = np.concatenate([part[:each] for part in parts])
        few = StreamFeeds(original, frames, feeds.models, rows)
        values = [value for name in group for value in original.models[name].inputs.values()]
        for batch in few.batches(values):
            expected: dict[str, Mapping[str, Any]] = {}
            for name in group:
                found = twice(original, name, batch, given)
                if isinstance(found, str):
                    random[name] = found
                else:
                    expected[name] = found
            probes.append(Probe(batch, expected))
    return probes, random


def twice(
    original: Program, model: str, feeds: Mapping[str, Array], given: Originals
) -> dict[str, Any] | str:
    """What the file makes of inputs by value; why that is not to be relied on, if it is not."""
    own = {name: feeds[value] for name, value in original.models[model].inputs.items()}
    found, again = given.run(model, own), given.run(model, own)
    for name, value in found.items():
        if gap(value, again[name]) > NOISE:
            return f"output '{name}' is random: two runs of the file on one input differ"
    return found


class Exactness:
    """Whether outputs of `program` are those of the files, but for rounding.

    With `given`, a difference that the file itself shows for inputs that hardly differ counts as
    rounding too.
    """

    def __init__(self, program: Program, given: Originals | None = None) -> None:
        self.program = program
        self._given = given
        self._tolerances: dict[str, Tolerance] = {}
        self._moved: list[tuple[Probe, str, Mapping[str, Any] | None]] = []

    def difference(self, probes: Sequence[Probe]) -> Difference | None:
        """The first output of the program that is not what the files make; None if all are."""
        for probe in probes:
            refs = [
                (name, own, value)
                for name in probe.expected
                for own, value in self.program.models[name].outputs.items()
            ]
            if not refs:
                continue
            try:
                segment = Executable(self.program, None, list(dict.fromkeys(r[2] for r in refs)))
                made = segment({name: probe.feeds[name] for name in segment.inputs})
            except ModelError as error:
                name, own, _ = refs[0]
                return Difference(name, own, np.inf, 0.0, error.message)
            found = dict(zip(segment.outputs, made))
            for name, own, value in refs:
                wrong = self.judged(probe, (name, own), found[value])
                if wrong is not None:
                    return wrong
        return None

    def judged(self, probe: Probe, output: tuple[str, str], found: Any) -> Difference | None:
        """What is wrong with what was found for a (model, output) of a probe; None if nothing."""
        model, own = output
        expected = probe.expected[model][own]
        apart, allowed = gap(expected, found), self.tolerance(model).of(expected)
        if apart > allowed and self._given is not None:
            moved = self._nudged(probe, model, self._given)
            noise = 0.0 if moved is None else gap(expected, moved[own])
            if noise < np.inf:
                allowed = max(allowed, min(_TIMES * noise, _MOST))
        return None if apart <= allowed else Difference(model, own, apart, allowed)

    def tolerance(self, model: str) -> Tolerance:
        """What is taken for rounding of a model's outputs."""
        if model not in self._tolerances:
            self._tolerances[model] = tolerance_of(self.program, model)
        return self._tolerances[model]

    def _nudged(self, probe: Probe, model: str, given: Originals) -> Mapping[str, Any] | None:
        """What the file makes of inputs that hardly differ; None where it has no float inputs."""
        for known, name, found in self._moved:
            if known is probe and name == model:
                return found
        found = _run_nudged(self.program.models[model].inputs, model, probe, given)
        self._moved.append((probe, model, found))
        return found


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may be from the files': see `gap`. `floats` by size, `whole` by share."""

    floats: float
    whole: float

    def of(self, expected: Any) -> float:
        """What is allowed for that value."""
        return self.floats if _is_float(expected) else self.whole


def tolerance_of(program: Program, model: str) -> Tolerance:
    """What is taken for rounding of a model's outputs, by the types that it computes in."""
    nodes = list(every_node(program.nodes_of(model)))
    names = {
        element_name(value.dtype)
        for node in nodes
        for value in node.outputs
        if not value.is_empty() and value.dtype is not None
    }
    noise = max([NOISE, *(size for name, size in _COARSE.items() if name in names)])
    noise = max([noise, *(_QUANTISED_NOISE for node in nodes if node.op in _QUANTISED)])
    # Whole numbers that come of whole numbers are exact.
    return Tolerance(noise, _DECIDED if any("float" in name for name in names) else 0.0)


def _is_float(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_is_float(one) for one in cast("list[Any]", value))
    if isinstance(value, dict):
        return any(_is_float(one) for one in cast("dict[Any, Any]", value).values())
    if isinstance(value, np.ndarray):
        return cast("Array", value).dtype.kind in "fc"
    return isinstance(value, float)


def gap(expected: Any, found: Any) -> float:
    """How far a value is from what is expected, 0 if it is equal.

    Floats: the largest difference by the largest expected value. Whole numbers: the share that
    differs. Infinite for other types, shapes and texts, and where one has numbers and one has none.
    """
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
        return _array_gap(cast("Array", expected), cast("Array", found))
    if isinstance(expected, dict) and isinstance(found, dict):
        one, other = cast("dict[Any, Any]", expected), cast("dict[Any, Any]", found)
        if one.keys() != other.keys():
            return np.inf
        return max((gap(one[key], other[key]) for key in one), default=0.0)
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        ours, theirs = cast("list[Any]", expected), cast("list[Any]", found)
        if len(ours) != len(theirs):
            return np.inf
        return max((gap(a, b) for a, b in zip(ours, theirs)), default=0.0)
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        return _array_gap(np.asarray(cast("float", expected)), np.asarray(cast("float", found)))
    same = cast("object", expected) == cast("object", found)
    return 0.0 if same is True else np.inf


def _array_gap(expected: Array, found: Array) -> float:
    text = expected.dtype.kind in "OUS" and found.dtype.kind in "OUS"
    if expected.shape != found.shape or (expected.dtype != found.dtype and not text):
        return np.inf
    if not expected.size:
        return 0.0
    if text:
        return 0.0 if np.array_equal(expected, found) else np.inf
    if expected.dtype.kind not in "fc":
        return int(np.count_nonzero(expected != found)) / expected.size
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        return np.inf
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    one, other = expected[finite].astype(wide), found[finite].astype(wide)
    if not np.all(np.isfinite(other)):
        return np.inf
    largest = float(np.max(np.abs(one), initial=_SMALLEST))
    return float(np.max(np.abs(one - other), initial=0.0)) / largest


def _run_nudged(
    inputs: Mapping[str, str], model: str, probe: Probe, given: Originals
) -> Mapping[str, Any] | None:
    draws = np.random.default_rng(0)
    moved: dict[str, Array] = {}
    for own, value in inputs.items():
        array = probe.feeds[value]
        if array.dtype.kind == "f":
            nudge = 1 + _NUDGE * draws.standard_normal(array.shape)
            moved[own] = np.asarray(array * nudge, array.dtype)
        else:
            moved[own] = array
    if not any(array.dtype.kind == "f" for array in moved.values()):
        return None
    try:
        return given.run(model, moved)
    except ModelError:
        return None
