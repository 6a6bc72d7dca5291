"""What turns an image into a model's input: size, colour order, layout, scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UsageError
from .array_files import Array
from .sets import InputSpec

_LAYOUTS = ("NCHW", "NHWC")
COLOURS = {"RGB": 3, "BGR": 3, "GRAY": 1}
_RESIZES = ("stretch", "crop", "letterbox")


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into a model's input: (pixel * scale - mean) / std, pixels 0..255.

    `size` is (height, width); `layout` 'NCHW' or 'NHWC'; `colour` the order the model expects,
    'RGB', 'BGR' or 'GRAY' (images and uint8 arrays are RGB or grey themselves). Where these three
    are None the model's input shape decides, RGB before BGR. `scale` is never guessed: it has to
    be given unless the input takes uint8. `mean` and `std` have one value, or one per channel in
    the order of `colour`. `resize` says what happens to another aspect ratio: 'stretch', 'crop'
    (cover the size, cut the middle) or 'letterbox' (fit inside, centred on grey 114); the
    filter is bilinear. With `multiple` each image keeps its own size, brought to the nearest
    multiples of it as `resize` says. Images of a folder are first turned upright, as their EXIF
    orientation says. `array` names the uint8 images [n, height, width, channels] (or [n, height,
    width]) in an .npz. Raises UsageError.
    """

    size: tuple[int, int] | None = None
    layout: str | None = None
    colour: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = "stretch"
    array: str | None = None
    multiple: int | None = None

    def __post_init__(self) -> None:
        # The fields come from TOML too: lists become tuples, a single number one of length 1.
        if self.size is not None:
            size = _numbers("size", self.size)
            if len(size) != 2 or any(extent < 1 or extent != int(extent) for extent in size):
                raise _wrong("size", self.size, "[height, width] in pixels, such as [224, 224]")
            object.__setattr__(self, "size", (int(size[0]), int(size[1])))
        for name, allowed in (
            ("layout", (*_LAYOUTS, None)),
            ("colour", (*COLOURS, None)),
            ("resize", _RESIZES),
        ):
            given = getattr(self, name)
            if given not in allowed:
                raise _wrong(name, given, " or ".join(f'"{word}"' for word in allowed if word))
        if self.scale is not None:
            scale = _numbers("scale", self.scale)
            if len(scale) != 1 or scale[0] == 0:
                raise _wrong("scale", self.scale, "what a pixel is multiplied by, such as 1.0")
            object.__setattr__(self, "scale", scale[0])
        for name in ("mean", "std"):
            given = _numbers(name, getattr(self, name))
            if len(given) not in (1, 3) or (name == "std" and 0 in given):
                raise _wrong(name, getattr(self, name), "one number, or three (one per channel)")
            object.__setattr__(self, name, given)
        multiple = cast("object", self.multiple)
        if multiple is not None:
            if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
                raise _wrong("multiple", multiple, "a whole number of pixels, such as 32")
            if self.size is not None:
                raise UsageError(
                    "preprocessing: size and multiple both say how large an image becomes",
                    "leave one of them out",
                )
        if self.array is not None and not isinstance(cast("object", self.array), str):
            raise _wrong("array", self.array, "the name of an array in the .npz")

    def resolved(self, model: str, spec: InputSpec, where: str) -> Preprocessing:
        """The same with size, layout and colour filled in from the input's shape.

        `size` stays None where the input takes any. Raises DataError, naming the table to write,
        when something is missing, ambiguous or contradicts the input.
        """
        place = f"input '{spec.name}' of model '{model}' ({spec})"
        if len(spec.shape) != 4:
            raise DataError(
                f"{where} holds images, but {place} has no [N, C, H, W] shape",
                "give frames as arrays: a .npz keyed by input name",
            )
        layout = self.layout or _layout_of(spec)
        if layout is None:
            raise DataError(
                f"{where} holds images, and the shape of {place} does not say which axis is colour",
                ask_for(model, spec, self.array),
            )
        channels, *extents = (spec.shape[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
        colour = self.colour or ("GRAY" if channels == 1 else "RGB")
        if isinstance(channels, int) and channels != COLOURS[colour]:
            raise DataError(
                f"{place} has {channels} channels in layout {layout}, "
                f"and {colour} images have {COLOURS[colour]}",
                f"correct layout or colour in [preprocess.{model}]",
            )
        size = self.size
        if size is None and all(isinstance(e, int) and e > 0 for e in extents):
            size = (cast("int", extents[0]), cast("int", extents[1]))
        if size is not None:
            for extent, wanted in zip(size, extents, strict=True):
                if isinstance(wanted, int) and 0 < wanted != extent:
                    raise DataError(
                        f"preprocessing makes images of height and width {list(size)}, "
                        f"but {place} takes {list(extents)}",
                        f"correct size in [preprocess.{model}], or leave it out",
                    )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, COLOURS[colour]):
                raise DataError(
                    f"{name} has {len(values)} values, and {place} takes 1 channel ({colour})",
                    f"correct {name} in [preprocess.{model}]",
                )
        scale = self.scale
        plain = set(self.mean) == {0.0} and set(self.std) == {1.0}
        if spec.dtype == np.uint8:
            if not plain or scale not in (None, 1.0):
                raise DataError(
                    f"{place} takes pixels 0..255 as they are, so scale, mean and std can't apply",
                    f"leave scale, mean and std out of [preprocess.{model}]",
                )
            scale = 1.0
        elif not np.issubdtype(spec.dtype, np.floating):
            raise DataError(
                f"{where} holds images, but {place} takes {spec.dtype}", "give frames as arrays"
            )
        if scale is None:
            raise DataError(
                f"{where} holds images, and what turns a pixel (0..255) into {place} is not known",
                f"nothing is guessed; {ask_for(model, spec, self.array)}",
            )
        multiple = None if size is not None else self.multiple
        return replace(
            self,
            size=size,
            layout=layout,
            colour=colour,
            scale=scale,
            array=None,
            multiple=multiple,
        )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of this size becomes."""
        if self.size is not None:
            return self.size
        if self.multiple is None:
            return height, width
        unit = self.multiple
        return max(round(height / unit), 1) * unit, max(round(width / unit), 1) * unit

    def apply(self, pixels: NDArray[np.uint8], dtype: np.dtype[Any]) -> Array:
        """Model input from uint8 [n, height, width, channels] already in colour order.

        Only on a resolved preprocessing. Arithmetic is float32, float64 for a float64 input.
        """
        if dtype != np.uint8:
            wide = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
            assert self.scale is not None
            scaled = pixels.astype(wide) * wide.type(self.scale)
            scaled -= np.asarray(self.mean, dtype=wide)
            scaled /= np.asarray(self.std, dtype=wide)
            pixels = scaled.astype(dtype, copy=False)
        return np.ascontiguousarray(
            pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels
        )


def ask_for(model: str, spec: InputSpec, array: str | None = None) -> str:
    """A hint with the TOML table that a user can complete for this input."""
    layout = _layout_of(spec)
    channels, *extents = spec.shape[1:] if layout != "NHWC" else (spec.shape[3], *spec.shape[1:3])
    fixed = layout is not None and all(isinstance(extent, int) for extent in extents)
    gray = layout is not None and channels == 1
    per_channel = 1 if gray else 3
    lines = [(f'array = "{array}"', "the uint8 images")] if array is not None else []
    lines += [
        (f"size = {extents if fixed else [224, 224]}", "height, width"),
        (f'layout = "{layout or "NCHW"}"', "" if layout else 'or "NHWC"'),
        (f'colour = "{"GRAY" if gray else "RGB"}"', "" if gray else 'or "BGR"'),
        ("scale = 0.00392156862745098", "1/255 for pixels 0..1, 1.0 for 0..255"),
        (f"mean = {[0.0] * per_channel}", "as in training: (pixel * scale - mean) / std"),
        (f"std = {[1.0] * per_channel}", ""),
    ]
    width = max(len(line) for line, _ in lines)
    rows = [f"{line:<{width}}  # {note}" if note else line for line, note in lines]
    # A dot in a bare TOML key would open a table inside the table.
    key = f'"{model}"' if "." in model else model
    return "\n    ".join(["write in repsimc.toml:", f"[preprocess.{key}]", *rows])


def _layout_of(spec: InputSpec) -> str | None:
    if len(spec.shape) != 4:
        return None
    first, last = spec.shape[1] in (1, 3), spec.shape[3] in (1, 3)
    return None if first == last else "NCHW" if first else "NHWC"


def _numbers(name: str, given: object) -> tuple[float, ...]:
    several = isinstance(given, list | tuple)
    values = list(cast("Sequence[object]", given)) if several else [given]
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values) or not all(
        math.isfinite(v) for v in cast("list[float]", values)
    ):
        raise _wrong(name, given, "finite numbers")
    return tuple(float(v) for v in cast("list[float]", values))


def _wrong(name: str, given: object, wanted: str) -> UsageError:
    return UsageError(f"preprocessing: {name} = {given!r} can't be used", f"give {wanted}")
