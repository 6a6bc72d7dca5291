"""The files that a bundle's models were compiled from: found again, and held against its manifest.

A bundle says what its originals are called and what is in them, not where they lie: its bytes are
the same wherever it was compiled. Where models were last seen on this machine is kept outside of
it, in the cache of whoever compiled them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import ModelError
from .files import file_entry, is_utf8
from .manifest import ModelEntry
from .placing import cache_folder
from .wire import external_files

SEEN_SUFFIX = ".path"
_MAX_PATH_NBYTES = 1 << 15


def seen_folder() -> Path:
    """Where the places of models are kept: a file for each, called by its sha256."""
    return cache_folder() / "models"


def find_original(bundle: Path, entry: ModelEntry) -> Path:
    """The file that the model was compiled from, by its content.

    It is looked for where a model of that content was last compiled on this machine, beside the
    bundle, and in the working directory. Raises ModelError where none of these has it.
    """
    found: list[ModelError] = []
    for path in _places(bundle, entry):
        if not is_utf8(path):  # ONNX Runtime could not open it
            continue
        try:
            check_original(path, entry)
            return path
        except ModelError as error:
            if path.is_file():  # it is called so, and is another
                found.append(error)
        except OSError:
            continue
    if found:
        raise found[0]
    name = entry.source.file
    raise ModelError(
        f"the original of model '{entry.name}' ({name}) is not where it was compiled, beside the "
        "bundle or in the working directory",
        "say where it is",
    )


def _places(bundle: Path, entry: ModelEntry) -> Iterator[Path]:
    try:
        with (seen_folder() / f"{entry.source.sha256}{SEEN_SUFFIX}").open("rb") as file:
            seen = Path(os.fsdecode(file.read(_MAX_PATH_NBYTES)))
        if seen.is_absolute():
            yield seen
    except (OSError, ValueError):
        pass
    if entry.source.path:  # of a bundle that was written when bundles said it
        yield bundle / entry.source.path
    name = Path(entry.source.file.replace("\\", "/")).name
    yield (bundle.parent if bundle.name else bundle / "..") / name
    yield Path(name)


def check_original(path: Path, entry: ModelEntry) -> None:
    """Nothing, if this is the file the model was compiled from. Raises ModelError."""
    source = entry.source
    if not path.is_file():
        raise ModelError(
            f"the original of model '{entry.name}' ({source.file}) is not at {path}",
            "say where it is",
        )
    differs = ModelError(
        f"{path} is not the file that model '{entry.name}' was compiled from: its content differs",
        "give that file",
    )
    # Sizes first: a manifest is untrusted and may name a file that has no end.
    if path.stat().st_size > source.nbytes:
        raise differs
    weights = weight_files(path)
    nbytes = path.stat().st_size + sum(weight.stat().st_size for weight in weights)
    if nbytes != source.nbytes or file_entry(path, *weights).sha256 != source.sha256:
        raise differs


def weight_files(path: Path) -> list[Path]:
    """The files that hold weights of a model file, in order of name. Raises ModelError.

    With the model file before them they are what a model's size and sha256 cover.
    """
    named = {path.parent / name for name in external_files(path.read_bytes())}
    weights = sorted(named, key=lambda weight: weight.name)
    for weight in weights:
        if not weight.resolve().is_relative_to(path.parent.resolve()) or not weight.is_file():
            raise ModelError(f"{path} keeps weights in {weight}, which is missing", "put it there")
    return weights
