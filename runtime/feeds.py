"""From what a caller passes to `run` to one checked array per input value of the graph."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, UsageError
from .manifest import Dimension, Manifest, ModelEntry, TensorSpec, held

Array = NDArray[Any]
Sizes = Mapping[str, int | Sequence[int]]  # of inputs, or of symbols
MOST_NBYTES = 4 << 30  # of an array that is made up; a manifest is untrusted
Inputs = Any  # an array, {input: array}, {model: array} or {model: {input: array}}


def choose_models(manifest: Manifest, models: Iterable[str] | str | None) -> tuple[str, ...]:
    """The models asked for, in the manifest's order; all for None. Raises UsageError."""
    known = [entry.name for entry in manifest.models]
    if models is None:
        return tuple(known)
    asked = [models] if isinstance(models, str) else models
    # What Python callers pass may be of any type.
    if not isinstance(cast("object", asked), Iterable):
        raise UsageError(f"models={models!r} is neither a model's name nor several")
    asked = list(asked)
    for name in asked:
        if not isinstance(cast("object", name), str):
            raise UsageError(f"models={models!r} holds {name!r}, which is no model's name")
        if name not in known:
            raise UsageError(f"there is no model '{name}' in this bundle", suggestion(name, known))
    if not asked:
        raise UsageError("no model was asked for", f"models: {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def required(manifest: Manifest, models: Sequence[str]) -> Iterator[tuple[ModelEntry, TensorSpec]]:
    """The inputs that the outputs of these models depend on, each with the model it is of."""
    for name in models:
        entry = manifest.model(name)
        for spec in entry.inputs:
            if spec.name not in entry.unused:
                yield entry, spec
        for other, needed in entry.needs:
            owner = manifest.model(other)
            yield owner, next(spec for spec in owner.inputs if spec.name == needed)


def unused(manifest: Manifest, models: Sequence[str]) -> Iterator[tuple[ModelEntry, TensorSpec]]:
    """The inputs of these models that no output depends on any more."""
    for name in models:
        entry = manifest.model(name)
        for spec in entry.inputs:
            if spec.name in entry.unused:
                yield entry, spec


def arrange(manifest: Manifest, models: Sequence[str], inputs: Inputs) -> dict[str, Array]:
    """One array per input value that these models need, checked for dtype and shape.

    `inputs` is one array, where one value feeds everything asked for; or a mapping whose keys
    are models (values: an array, or arrays by input name) or input names. Arrays for models
    that were not asked for are ignored; inputs that no output depends on may be left out and
    are then zeros, and so may those that have a default. Raises DataError.
    """
    needed = list(required(manifest, models))
    idle = list(unused(manifest, models))
    optional = [(entry, s) for entry in map(manifest.model, models) for s in entry.optional]
    given: dict[str, Array] = {}
    for spec, where, array in _given(manifest, needed, [*idle, *optional], inputs):
        ready = check(array, spec, where)
        earlier = given.setdefault(spec.value, ready)
        if earlier is not ready and not _same(earlier, ready):
            raise DataError(
                f"{where} is given another array than a model it shares its input with",
                "this bundle was compiled for one frame feeding both; compile without tied "
                "inputs if their frames differ",
            )
    for entry, spec in needed:
        if spec.value not in given:
            asking = [name for name in models if _depends(manifest.model(name), entry, spec)]
            raise DataError(
                f"no array for input '{spec.name}' of model '{entry.name}', which "
                f"{', '.join(asking)} depends on",
                f"pass {{'{entry.name}': {{'{spec.name}': array}}}}, or ask for fewer models",
            )
    for name in models:
        _check_symbols(name, list(required(manifest, [name])), given)
    for _, spec in idle:
        if spec.value not in given:
            given[spec.value] = placeholder(spec)
    wanted = (*needed, *idle, *(pair for pair in optional if pair[1].value in given))
    return {spec.value: given[spec.value] for _, spec in wanted}


def placeholder(spec: TensorSpec, sizes: Sequence[int] | None = None) -> Array:
    """Zeros (or empty texts) of the input's dtype, of these sizes; without them free ones are 1.

    Raises DataError if the rank is unknown, NumPy has no such dtype, or it is too large.
    """
    try:
        dtype = np.dtype("U1" if spec.dtype == "object" else spec.dtype)
    except TypeError:
        dtype = None
    shape = sizes if sizes is not None or spec.shape is None else one_frame(spec.shape)
    if dtype is None or shape is None:
        raise DataError(f"nothing can be made up for input '{spec.name}'", "give an array for it")
    if math.prod(shape) * dtype.itemsize > MOST_NBYTES:
        raise DataError(
            f"input '{spec.name}' of shape {list(shape)} is too large to make something up for it",
            "give an array for it",
        )
    return np.zeros(tuple(shape), dtype)


def one_frame(shape: Sequence[Dimension]) -> tuple[int, ...]:
    """The shape with every free size 1."""
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def sizes_of_inputs(manifest: Manifest, given: Sizes | None = None) -> dict[str, tuple[int, ...]]:
    """By input value, the sizes to try a bundle with: those `given`, else those compiled for.

    `given` goes by input, as a shape: its name, or with the model's before it ('model.input'); or
    by symbol, as a number. Inputs of which only the number of frames is free count with one. Raises
    UsageError for sizes that fit no input, and for an input of which nothing tells them.
    """
    names: dict[str, list[TensorSpec]] = {}
    for entry in manifest.models:
        for spec in entry.inputs:
            for name in (spec.name, f"{entry.name}.{spec.name}", f"{entry.name}/{spec.name}"):
                names.setdefault(name, []).append(spec)
    found = dict(manifest.sizes)
    symbols = {name: size for name, size in (given or {}).items() if isinstance(size, int)}
    for name, sizes in (given or {}).items():
        if isinstance(sizes, int):
            continue
        if name not in names:
            raise UsageError(f"there is no input '{name}'", suggestion(name, names))
        for spec in names[name]:
            if spec.shape is not None and not _fits(tuple(sizes), spec.shape):
                told, wanted = ("x".join(map(str, s)) for s in (sizes, _shown(spec.shape)))
                raise UsageError(f"input '{name}' cannot be {told}: it takes {wanted}")
            found[spec.value] = tuple(sizes)
    for entry in manifest.models:
        for spec in entry.inputs:
            if spec.shape is None:
                continue
            shape = [
                symbols.get(size, size) if isinstance(size, str) else size for size in spec.shape
            ]
            if shape == list(spec.shape) and spec.value in found:
                continue
            if not all(isinstance(size, int) for size in shape[1:]):
                raise UsageError(
                    f"input '{spec.name}' of model '{entry.name}' may have any size, and nothing "
                    "tells which",
                    f"say it: --size {spec.name}=1x3x224x224 (from Python: sizes=)",
                )
            found[spec.value] = one_frame(shape)
    return found


def _shown(shape: Sequence[Dimension]) -> list[str]:
    return ["?" if size is None else str(size) for size in shape]


def _depends(asking: ModelEntry, owner: ModelEntry, spec: TensorSpec) -> bool:
    return asking.name == owner.name or (owner.name, spec.name) in asking.needs


def _given(
    manifest: Manifest,
    needed: Sequence[tuple[ModelEntry, TensorSpec]],
    idle: Sequence[tuple[ModelEntry, TensorSpec]],
    inputs: Inputs,
) -> Iterator[tuple[TensorSpec, str, Any]]:
    """Which array goes to which input, and what to call it in an error."""
    if not isinstance(inputs, Mapping):
        if len({spec.value for _, spec in needed}) != 1:
            listed = ", ".join(f"{e.name}: '{s.name}'" for e, s in needed) or "none"
            raise DataError(
                f"one array was given, but the inputs are not one: {listed}",
                "pass {model: {input: array}}",
            )
        entry, spec = needed[0]
        yield spec, f"input '{spec.name}' of model '{entry.name}'", inputs
        return
    known = [*needed, *idle]
    models = {entry.name: entry for entry in manifest.models}
    for key, value in cast("Mapping[Any, Any]", inputs).items():
        if key in models:
            yield from _given_to_model(models[key], value, known)
            continue
        named = [(entry, spec) for entry, spec in known if spec.name == key]
        if not named:
            specs = [s for e in manifest.models for s in (*e.inputs, *e.optional)]
            names = [*models, *dict.fromkeys(s.name for s in specs)]
            if key in names:
                continue  # an input of models that were not asked for
            raise DataError(
                f"'{key}' is neither a model nor an input of one", suggestion(str(key), names)
            )
        if len({spec.value for _, spec in named}) != 1:
            owners = ", ".join(dict.fromkeys(entry.name for entry, _ in named))
            raise DataError(
                f"several models have an input '{key}' of their own: {owners}",
                "pass {model: {input: array}}",
            )
        entry, spec = named[0]
        yield spec, f"input '{key}' of model '{entry.name}'", value


def _given_to_model(
    entry: ModelEntry, value: Any, known: Sequence[tuple[ModelEntry, TensorSpec]]
) -> Iterator[tuple[TensorSpec, str, Any]]:
    wanted = {spec.value for _, spec in known}
    specs = {spec.name: spec for spec in (*entry.inputs, *entry.optional)}
    if not isinstance(value, Mapping):
        own = [spec.name for spec in entry.inputs]
        used = [name for name in own if name not in entry.unused] or own
        if len(used) != 1:
            raise DataError(
                f"model '{entry.name}' has {len(used)} inputs ({', '.join(used)}), "
                "but one array was given for it",
                f"pass {{'{entry.name}': {{input: array}}}}",
            )
        value = {used[0]: value}
    for name, array in cast("Mapping[Any, Any]", value).items():
        if name not in specs:
            raise DataError(
                f"model '{entry.name}' has no input '{name}'", suggestion(str(name), specs)
            )
        if specs[name].value in wanted:
            yield specs[name], f"input '{name}' of model '{entry.name}'", array


def check(array: Any, spec: TensorSpec, where: str) -> Array:
    """The array, if its dtype and shape are those of the input. Raises DataError.

    Symbolic and unknown dimensions fit any size. Text inputs take arrays of str; sequences a list
    of arrays, maps a mapping, optional inputs None too.
    """
    holder, inner = held(spec.dtype)
    if holder:
        return _check_held(array, replace(spec, dtype=inner, shape=None), where, holder)
    try:
        found: Array = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{where} is no array: {error}") from error
    if spec.dtype == "object":
        fits = found.dtype.kind in "OU"
    else:
        fits = found.dtype.name == spec.dtype and found.dtype.isnative
    if not fits:
        wanted = "text" if spec.dtype == "object" else spec.dtype
        raise DataError(
            f"{where} has dtype {found.dtype}, needs {wanted}",
            f"convert it with array.astype('{spec.dtype}')",
        )
    if spec.shape is not None and not _fits(found.shape, spec.shape):
        wanted = ", ".join("?" if size is None else str(size) for size in spec.shape)
        raise DataError(
            f"{where} has shape {list(found.shape)}, needs [{wanted}]",
            _shape_hint(found.shape, spec.shape),
        )
    return found


def _check_held(value: Any, spec: TensorSpec, where: str, holder: str) -> Any:
    """The value of an input that holds what `spec` describes. Raises DataError."""
    if holder == "optional":
        return None if value is None else check(value, spec, where)
    if holder == "map":
        if not isinstance(value, Mapping):
            told = f"{where} is {type(value).__name__}, needs a map ({spec.dtype})"
            raise DataError(told, "pass a dict")
        return dict(cast("Mapping[Any, Any]", value))
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{where} is {type(value).__name__}, needs a sequence of {spec.dtype}",
            "pass a list of arrays",
        )
    items = cast("Sequence[Any]", value)
    return [check(item, spec, f"item {index} of {where}") for index, item in enumerate(items)]


