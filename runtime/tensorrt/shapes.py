"""Shapes that engines are built for: the free dimensions of inputs, as (least, usual, most)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ModelError, UsageError
from ..manifest import Dimension, Manifest, TensorSpec

Range = tuple[int, int, int]
_RANGE = re.compile(r"(\d+)(?::(\d+):(\d+))?")


def parse_batch(text: str) -> Range:
    """(least, usual, most) of '4' or '1:4:8'. Raises UsageError."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is no batch", "write it as 4, or 1:4:8 (least:usual:most)")
    least = int(match.group(1))
    usual, most = int(match.group(2) or least), int(match.group(3) or least)
    if not 1 <= least <= usual <= most:
        raise UsageError(
            f"a batch of {text} is not in order", "write least:usual:most, such as 1:4:8"
        )
    return least, usual, most


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """('input', (1, 3, 224, 224)) of 'input=1x3x224x224'. Raises UsageError."""
    name, equals, sizes = text.rpartition("=")
    if not equals or not name or not re.fullmatch(r"\d{1,9}(x\d{1,9})*", sizes):
        raise UsageError(f"'{text}' is no shape", "write it as NAME=1x3x224x224")
    return name, tuple(int(size) for size in sizes.split("x"))


@dataclass(frozen=True)
class Shapes:
    """What is known of free dimensions: a range for the batch, sizes for other symbols.

    The batch is the first axis of the models' inputs where that is free; its symbol may stand in
    other values too.
    """

    batch: Range
    batch_symbols: frozenset[str]
    sizes: Mapping[str, int]
    inputs: Mapping[str, tuple[int, ...]]  # by value name, where told

    def profile(
        self, name: str, shape: Sequence[Dimension] | None
    ) -> tuple[tuple[int, ...], ...] | None:
        """(least, usual, most) shapes of a value; None if nothing of it is free.

        Raises UsageError if a size is not known.
        """
        if shape is None:
            raise ModelError(
                f"the number of axes of '{name}' is not known, and an engine needs it",
                "export the model with known shapes",
            )
        if all(isinstance(size, int) for size in shape):
            return None
        told = self.inputs.get(name)
        if told is not None and len(told) != len(shape):
            raise UsageError(
                f"'{name}' has {len(shape)} axes, and a shape of {len(told)} was given"
            )
        found: list[Range] = []
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                found.append((size, size, size))
            elif size in self.batch_symbols or (axis == 0 and size not in self.sizes):
                # Exporters give the batch of an inner value a symbol of its own, or none.
                found.append(self.batch)
            elif told is not None:
                found.append((told[axis], told[axis], told[axis]))
            elif size is not None and size in self.sizes:
                found.append((self.sizes[size], self.sizes[size], self.sizes[size]))
            else:
                raise UsageError(
                    f"axis {axis} of '{name}' is free, and nothing says how large it will be",
                    "say it with --shape INPUT=1x3x224x224, or build with --layout merged",
                )
        return tuple(tuple(sizes[place] for sizes in found) for place in range(3))


def known_shapes(
    manifest: Manifest,
    batch: Range | None,
    given: Mapping[str, tuple[int, ...]],
    references: Mapping[str, tuple[int, ...]],
) -> Shapes:
    """What the command line (`batch`, `given` by input), references and manifest tell.

    Without a `batch` engines are built for one frame at a time. Raises UsageError for a shape
    that fits no input.
    """
    inputs: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    symbols: set[str] = set()
    names: dict[str, list[TensorSpec]] = {}
    for entry in manifest.models:
        for spec in entry.inputs:
            for name in (spec.name, f"{entry.name}/{spec.name}", spec.value):
                names.setdefault(name, []).append(spec)
            if spec.shape and isinstance(spec.shape[0], str):
                symbols.add(spec.shape[0])
            told = references.get(spec.value) or manifest.sizes.get(spec.value)
            if told is not None:
                inputs[spec.value] = told
    for name, shape in given.items():
        if name not in names:
            raise UsageError(f"no model has an input '{name}'", f"there are {', '.join(names)}")
        for spec in names[name]:
            if spec.shape is not None and len(spec.shape) != len(shape):
                raise UsageError(
                    f"input '{name}' has {len(spec.shape)} axes, and {len(shape)} were given"
                )
            inputs[spec.value] = shape
    for entry in manifest.models:
        for spec in entry.inputs:
            for size, told in zip(spec.shape or (), inputs.get(spec.value, ())):
                if isinstance(size, str):
                    sizes.setdefault(size, told)
    return Shapes(batch or (1, 1, 1), frozenset(symbols), sizes, inputs)
