"""Sizes of free dimensions: a name for every size, and what it is on the frames at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class FreeSize(str):
    """A dimension that is free in the model, and its size on the frames.

    The text is its name in the model, '' where it has none: rewrites that have to hold for every
    size, exports and manifests see nothing else. `sizes` are what was measured, on frames of the
    first size and then on any others; `per_frame` says that it grows with the number of frames,
    `sizes` being those of one.
    """

    sizes: tuple[int, ...]
    per_frame: bool

    def __new__(cls, name: str, sizes: tuple[int, ...], per_frame: bool = False) -> FreeSize:
        """The dimension of that name with those sizes."""
        made = super().__new__(cls, name)
        made.sizes, made.per_frame = sizes, per_frame
        return made

    def __getnewargs__(self) -> Any:
        return (str(self), self.sizes, self.per_frame)

    def named(self, name: str) -> FreeSize:
        """The same sizes under another name."""
        return FreeSize(name, self.sizes, self.per_frame)


def size_of(dimension: Any, batch: int = 1) -> int | None:
    """The size with so many frames: as the model fixes it, else as measured; None if unknown."""
    if isinstance(dimension, FreeSize):
        return dimension.sizes[0] * (batch if dimension.per_frame else 1)
    return int(dimension) if isinstance(dimension, int) and dimension >= 0 else None


def sizes_of(shape: Iterable[Any] | None, batch: int = 1) -> tuple[int, ...] | None:
    """All sizes of a shape with so many frames; None if one of them is unknown.

    The first axis counts frames where nothing else is known of it.
    """
    if shape is None:
        return None
    found: list[int] = []
    for axis, dimension in enumerate(shape):
        size = size_of(dimension, batch)
        if size is None and axis:
            return None
        found.append(batch if size is None else size)
    return tuple(found)


def are_known(dimensions: Iterable[Any]) -> bool:
    """Whether all these dimensions have a size, and one above zero."""
    return all((size_of(dimension) or 0) > 0 for dimension in dimensions)


def equal_sizes(one: Any, other: Any) -> bool:
    """Whether two dimensions are one size on all frames; unknown ones are never."""
    if isinstance(one, FreeSize) and isinstance(other, FreeSize):
        return (one.sizes, one.per_frame) == (other.sizes, other.per_frame)
    for free, fixed in ((one, other), (other, one)):
        if isinstance(free, FreeSize):
            return not free.per_frame and set(free.sizes) == {fixed}
    return one == other and one not in (None, "")


def equal_shapes(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether shapes (or parts of them) have as many axes, of one size each on all frames."""
    first, second = list(one), list(other)
    return len(first) == len(second) and all(map(equal_sizes, first, second))


def same_for_any_size(one: Iterable[Any] | None, other: Iterable[Any] | None) -> bool:
    """Whether two shapes are one by what the model says alone: by number, or by name."""
    if one is None or other is None:
        return False
    first, second = list(one), list(other)
    # Two unknown sizes need not be the same one.
    return first == second and not any(size in (None, "") for size in first)


def ratio_of(one: Any, other: Any) -> int | None:
    """How many times the other the one is, on all frames; None where it is no whole multiple."""
    pairs = _pairs(one, other)
    ratios = {a / b for a, b in pairs if a > 0 and b > 0}
    ratio = ratios.pop() if len(ratios) == 1 and len(pairs) > 0 else 0.0
    return int(ratio) if ratio >= 1 and ratio == int(ratio) else None


def shown(shape: Iterable[Any]) -> str:
    """'[N, 3, 320, 320]': a shape as people read it, free sizes as they were on the frames."""
    return f"[{', '.join(map(_shown, shape))}]"


def _shown(dimension: Any) -> str:
    if isinstance(dimension, FreeSize) and not (dimension.per_frame and dimension):
        return str(dimension.sizes[0])
    return "?" if dimension in (None, "") else str(dimension)


def _pairs(one: Any, other: Any) -> list[tuple[int, int]]:
    """The sizes of both on frames of each size; none where they cannot be told."""
    first, second = (d.sizes if isinstance(d, FreeSize) else (size_of(d),) for d in (one, other))
    length = max(len(first), len(second))
    pairs = list(zip(first * (length // len(first)), second * (length // len(second))))
    return [(a, b) for a, b in pairs if a is not None and b is not None]
