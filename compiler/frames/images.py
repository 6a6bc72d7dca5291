"""Images as frames: decoded or taken from arrays, resized and coloured when asked for."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .array_files import Array
from .preprocessing import COLOURS, Preprocessing
from .sets import Rows

# The grey that letterboxed detectors (the YOLO family) were trained with.
_LETTERBOX_GREY = 114
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_CHUNK_NBYTES = 1 << 24


@dataclass(frozen=True)
class ImageSource:
    """A source whose rows are images put through a resolved preprocessing when asked for."""

    images: ImageFolder | ImageArray
    preprocessing: Preprocessing
    dtype: np.dtype[Any]

    @property
    def description(self) -> str:
        """Where the images come from, and what is done to them."""
        recipe = self.preprocessing
        size = "x".join(map(str, recipe.size)) if recipe.size else "their own size"
        return f"{self.images.where} as {recipe.colour} {recipe.layout}, {size}"

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: Rows) -> Array:
        """Rows [n, ...] as the model's input takes them. Raises DataError for a damaged image."""
        return self.preprocessing.apply(self.images.pixels(indices, self.preprocessing), self.dtype)

    @cached_property
    def digest(self) -> str:
        """sha256 of the images' content, the preprocessing and the dtype."""
        state = hashlib.sha256(f"images {self.preprocessing!r} {self.dtype}".encode())
        for chunk in self.images.content():
            state.update(chunk)
        return state.hexdigest()


class ImageFolder:
    """The images of a folder: headers are read now, pixels when asked for.

    Raises DataError for a file that is no image, too large for Pillow's MAX_IMAGE_PIXELS, or 16
    bits deep.
    """

    def __init__(self, where: str, paths: Sequence[Path]) -> None:
        self.where = where
        self.paths = tuple(paths)
        self.sizes: list[tuple[int, int]] = []
        for path in self.paths:
            with _image(path) as image:
                self.sizes.append((image.height, image.width))

    def __len__(self) -> int:
        return len(self.paths)

    def require_one_size(self, model: str, recipe: Preprocessing) -> None:
        """Raise DataError if images differ in size and nothing says what size to make them."""
        if recipe.size is not None:
            return
        for path, size in zip(self.paths, self.sizes, strict=True):
            if size != self.sizes[0]:
                raise DataError(
                    f"the images of {self.where} differ in size: {self.paths[0].name} is "
                    f"{list(self.sizes[0])} (height, width), {path.name} is {list(size)}, "
                    f"and model '{model}' takes any",
                    f"say the size in repsimc.toml: [preprocess.{model}] size = "
                    f"{list(self.sizes[0])}",
                )

    def pixels(self, rows: Rows, recipe: Preprocessing) -> NDArray[np.uint8]:
        """uint8 [n, height, width, channels] in the size and colour order of `recipe`."""
        made: list[NDArray[np.uint8]] = []
        for row in rows:
            path = self.paths[int(row)]
            with _image(path) as image:
                try:
                    made.append(_prepared(image, recipe))
                except Exception as error:  # Pillow's decoders raise almost anything
                    raise _undecodable(path, error) from error
        return np.stack(made)

    def content(self) -> Iterator[bytes]:
        """The bytes of every file, each after its length."""
        for path in self.paths:
            yield path.stat().st_size.to_bytes(8, "little")
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_NBYTES):
                    yield chunk


@dataclass(frozen=True)
class ImageArray:
    """uint8 images in an array: [n, height, width, channels] or [n, height, width]."""

    where: str
    array: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.array)

    def pixels(self, rows: Rows, recipe: Preprocessing) -> NDArray[np.uint8]:
        """uint8 [n, height, width, channels] in the size and colour order of `recipe`."""
        frames = np.asarray(self.array[rows])
        if frames.ndim == 3:
            frames = frames[..., None]
        as_is = recipe.size in (None, frames.shape[1:3])
        if as_is and frames.shape[3] == COLOURS[cast("str", recipe.colour)]:
            return frames[..., ::-1] if recipe.colour == "BGR" else frames
        return np.stack(
            [
                _prepared(Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame), recipe)
                for frame in frames
            ]
        )

    def content(self) -> Iterator[bytes]:
        """Shape, then the pixels in order."""
        yield repr(self.array.shape).encode()
        step = max(1, _CHUNK_NBYTES // max(1, math.prod(self.array.shape[1:])))
        for start in range(0, len(self.array), step):
            yield np.ascontiguousarray(self.array[start : start + step]).tobytes()


def _image(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Between one and two times MAX_IMAGE_PIXELS Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} has more pixels than Pillow's limit of {Image.MAX_IMAGE_PIXELS}",
            "make the image smaller",
        ) from error
    except Exception as error:  # a damaged header raises almost anything
        raise _undecodable(path, error) from error
    if image.mode not in _MODES:
        image.close()
        raise DataError(
            f"{path} has pixels of mode {image.mode}, not 8 bits per channel",
            "convert it to 8 bits, or give the frames as arrays",
        )
    return image


def _prepared(image: Image.Image, recipe: Preprocessing) -> NDArray[np.uint8]:
    """One image as uint8 [height, width, channels] in the recipe's size and colour order."""
    image = image.convert("L" if recipe.colour == "GRAY" else "RGB")
    if recipe.size is not None and (image.height, image.width) != recipe.size:
        image = _resized(image, recipe.size, recipe.resize)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels[..., ::-1] if recipe.colour == "BGR" else pixels


def _resized(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    height, width = size
    bilinear = Image.Resampling.BILINEAR
    if how == "stretch":
        return image.resize((width, height), bilinear)
    ratios = (height / image.height, width / image.width)
    if how == "crop":
        # The middle is cut before resizing: a 1 x 80 000 000 image must not grow first.
        cut = (width / max(ratios), height / max(ratios))
        left, top = (image.width - cut[0]) / 2, (image.height - cut[1]) / 2
        box = (
            max(left, 0),
            max(top, 0),
            min(left + cut[0], image.width),
            min(top + cut[1], image.height),
        )
        return image.resize((width, height), bilinear, box=box)
    inner = (
        max(1, round(image.width * min(ratios))),
        max(1, round(image.height * min(ratios))),
    )
    image = image.resize(inner, bilinear)
    grey = _LETTERBOX_GREY if image.mode == "L" else (_LETTERBOX_GREY,) * 3
    framed = Image.new(image.mode, (width, height), grey)
    framed.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return framed


def _undecodable(path: Path, error: Exception) -> DataError:
    if path.stat().st_size == 0:
        return DataError(f"{path} is empty (0 bytes)", "copy or save it again")
    reason = str(error) or type(error).__name__
    return DataError(f"{path} can't be decoded as an image: {reason}", "save it again or remove it")
