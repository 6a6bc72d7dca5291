"""What models take and what a set of frames holds: arrays by key, from files, folders, scripts."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .array_files import Allowance, StoredArray, read_npy, read_npz, unreadable

InputRef = tuple[str, str]  # (model, the input's own name)
Rows = NDArray[np.int64]

NAMELESS = ""  # the key of an array that has no name: a .npy file, one plain array
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
_ARRAY_SUFFIXES = frozenset({".npz", ".npy"})
_ACCEPTED = (
    "give a .npz keyed by input name, a .npy, a folder of them, a folder of images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))}) or a load_data() script"
)


@dataclass(frozen=True)
class InputSpec:
    """What one input of a model takes: its own name, dtype and shape.

    A dimension is an int where fixed, a str where symbolic, None where unknown. `frame_axis`
    counts frames; None where a run takes one array whatever the frames: a scalar, a constant. A
    `state` is what an output of the same model carries on to its next step.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    frame_axis: int | None = 0
    state: bool = False

    def __post_init__(self) -> None:
        if not self.shape:
            object.__setattr__(self, "frame_axis", None)

    @property
    def batch(self) -> int | None:
        """The fixed number of rows a run takes, None when free."""
        if self.frame_axis is None or not self.shape:
            return None
        size = self.shape[self.frame_axis]
        return size if isinstance(size, int) and size > 0 else None

    @property
    def frame(self) -> tuple[int | str | None, ...]:
        """The shape of one frame: that of the input without its axis of frames."""
        axis = self.frame_axis
        return self.shape if axis is None else self.shape[:axis] + self.shape[axis + 1 :]

    def __str__(self) -> str:
        return described(self.dtype, self.shape)


