"""Made-up inputs that the users' files accept, for comparing where no frames are given."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import ModelError
from ..graph.arrays import Array
from ..graph.opaque import NonTensorValue
from ..graph.program import Model, Program
from ..isolation.allowance import ParseLimits
from .agreement import Probe, twice
from .given import GivenModels

# Free sizes are tried in this order. Eight keeps most networks going and costs little; images
# have to outlast all strides; some exports only take one.
_SIZES = (8, 1, 2, 3, 4, 16, 32, 64, 128, 224, 320, 512)
_BATCHES = (2, 1)  # for a free first axis; in a batch of one some mistakes do not show
_RANKS = (2, 1, 4, 3, 0)  # where not even the number of axes is known
# A file whose runs on made-up inputs take longer, or whose inputs are larger, is left at that.
_SECONDS = 10.0
_BROKEN = 5  # runs that end badly, after which no other inputs are tried
_MOST_ELEMENTS = 1 << 24
_FEW = 8
_TEXTS = ("a", "text", "two words", "")


@dataclass(frozen=True)
class Making:
    """How inputs are made up: what free sizes and ranks are, and the kind of whole numbers.

    Whole numbers may be indices, sizes or counts, so that few are valid: 'bits' are 0 and 1 at
    random, 'ones' are 1, 'zeros' 0, 'counting' go up from 0, 'last' are -1, 'signed' are from -3 to
    3. Floats are noise, but for inputs of a few numbers (scales, ratios) with 'ones' and 'zeros'.
    With 'signed' they are spread wider, so that what is clipped or saturates shows. `batches` are
    the symbols that count frames.
    """

    size: int
    batch: int
    rank: int
    integers: str = "bits"
    batches: frozenset[str] = frozenset()


def makings(program: Program, model: Model, sizes: Mapping[str, int]) -> Iterator[Making]:
    """Ways to make up a model's inputs, those first that suit most models."""
    values = {value.name: value for value in program.graph.inputs}
    own = [values[name] for name in model.inputs.values()]
    shapes = [value.shape for value in own]
    unknown = any(shape is None for shape in shapes)
    ranks = _RANKS if unknown else (2,)
    free = any(_is_free(size) and size not in sizes for s in shapes for size in (s or ())[1:])
    batches = any(_is_free(size) and size not in sizes for s in shapes for size in (s or ())[:1])
    picky = any(_is_count(v) or _is_few(v.shape) for v in own)
    # What counts frames does so on any axis: a state may be [layers, batch, width].
    counting = frozenset(s[0] for s in shapes if s and isinstance(s[0], str) and s[0])
    kinds = ("bits", "ones", "zeros", "counting", "last") if picky else ("bits",)
    for size, batch, rank, kind in itertools.product(
        _SIZES if free or unknown else _SIZES[:1],
        _BATCHES if batches else _BATCHES[:1],
        ranks,
        kinds,
    ):
        yield Making(size, batch, rank, kind, counting)


def made_up(value: gs.Variable, making: Making, sizes: Mapping[str, int], seed: int) -> Array:
    """An array for a graph input; the same for the same arguments. Raises ModelError if it can't.

    `sizes` are those of symbols that are known.
    """
    if isinstance(value, NonTensorValue) or value.dtype is None:
        raise ModelError(f"input '{value.name}' is no tensor, and cannot be made up")
    shape: list[int] = []
    told: tuple[Any, ...] = (None,) * making.rank if value.shape is None else tuple(value.shape)
    for axis, size in enumerate(told):
        if not _is_free(size):
            shape.append(int(size or 0))
        else:
            first = axis == 0 or size in making.batches
            shape.append(sizes.get(size or "", making.batch if first else making.size))
    if math.prod(shape) > _MOST_ELEMENTS:
        raise ModelError(f"input '{value.name}' is too large to be made up")
    draws = np.random.default_rng([seed, *value.name.encode()])
    dtype = np.dtype(value.dtype)
    if dtype.kind in "OUS":
        return np.array(draws.choice(np.array(_TEXTS, object), shape), object).reshape(shape)
    if dtype.kind == "b":
        return np.asarray(draws.integers(0, 2, shape)).astype(bool)
    if dtype.kind in "iu":
        return np.asarray(_whole(draws, dtype, shape, making)).astype(dtype)
    if making.integers in ("ones", "zeros") and _is_few(value.shape):
        return np.full(shape, float(making.integers == "ones"), dtype)
    spread = 4.0 if making.integers == "signed" else 1.0
    return np.asarray(spread * draws.standard_normal(shape)).astype(dtype)


def _whole(
    draws: np.random.Generator, dtype: np.dtype[Any], shape: list[int], making: Making
) -> Array:
    if dtype.itemsize == 1:  # too narrow for indices: pixels, bytes, quantised values
        limits = np.iinfo(dtype)
        return np.asarray(draws.integers(limits.min, limits.max + 1, shape))
    if making.integers in ("ones", "zeros"):
        return np.full(shape, int(making.integers == "ones"))
    if making.integers == "counting":
        return np.arange(math.prod(shape)).reshape(shape)
    if making.integers == "last" and dtype.kind == "i":
        return np.full(shape, -1)
    if making.integers == "signed":
        return np.asarray(draws.integers(-3 if dtype.kind == "i" else 0, 4, shape))
    return np.asarray(draws.integers(0, 2, shape))


