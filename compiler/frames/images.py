"""Images as frames: decoded or taken from arrays, resized and coloured when asked for."""

from __future__ import annotations

import hashlib
import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import DataError
from .array_files import Array
from .preprocessing import COLOURS, Preprocessing
from .sets import Rows

# The grey that letterboxed detectors (the YOLO family) were trained with.
_LETTERBOX_GREY = 114
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_CHUNK_NBYTES = 1 << 24
_ORIENTATION = 0x0112


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
        multiple = f", multiples of {recipe.multiple}" if recipe.multiple else ""
        return f"{self.images.where} as {recipe.colour} {recipe.layout}, {size}{multiple}"

    def __len__(self) -> int:
        return len(self.images)

    def each_shape(self) -> list[tuple[int, ...]]:
        """The shape of every row, as the model's input takes it."""
        recipe = self.preprocessing
        channels = COLOURS[cast("str", recipe.colour)]
        sizes = [recipe.size_of(*size) for size in self.images.sizes]
        return [
            (channels, *size) if recipe.layout == "NCHW" else (*size, channels) for size in sizes
        ]

    @cached_property
    def kinds(self) -> Rows | None:
        """Which rows are of one size, by a number per row; None where all are."""
        shapes = self.each_shape()
        numbers = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        if len(numbers) <= 1:
            return None
        return np.array([numbers[shape] for shape in shapes], np.int64)

    def rows(self, indices: Rows) -> Array:
        """Rows [n, ...] of one size as the model's input takes them.

        Raises DataError for a damaged image.
        """
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

    `sizes` are height and width of each as it is to be seen, upright by its EXIF orientation.
    Raises DataError for a file that is no image, too large for Pillow's MAX_IMAGE_PIXELS, or 16
    bits deep.
    """

    def __init__(self, where: str, paths: Sequence[Path]) -> None:
        self.where = where
        self.paths = tuple(paths)
        self.sizes: list[tuple[int, int]] = []
        for path in self.paths:
            with _image(path) as image:
                height, width = image.height, image.width
                if _lies_on_its_side(image):
                    height, width = width, height
                self.sizes.append((height, width))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """What to call an image in a message."""
        return str(self.paths[row])

    def pixels(self, rows: Rows, recipe: Preprocessing) -> NDArray[np.uint8]:
        """uint8 [n, height, width, channels] in the size and colour order of `recipe`."""
        made: list[NDArray[np.uint8]] = []
        for row in rows:
            path = self.paths[int(row)]
            with _image(path) as image:
                try:
                    upright = ImageOps.exif_transpose(image)
                    size = upright.height, upright.width
                    made.append(_prepared(upright, recipe))
                except Exception as error:  # Pillow's decoders raise almost anything
                    raise _undecodable(path, error) from error
            if size != self.sizes[int(row)]:
                # A PNG may say how it is to be turned behind its pixels, where no header is read.
                raise DataError(
                    f"{path} is turned by an orientation that stands behind its pixels",
                    "save it upright",
                )
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
    """uint8 images in arrays: [n, height, width, channels] or [n, height, width] each."""

    where: str
    arrays: tuple[NDArray[np.uint8], ...]

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every image."""
        return [
            (array.shape[1], array.shape[2]) for array in self.arrays for _ in range(len(array))
        ]

    def name(self, row: int) -> str:
        """What to call an image in a message."""
        return f"image {row} (counted from 0) of {self.where}"

    def pixels(self, rows: Rows, recipe: Preprocessing) -> NDArray[np.uint8]:
        """uint8 [n, height, width, channels] in the size and colour order of `recipe`."""
        if len(self.arrays) == 1:
            return _array_pixels(self.arrays[0][rows], recipe)
        made: list[NDArray[np.uint8]] = []
        ends = list(accumulate(map(len, self.arrays)))
        for row in map(int, rows):
            piece = bisect_right(ends, row)
            at = row - ends[piece] + len(self.arrays[piece])
            made.append(_array_pixels(self.arrays[piece][at : at + 1], recipe))
        return np.concatenate(made)

    def content(self) -> Iterator[bytes]:
        """Shape, then the pixels in order."""
        for array in self.arrays:
            yield repr(array.shape).encode()
            step = max(1, _CHUNK_NBYTES // max(1, math.prod(array.shape[1:])))
            for start in range(0, len(array), step):
                yield np.ascontiguousarray(array[start : start + step]).tobytes()


def _array_pixels(frames: NDArray[np.uint8], recipe: Preprocessing) -> NDArray[np.uint8]:
    frames = np.asarray(frames)
    if frames.ndim == 3:
        frames = frames[..., None]
    as_is = recipe.size_of(*frames.shape[1:3]) == frames.shape[1:3]
    if as_is and frames.shape[3] == COLOURS[cast("str", recipe.colour)]:
        return frames[..., ::-1] if recipe.colour == "BGR" else frames
    return np.stack(
        [
            _prepared(Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame), recipe)
            for frame in frames
        ]
    )


def _lies_on_its_side(image: Image.Image) -> bool:
    """Whether EXIF says that height and width are the other way round; decodes no pixels."""
    # Not image.getexif(): of a PNG that would load the whole image.
    orientation = Image.Image.getexif(image).get(_ORIENTATION)
    return orientation in (5, 6, 7, 8)


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
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # what Pillow else warns of, on standard error
    image = image.convert("L" if recipe.colour == "GRAY" else "RGB")
    size = recipe.size_of(image.height, image.width)
    if (image.height, image.width) != size:
        image = _resized(image, size, recipe.resize)
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