def _fits(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(want, int) or size == want for size, want in zip(shape, wanted)
    )


def _shape_hint(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> str:
    if _fits((1, *shape), wanted):
        return "add the batch axis: array[None]"
    if len(shape) == 4 and _fits((shape[0], shape[3], shape[1], shape[2]), wanted):
        return "channels come first: array.transpose(0, 3, 1, 2)"
    return "'?' and names fit any size"


def _check_symbols(
    model: str, needed: Iterable[tuple[ModelEntry, TensorSpec]], given: Mapping[str, Array]
) -> None:
    """Inputs of one model that share a symbol must agree; other models' symbols are their own."""
    sizes: dict[str, tuple[int, str]] = {}
    for entry, spec in needed:
        for size, symbol in zip(given[spec.value].shape if spec.shape else (), spec.shape or ()):
            if not isinstance(symbol, str):
                continue
            earlier, where = sizes.setdefault(symbol, (size, f"'{spec.name}' of '{entry.name}'"))
            if earlier != size:
                raise DataError(
                    f"model '{model}': dimension '{symbol}' is {earlier} in input {where} and "
                    f"{size} in input '{spec.name}' of '{entry.name}'",
                    "inputs that share a dimension need one size",
                )


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return _same_arrays(cast("Array", first), cast("Array", second))
    if isinstance(first, list) and isinstance(second, list):
        one, other = cast("list[Any]", first), cast("list[Any]", second)
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(first == second)


def _same_arrays(first: Array, second: Array) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return bool(np.array_equal(first, second, equal_nan=first.dtype.kind in "fc"))


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint that names what is there, the nearest spelling first."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known) or 'none'}"