def synthetic_probes(
    original: Program,
    given: GivenModels,
    models: Sequence[str],
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: ParseLimits | None = None,
) -> tuple[list[Probe], dict[str, str]]:
    """Made-up inputs with what the files make of them; and models that nothing can be said of.

    Of those it says why: no inputs that were tried suit the file, or its outputs are random.
    Models that accept the same inputs have one probe. Raises ModelError if a file does not open, or
    takes more than the limits of inputs that are made up.
    """
    probes: dict[Making, list[Probe]] = {}
    unverified: dict[str, str] = {}
    for name in models:
        file = _File(original, name, given, limits)
        accepted = _accepted(original, file, dict(sizes or {}), seed)
        if isinstance(accepted, str):
            unverified[name] = accepted
            continue
        for making, probe in accepted.items():
            known = probes.setdefault(replace(making, batches=frozenset()), [])
            place = next((i for i, other in enumerate(known) if _agree(other, probe)), None)
            if place is None:
                known.append(probe)
            else:
                known[place] = _together(known[place], probe)
    return [probe for alike in probes.values() for probe in alike], unverified


def _agree(one: Probe, other: Probe) -> bool:
    """Whether inputs that both have are the same."""
    shared = one.feeds.keys() & other.feeds.keys()
    return all(np.array_equal(one.feeds[name], other.feeds[name]) for name in shared)


def _together(one: Probe, other: Probe) -> Probe:
    return Probe({**one.feeds, **other.feeds}, {**one.expected, **other.expected})


def _accepted(
    original: Program, file: _File, sizes: Mapping[str, int], seed: int
) -> dict[Making, Probe] | str:
    """The first inputs that suit a file, and others of their shapes; or why none does."""
    values = {value.name: value for value in original.graph.inputs}
    model = original.models[file.model]
    reason = ""

    def probe(making: Making) -> Probe | str:
        feeds = {
            value: made_up(values[value], making, sizes, seed) for value in model.inputs.values()
        }
        made = file.outputs(feeds)
        return made if isinstance(made, str) else Probe(feeds, {model.name: made})

    empty: dict[Making, Probe] = {}
    for making in makings(original, model, sizes):
        try:
            found = probe(making)
        except ModelError as error:
            reason = reason or error.message
            if file.slow:
                break
            continue
        if isinstance(found, str):
            return found
        outputs = found.expected[model.name].values()
        if any(isinstance(one, np.ndarray) and not one.size for one in outputs):
            empty = empty or {making: found}  # nothing to compare: larger inputs may give more
            continue
        return {making: found, **_wider(making, probe)}
    if not empty and file.broken:
        raise file.broken[0]
    return empty or f"ONNX Runtime runs the file on no inputs that were made up: {reason}"


def _wider(making: Making, probe: Callable[[Making], Probe | str]) -> dict[Making, Probe]:
    """The same shapes with values that spread wider, if the file takes them."""
    wider = replace(making, integers="signed")
    try:
        found = probe(wider)
    except ModelError:
        return {}
    return {} if isinstance(found, str) else {wider: found}


class _File:
    """A model's file on made-up inputs, each in the child process first, and never for long.

    `broken` is what ended there for taking too much, or by ending the process: a divisor of 0 does,
    and the next making may be another. `slow` says that there is no more time for others.
    """

    def __init__(
        self, original: Program, model: str, given: GivenModels, limits: ParseLimits | None
    ) -> None:
        self.model = model
        self.broken: list[ModelError] = []
        self.slow = False
        self._original, self._given, self._limits = original, given, limits
        given.open(model)

    def outputs(self, feeds: Mapping[str, Array]) -> dict[str, Any] | str:
        """What the file makes of inputs by value, as `twice`. Raises ModelError if it does not."""
        names = self._original.models[self.model].inputs
        own = {name: feeds[value] for name, value in names.items()}
        allowance = self._given.allowance(self.model, own, self._limits)
        began = time.monotonic()
        try:
            refused = self._given.try_out(self.model, own, allowance)
        except ModelError as error:
            self.broken.append(error)
            self.slow = allowance.seconds <= 0 or time.monotonic() - began > _SECONDS
            self.slow |= len(self.broken) == _BROKEN
            raise
        if refused:
            raise ModelError(refused)
        began = time.monotonic()
        try:
            return twice(self._original, self.model, feeds, self)
        finally:
            self.slow = time.monotonic() - began > _SECONDS

    def run(self, model: str, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """What the file makes of inputs by its own names. Raises ModelError."""
        return self._given.run(model, feeds, _SECONDS)


def _is_count(value: gs.Variable) -> bool:
    return value.dtype is not None and np.dtype(value.dtype).kind in "iu"


def _is_few(shape: Any) -> bool:
    """Whether an input is a number or a few: a scale or a threshold, and no data."""
    return shape is not None and (
        not shape or (len(shape) == 1 and not _is_free(shape[0]) and shape[0] <= _FEW)
    )


def _is_free(size: Any) -> bool:
    return not isinstance(size, int) or size < 0
