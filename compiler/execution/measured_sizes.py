"""Sizes of all values as they are on frames: what a model leaves free is bound to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import ModelError, UsageError
from ..frames.calibration import Frames
from ..graph.arrays import Array, Int64
from ..graph.free_size import FreeSize, size_of
from ..graph.opaque import NonTensorValue
from ..graph.program import Program
from ..isolation.allowance import ParseLimits
from .executable import Executable
from .feeds import run_groups
from .first_frame import run_first

# Of an input that is made up: a frame of 8K video in float32 has a tenth of it.
_MOST_ELEMENTS = 1 << 30
# Of one set of frames: enough to tell sizes that differ from those that do not.
_MOST_SIZES = 8

InputShapes = Mapping[str, tuple[int, ...]]
_Feeds = dict[str, Array]
_Measured = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Runs:
    """What a group of models is fed: frames of each size (`sizes`), and `more` of the first.

    `more` are twice as many frames where their number is free, others where it is fixed.
    """

    sizes: tuple[_Feeds, ...]
    more: _Feeds
    doubled: bool


def bind_to_frames(program: Program, frames: Frames, others: bool = True) -> None:
    """Gives every free dimension the sizes that it has on the frames, in place.

    They are measured by a run, since inference ends at the first computed shape. Where frames are
    of several sizes, the largest come first: prices and batches go by those. With `others`, sizes
    that the frames do not have are tried as well, so that values of one size by chance are told
    from those that are always of one. Raises ModelError where a model does not run.
    """
    if not _needs_run(program):
        return
    for stream in run_groups(frames):
        group = tuple(name for name in stream if name in program.models)
        if group:
            _bind(program, group, _runs(program, frames, group), others)


def bind_to_shapes(
    program: Program, shapes: InputShapes, limits: ParseLimits | None = None
) -> None:
    """Gives every free dimension the size that it has with inputs of these shapes, in place.

    `shapes` goes by input: its own name, or with the model's before it ('model.input'). Inputs
    that it leaves out count with one frame; where they have other free sizes, those of their
    model stay unknown. Raises UsageError for a shape that is of no input or does not fit it, and
    ModelError if running the model takes more than the limits.
    """
    told = _by_value(program, shapes)
    for name, model in program.models.items():
        values = {value.name: value for value in program.graph.inputs}
        mine = [values[value] for value in dict.fromkeys(model.inputs.values())]
        arrays: _Feeds = {}
        for value in mine:
            sizes = told.get(value.name) or _sizes_with(value, 1)
            if sizes is None or value.dtype is None:
                break
            arrays[value.name] = _made_up(value, sizes)
        if len(arrays) < len(mine) or not told.keys() & arrays.keys():
            continue
        run_first(program, name, arrays, "inputs of the sizes given", limits)
        fixed = any(value.shape and isinstance(value.shape[0], int) for value in mine)
        more = arrays if fixed else {n: np.concatenate([a, a]) for n, a in arrays.items()}
        try:
            _bind(program, (name,), _Runs((arrays,), more, not fixed), False)
        except ModelError as error:
            raise UsageError(
                f"model '{name}' does not run with the sizes given: {error.message}",
                "give those that it takes",
            ) from error


def take_sizes(program: Program, measured: Program) -> None:
    """Gives the free dimensions of a program the sizes of values of equal name, in place.

    `program` is one of the models that `measured` joins, or what passes made of it; inputs go by
    the models' own names.
    """
    names: dict[str, str] = {}
    for name, model in program.models.items():
        other = measured.models[name].inputs
        names |= {value: other[own] for own, value in model.inputs.items() if own in other}
    known = measured.values()
    for value in program.values().values():
        found = known.get(names.get(value.name, value.name))
        shape: Any = None if found is None else found.shape
        if shape is None or (value.shape is not None and len(value.shape) != len(shape)):
            continue
        own = [""] * len(shape) if value.shape is None else value.shape
        value.shape = [
            new.named(str(old or "")) if isinstance(new, FreeSize) else old if old else new
            for old, new in zip(own, shape)
        ]


def told_sizes(program: Program) -> dict[tuple[str, str], tuple[int, ...] | None]:
    """By model and own name, what one frame of each input of free size is; None: nothing tells.

    Inputs of which only the number of frames is free are left out.
    """
    values = {value.name: value for value in program.graph.inputs}
    found: dict[tuple[str, str], tuple[int, ...] | None] = {}
    for name, model in program.models.items():
        for own, value in model.inputs.items():
            shape: Any = values[value].shape
            if shape is None or any(not isinstance(dim, int) for dim in shape[1:]):
                found[name, own] = _sizes_with(values[value], 1)
    return found


def unknown_sizes(program: Program) -> tuple[str, ...]:
    """The inputs ('model.input') whose free sizes nothing tells."""
    told = told_sizes(program).items()
    return tuple(f"{model}.{own}" for (model, own), sizes in told if sizes is None)


# -- what is run --------------------------------------------------------------------------------


def _needs_run(program: Program) -> bool:
    """Whether any dimension is neither fixed nor the number of frames."""
    return any(
        value.shape is None or any(size_of(dim) is None for dim in value.shape)
        for value in _tensors(program)
    )


def _tensors(program: Program) -> Iterator[gs.Variable]:
    for value in program.values().values():
        if not isinstance(value, NonTensorValue):
            yield value


def _runs(program: Program, frames: Frames, group: Sequence[str]) -> _Runs:
    """Frames of the group of the largest size, and of a few others."""
    unit = max((frames.batch(name) or 1 for name in group), default=1)
    free = all(frames.batch(name) is None for name in group)
    found: dict[tuple[tuple[int, ...], ...], tuple[_Feeds, Int64]] = {}
    for rows in frames.alike(group, frames.rows(group[0])):
        feeds = _of_frames(program, frames, group, rows[:unit])
        shapes = tuple(array.shape for array in feeds.values())
        if shapes in found:
            continue
        found[shapes] = (feeds, rows)
        if len(found) > _MOST_SIZES:
            ordered = sorted(found, key=_elements, reverse=True)
            del found[ordered[_MOST_SIZES // 2]]  # neither the largest nor the smallest
    largest, *others = (found[shapes] for shapes in sorted(found, key=_elements, reverse=True))
    feeds, rows = largest
    again = rows[: 2 * unit] if free else rows[unit : 2 * unit]
    if len(again) == (2 * unit if free else unit):
        more = _of_frames(program, frames, group, again)
    else:  # no other frame of this size: a part of it emptied tells what depends on the content
        twice = np.concatenate([rows[:unit], rows[:unit]]) if free else rows[:unit]
        more = _of_frames(program, frames, group, twice)
        more = {name: _partly_emptied(array, feeds[name].shape) for name, array in more.items()}
    return _Runs((feeds, *(other for other, _ in others)), more, free)


def _partly_emptied(array: Array, shape: Sequence[int]) -> Array:
    """Numbers with zeros in a third of the second of two frames, or of the only one.

    In all of it they would make nothing of it, which looks like what never changes.
    """
    if array.dtype.kind != "f" or not array.ndim:
        return array
    made = array.copy()
    axis = next((axis for axis, size in enumerate(shape) if array.shape[axis] != size), 0)
    places = slice(shape[axis] if array.shape[axis] != shape[axis] else 0, None)
    made[(slice(None),) * axis + (places,)][..., : -(-shape[-1] // 3)] = 0
    return made


def _elements(shapes: Iterable[Sequence[int]]) -> int:
    return sum(map(math.prod, shapes))


def _of_frames(program: Program, frames: Frames, models: Sequence[str], rows: Int64) -> _Feeds:
    found: _Feeds = {}
    for name in models:
        arrays = frames.feed(name, rows)
        for own, value in program.models[name].inputs.items():
            found.setdefault(value, arrays[own])
    return found


def _by_value(program: Program, shapes: InputShapes) -> _Measured:
    """The shapes by graph input. Raises UsageError."""
    names: dict[str, set[str]] = {}
    for name, model in program.models.items():
        for own, value in model.inputs.items():
            for called in (own, f"{name}.{own}", f"{name}/{own}"):
                names.setdefault(called, set()).add(value)
    values = {value.name: value for value in program.graph.inputs}
    found: _Measured = {}
    for called, sizes in shapes.items():
        if called not in names:
            raise UsageError(
                f"--size names '{called}', which is no input", f"inputs are {', '.join(names)}"
            )
        for name in names[called]:
            wanted = values[name].shape
            fits = wanted is None or (
                len(wanted) == len(sizes)
                and all(
                    not isinstance(want, int) or want == size for want, size in zip(wanted, sizes)
                )
            )
            if not fits or min(sizes, default=1) < 1:
                told = "x".join(map(str, sizes))
                takes = ", ".join("?" if d in (None, "") else str(d) for d in wanted or ())
                raise UsageError(
                    f"input '{called}' cannot be {told}: it takes [{takes}]",
                    f"give --size {called}= and {len(wanted or ())} sizes, such as 1x3x224x224",
                )
            if math.prod(sizes) > _MOST_ELEMENTS:
                raise UsageError(f"input '{called}' would have {math.prod(sizes)} elements")
            found[name] = tuple(sizes)
    return found


def _sizes_with(value: gs.Variable, batch: int) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    sizes = [size_of(dim, batch) for dim in cast("list[Any]", value.shape)]
    known = [size for size in sizes if size is not None]
    return tuple(known) if len(known) == len(sizes) else None


def _made_up(value: gs.Variable, sizes: tuple[int, ...]) -> Array:
    dtype = np.dtype(value.dtype)
    return np.full(sizes, "", dtype) if dtype.kind in "OU" else np.zeros(sizes, dtype)


class _Meter:
    """Runs models and gives the sizes of all their values, whose arrays are never kept."""

    def __init__(self, program: Program, models: Iterable[str]) -> None:
        asking = program.copy()
        nodes = {id(node): node for name in models for node in asking.nodes_of(name)}
        wanted = {
            value.name
            for node in nodes.values()
            for value in node.outputs
            if isinstance(value, gs.Variable)
            and not value.is_empty()
            and not isinstance(value, NonTensorValue)
        }
        taken = {node.name for node in asking.graph.nodes} | set(asking.graph.tensors())
        self._names: dict[str, str] = {}
        ordered: list[gs.Node] = []
        for node in asking.graph.nodes:
            ordered.append(node)
            for value in list(node.outputs):
                if value.name not in wanted:
                    continue
                name = f"{value.name}/size"
                while name in taken:
                    name += "_"
                shape = gs.Variable(name, np.dtype(np.int64), None)
                ordered.append(gs.Node("Shape", name, {}, [value], [shape]))
                self._names[name] = value.name
        asking.graph.nodes = ordered
        # Sizes that ONNX Runtime infers are what the model claims of itself: no node would run.
        self._segment = (
            Executable(asking, None, list(self._names), as_written=True) if self._names else None
        )

    def sizes(self, feeds: _Feeds) -> _Measured:
        """The sizes of all values on these arrays. Raises ModelError."""
        found: _Measured = {name: tuple(array.shape) for name, array in feeds.items()}
        if self._segment is not None:
            for name, made in zip(self._names.values(), self._segment(feeds)):
                found[name] = tuple(int(size) for size in made)
        return found


def _bind(program: Program, models: Sequence[str], runs: _Runs, others: bool) -> None:
    meter = _Meter(program, models)
    found = [meter.sizes(feeds) for feeds in runs.sizes]
    try:
        more = meter.sizes(runs.more)
    except ModelError:
        if not runs.doubled:
            raise
        # The batch is free by name alone: a constant shape inside allows one frame only.
        more = found[0]
    if others:
        for axes in _free_axes(program, runs.sizes[0]):
            found += _tried(meter, runs.sizes[0], axes)
    contradicted = _contradicted(program, found)
    outside = program.input_names | program.output_names
    for value in _tensors(program):
        measured = [sizes[value.name] for sizes in found if value.name in sizes]
        again = more.get(value.name)
        if len(measured) < len(found) or again is None:
            continue
        shape: Any = value.shape
        if shape is None:
            if value.name in outside:
                continue  # what the model says of its own interface stays as it is
            shape = [None] * len(again)
        if any(len(sizes) != len(shape) for sizes in (*measured, again)):
            continue
        value.shape = [
            _bound(dim, tuple(sizes[axis] for sizes in measured), again[axis], runs, contradicted)
            for axis, dim in enumerate(shape)
        ]


def _bound(
    dim: Any, sizes: tuple[int, ...], again: int, runs: _Runs, contradicted: set[str]
) -> Any:
    if isinstance(dim, int):
        return dim
    name = "" if dim is None or dim in contradicted else str(dim)
    grows = runs.doubled and again == 2 * sizes[0]
    if again != sizes[0] and not grows:
        # It depends on what is in the frames: no size of theirs is to be relied on.
        return name or None
    per_run = sizes[0] and grows
    return FreeSize(name, sizes, bool(per_run))


def _contradicted(program: Program, found: Sequence[_Measured]) -> set[str]:
    """Names that stand for two sizes at once: they mean nothing."""
    wrong: set[str] = set()
    for measured in found:
        sizes: dict[str, int] = {}
        for value in _tensors(program):
            shape: Any = value.shape or ()
            for dim, size in zip(shape, measured.get(value.name, ())):
                if isinstance(dim, str) and dim and sizes.setdefault(dim, size) != size:
                    wrong.add(str(dim))
    return wrong


def _free_axes(program: Program, feeds: _Feeds) -> list[dict[str, list[int]]]:
    """Axes of inputs that are free beside the frames' own, those together that go together.

    That are axes of one name, and the same axis of several inputs where it has one size.
    """
    groups: dict[object, dict[str, list[int]]] = {}
    of_name: dict[str, object] = {}
    for value in [value for value in program.graph.inputs if value.name in feeds]:
        shape: Any = value.shape or ()
        for axis, (dim, size) in enumerate(zip(shape, feeds[value.name].shape)):
            if isinstance(dim, int) or (isinstance(dim, FreeSize) and dim.per_frame):
                continue  # frames are counted on it
            key: object = (axis, size)
            key = of_name.setdefault(str(dim), key) if dim else key
            groups.setdefault(key, {}).setdefault(value.name, []).append(axis)
    return list(groups.values())


def _tried(meter: _Meter, feeds: _Feeds, axes: Mapping[str, Sequence[int]]) -> list[_Measured]:
    """The sizes with those axes longer: by one where the models take it, else twice as long."""
    for times, more in ((1, 1), (2, 0)):
        changed = dict(feeds)
        for name, some in axes.items():
            for axis in some:
                size = int(changed[name].shape[axis])
                places = np.arange(times * size + more) % max(size, 1)
                changed[name] = np.take(changed[name], places, axis=axis)
        try:
            return [meter.sizes(changed)]
        except ModelError:
            continue
    return []
