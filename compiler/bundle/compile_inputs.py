"""What a compilation is made from: the files that it reads, and one digest of all that decides it.

Nothing heavy is imported here: whether there is anything to do is known before ONNX is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from ... import __version__
from ...runtime.files import file_entry
from ...runtime.originals import SEEN_SUFFIX, seen_folder, weight_files
from ..errors import DataError, ModelError
from ..execution.content_cache import ContentCache
from ..frames.sets import frame_files
from ..options import CompileOptions, Settings

# Raised whenever the same inputs and options give another bundle and the version does not say so.
FORMAT = 1
# What a compilation computes with, beside repsimc itself.
LIBRARIES = ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "scipy", "pillow", "networkx")
# Settings that decide nothing of what a bundle holds; all others are part of the digest. A plan
# counts by what it holds.
NOT_DECIDING = frozenset(
    {"output", "dry_run", "overwrite", "allow_script", "plan", "resume", "parse_memory"}
    | {"parse_seconds"}
)
_SCRIPT = ".py"
_MAX_MODEL_NBYTES = 2**31  # of a protobuf message
_SEEN_NBYTES = 1 << 20  # of the places of models together


@dataclass(frozen=True)
class CompileInputs:
    """The files of a compilation as users wrote them, and the digest of what decides it.

    `files` are models, their external data, the plan, the file of options and every file of
    frames; `folders` those that were searched for frames. `digest` is '' where nobody can tell
    whether anything changed: a file is missing or no model, or frames come from a script, which
    may read anything. `models` are the model files by their sha256, as a manifest has it.
    """

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    digest: str
    models: Mapping[str, Path]


def inputs_of(
    options: CompileOptions, plan: Mapping[str, Any] | None = None, config: Path | None = None
) -> CompileInputs:
    """What a compilation with these options is made from; every file of it is read once.

    `plan` is the JSON of a plan that is given as a value, `config` the file of options: its values
    are among `options` and count, what it says besides does not. Raises nothing for a file that is
    missing or wrong: the compilation says so.
    """
    found = _Found()
    for name, path in options.models:
        found.model(name, path)
    if options.plan is not None:
        found.file("plan", options.plan)
    elif plan is not None:
        found.told["plan"] = json.dumps(plan, sort_keys=True)
    if config is not None:
        found.files.append(config)
    found.frames("", options.calibration)
    found.told |= {
        "format": FORMAT,
        "versions": _versions(),
        "settings": {
            one.name: _plain(getattr(options, one.name))
            for one in fields(Settings)
            if one.name not in NOT_DECIDING
        },
        "preprocessing": _plain(options.preprocessing),
    }
    text = json.dumps(found.told, sort_keys=True)
    return CompileInputs(
        tuple(dict.fromkeys(found.files)),
        tuple(dict.fromkeys(found.folders)),
        hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() if found.known else "",
        found.models,
    )


def remember_models(inputs: CompileInputs) -> None:
    """Keep in the user's cache where models of that content lie, for `find_original`.

    A cache that cannot be written is as good as none.
    """
    places = ContentCache(seen_folder(), SEEN_SUFFIX, _SEEN_NBYTES)
    for sha256, path in inputs.models.items():
        place = os.fsencode(path.resolve())

        def write(file: IO[bytes], place: bytes = place) -> None:
            file.write(place)

        try:
            places.write(sha256, write)
        except OSError:
            return


class _Found:
    """What was found so far; `known` is False once something can't be told."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.folders: list[Path] = []
        self.models: dict[str, Path] = {}
        self.told: dict[str, Any] = {"models": []}
        self.known = True

    def model(self, name: str, path: Path) -> None:
        self.files.append(path)
        try:
            # A pipe may never begin, and what protobuf cannot read is refused later.
            if not path.is_file() or path.stat().st_size > _MAX_MODEL_NBYTES:
                self.known = False
                return
            weights = weight_files(path)
            sha256 = file_entry(path, *weights).sha256
        except (ModelError, OSError, ValueError):
            self.known = False
            return
        self.files += weights
        self.models[sha256] = path
        self.told["models"].append([name, path.name, sha256])

    def file(self, key: str, path: Path) -> None:
        """A file that counts by what it holds."""
        self.files.append(path)
        try:
            if path.is_file():
                self.told[key] = file_entry(path).sha256
                return
        except OSError:
            pass
        self.known = False

    def frames(self, key: str, given: object) -> None:
        """Frames at a path, in arrays, or a mapping of models or inputs to either."""
        if given is None:
            return
        if isinstance(given, Mapping):
            for name, one in cast("Mapping[str, object]", given).items():
                self.frames(f"{key}/{name}", one)
        elif isinstance(given, Path):
            self._frames_at(key, given)
        else:
            self._arrays(key, given)

    def _frames_at(self, key: str, path: Path) -> None:
        try:
            files = frame_files(path)
        except (DataError, OSError):
            self.files.append(path)
            self.known = False
            return
        if path.suffix.lower() == _SCRIPT and not path.is_dir():
            self.known = False
        if path.is_dir():
            self.folders += [path, *(file.parent for file in files)]
            self.told[f"frames{key}"] = "folder"
        for file in files:
            within = file.relative_to(path).as_posix() if file != path else file.suffix
            self.file(f"frames{key}: {within}", file)

    def _arrays(self, key: str, given: object) -> None:
        several = isinstance(given, Sequence)
        pieces = cast("Sequence[object]", given) if several else [given]
        for number, piece in enumerate(pieces):
            array = np.asarray(piece)
            if array.dtype.hasobject:
                self.known = False
                return
            sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            self.told[f"frames{key}: {number}"] = [array.dtype.str, list(array.shape), sha256]


def _plain(value: object) -> object:
    """A value of an option as text that is equal where the value is; mappings in order of key."""
    if isinstance(value, Mapping):
        table = cast("Mapping[str, object]", value)
        return {key: _plain(table[key]) for key in sorted(table)}
    return repr(value)


def _versions() -> dict[str, str]:
    found = {"repsimc": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found
