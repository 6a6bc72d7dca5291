"""The zoo: real models and real images to measure on, kept outside of the project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VARIABLE = "REPSIMC_ZOO"
DEFAULT = Path(__file__).parents[2] / "shared" / "zoo"

Images = NDArray[np.uint8]
Frames = NDArray[np.float32]
Labels = dict[str, NDArray[np.uint8]]

_CIFAR_MEAN, _CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ZooMissingError(Exception):
    """There is no zoo where it was looked for."""


@dataclass(frozen=True)
class Zoo:
    """The zoo in the folder `root`: models/ and data/."""

    root: Path

    def model(self, name: str) -> Path:
        """The file of a model. Raises ZooMissingError."""
        return self._file(f"models/{name}.onnx")

    def frames(self, family: str, part: str, limit: int | None = None) -> Frames:
        """Preprocessed frames [N, C, H, W] of 'cifar10' or 'fashion'; the first `limit`.

        `part` is 'calib2000' (to compile with) or 'dev4000' (to judge by, never to fit on).
        """
        images = self.images(family, part)[:limit]
        scaled = images.astype(np.float32) / 255
        if family == "fashion":
            return ((scaled - np.float32(0.2860)) / np.float32(0.3530))[:, None]
        whitened = (scaled - np.float32(_CIFAR_MEAN)) / np.float32(_CIFAR_STD)
        return np.ascontiguousarray(whitened.transpose(0, 3, 1, 2))

    def images(self, family: str, part: str) -> Images:
        """The raw images: [N, 32, 32, 3] of 'cifar10', [N, 28, 28] of 'fashion'."""
        with np.load(self._file(f"data/{family}_{part}.npz"), allow_pickle=False) as data:
            return data["images"]

    def labels(self, family: str, part: str, limit: int | None = None) -> Labels:
        """Class indices [N] by task."""
        with np.load(self._file(f"data/{family}_{part}.npz"), allow_pickle=False) as data:
            return {task: data[task][:limit] for task in data.files if task != "images"}

    def mosaics(self, part: str, count: int, seed: int) -> Frames:
        """`count` frames [N, 3, 240, 320] tiled from CIFAR images, as (RGB - 127) / 128.

        Tiles are 40 or 80 pixels wide, so that frames have structure at more than one scale.
        There are no faces in them.
        """
        return np.stack(list(_mosaics(self.images("cifar10", part), count, seed)))

    def _file(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise ZooMissingError(f"zoo not found: {path} is missing; set {VARIABLE} to its folder")
        return path


def find_zoo() -> Zoo:
    """The zoo that REPSIMC_ZOO names, else the one beside the repository.

    Raises ZooMissingError.
    """
    root = Path(os.environ.get(VARIABLE) or DEFAULT)
    if not (root / "models").is_dir() or not (root / "data").is_dir():
        raise ZooMissingError(
            f"zoo not found: {root} has no models/ and data/; set {VARIABLE} to the zoo's folder"
        )
    return Zoo(root)


def _mosaics(images: Images, count: int, seed: int) -> Iterator[Frames]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        side = int(random.choice([40, 80]))
        rows, columns = 240 // side, 320 // side
        picked = images[random.choice(len(images), rows * columns, replace=False)]
        tiles = np.stack([_resized(image, side) for image in picked])
        grid = tiles.reshape(rows, columns, side, side, 3).transpose(4, 0, 2, 1, 3)
        yield (grid.reshape(3, 240, 320).astype(np.float32) - 127) / 128


def _resized(image: Images, side: int) -> Images:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