@dataclass(frozen=True)
class Table:
    """Arrays by key, each in one or several pieces whose rows follow one another.

    `missing` gives, for a key that not every file of a folder holds, a file without it.
    """

    where: str
    columns: Mapping[str, tuple[StoredArray, ...]]
    missing: Mapping[str, str] = field(default_factory=dict[str, str])

    def listing(self) -> str:
        """What the table holds, for messages: "'x' float32 [100, 3, 32, 32], ..."."""
        shown = [
            f"'{key}' {described(pieces[0].dtype, pieces[0].shape)}".removeprefix("'' ")
            for key, pieces in list(self.columns.items())[:8]
        ]
        more = len(self.columns) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder, in order of their path."""

    where: str
    paths: tuple[Path, ...]


def described(dtype: np.dtype[Any], shape: Iterable[int | str | None]) -> str:
    """'float32 [N, 3, 32, 32]'."""
    return f"{dtype} [{', '.join('?' if extent is None else str(extent) for extent in shape)}]"


def read_set(
    path: Path, allowance: Allowance, *, allow_script: bool = False, limit: int | None = None
) -> Table | ImageFiles:
    """The frames at `path`: arrays (headers read only) or the images of a folder.

    A script is asked for at most `limit` items (of one or more frames each). Raises DataError for
    a path that is missing, empty or of an unknown kind, and for a script that was not allowed.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DataError(
            f"there are no frames at {path}: no such file or folder", _ACCEPTED
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        return _read_folder(path, allowance)
    suffix = path.suffix.lower()
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is neither a file nor a folder", _ACCEPTED)
    if suffix == ".npz":
        return Table(str(path), {k: (array,) for k, array in read_npz(path, allowance).items()})
    if suffix == ".npy":
        return Table(str(path), {NAMELESS: (read_npy(path, allowance),)})
    if suffix == ".py":
        if not allow_script:
            raise DataError(
                f"{path} is a script, and reading frames from it runs its code",
                "if you trust it, say --allow-script (from Python: allow_script=True)",
            )
        return _run_script(path, allowance, limit)
    if suffix in IMAGE_SUFFIXES:
        raise DataError(f"{path} is a single image", "give the folder that holds the images")
    raise DataError(f"{path} is of no kind that holds frames", _ACCEPTED)


def frame_files(path: Path) -> list[Path]:
    """The files that `read_set` reads frames from at `path`, in its order.

    What a script reads besides itself is unknown. Raises DataError where a folder cannot be read.
    """
    if not path.is_dir():
        return [path]
    suffixes = IMAGE_SUFFIXES | _ARRAY_SUFFIXES
    return [file for file in _files_under(path) if file.suffix.lower() in suffixes]


def _read_folder(folder: Path, allowance: Allowance) -> Table | ImageFiles:
    files = _files_under(folder)
    arrays = [path for path in files if path.suffix.lower() in _ARRAY_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and images:
        raise DataError(
            f"{folder} holds both images ({images[0].name}) and arrays ({arrays[0].name})",
            "keep one kind of frames in a folder",
        )
    if images:
        return ImageFiles(str(folder), tuple(images))
    if not arrays:
        held = f"only {files[0].name} and the like" if files else "nothing"
        raise DataError(f"{folder} holds no frames ({held})", _ACCEPTED)
    kinds = {path.suffix.lower(): path for path in arrays}
    if len(kinds) > 1:
        raise DataError(
            f"{folder} holds both .npz ({kinds['.npz'].name}) and .npy ({kinds['.npy'].name})",
            "keep one kind of frames in a folder",
        )
    columns: dict[str, list[StoredArray]] = {}
    missing: dict[str, str] = {}
    for index, path in enumerate(arrays):
        if ".npy" in kinds:
            found = {NAMELESS: read_npy(path, allowance)}
        else:
            found = read_npz(path, allowance)
        for key in found.keys() - columns.keys():
            if index:
                missing[key] = str(arrays[0])
        for key in columns.keys() - found.keys():
            missing.setdefault(key, str(path))
        for key, array in found.items():
            columns.setdefault(key, []).append(array)
    return Table(str(folder), {key: tuple(column) for key, column in columns.items()}, missing)


def _files_under(folder: Path) -> list[Path]:
    """Regular files under `folder`, by relative path; hidden ones are skipped.

    Linked folders are entered once each, so that a loop of links ends.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            place = current.stat()
            entries = sorted(entry for entry in current.iterdir() if entry.name[:1] != ".")
        except OSError as error:
            raise unreadable(current, error) from error
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        for entry in entries:
            frames = entry.suffix.lower() in IMAGE_SUFFIXES | _ARRAY_SUFFIXES
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                if not frames:
                    continue
                raise unreadable(entry, error) from error
            if stat.S_ISDIR(mode):
                waiting.append(entry)
            elif stat.S_ISREG(mode):
                found.append(entry)
            elif frames:
                raise DataError(f"{entry} is not a regular file", "remove it from the folder")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _run_script(path: Path, allowance: Allowance, limit: int | None) -> Table:
    columns: dict[str, list[StoredArray]] = {}
    batches = _batches(path)
    count = 0
    while limit is None or count < limit:
        with _blamed(path), _beside(path):
            batch: object = next(batches, None)
        if batch is None:
            break
        where = f"item {count} of load_data() in {path}"
        if not isinstance(batch, Mapping) or not batch:
            kind = "an empty dict" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise DataError(
                f"{where} is {kind}, not a dict of input name to array",
                "yield e.g. {'input': array} for each batch",
            )
        feed = cast("Mapping[object, object]", batch)
        if columns and {str(key) for key in feed} != columns.keys():
            raise DataError(
                f"{where} has the keys {', '.join(sorted(map(str, feed)))}, those before it had "
                f"{', '.join(sorted(columns))}",
                "yield the same input names every time",
            )
        for key, value in feed.items():
            with _blamed(path):
                array = np.asarray(value)
            allowance.take(array.nbytes, where)
            # A script may yield one buffer again and again with new content.
            kept = StoredArray.of(array.copy(), f"array '{key}' in {where}")
            columns.setdefault(str(key), []).append(kept)
        count += 1
    if not columns:
        raise DataError(f"load_data() in {path} yields no frames", "yield {'input': array}")
    return Table(str(path), {key: tuple(column) for key, column in columns.items()})


def _batches(path: Path) -> Any:
    with _blamed(path), _beside(path):
        spec = util.spec_from_file_location(f"_repsimc_frames_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
    load_data = getattr(module, "load_data", None)
    if not callable(load_data):
        raise DataError(
            f"{path} defines no function load_data()",
            "define load_data() that yields dicts of input name to array",
        )
    with _blamed(path), _beside(path):
        return iter(cast("Any", load_data()))


@contextmanager
def _beside(path: Path):
    """A script may import the modules that lie beside it."""
    sys.path.insert(0, os.fspath(path.resolve().parent))
    try:
        yield
    finally:
        sys.path.pop(0)


@contextmanager
def _blamed(path: Path):
    """What a script raises, its sys.exit() included, is the script's fault."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise DataError(
            f"the script {path} failed: {type(error).__name__}: {error}",
            f"try it alone: python -c 'import {path.stem}; next(iter({path.stem}.load_data()))'",
        ) from error
