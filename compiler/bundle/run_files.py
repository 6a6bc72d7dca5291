"""Runs a bundle on frames in files: what `repsimc run` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.array_archive import write_arrays
from ...runtime.manifest import Manifest, TensorSpec
from ...runtime.placing import replacing_file
from ...runtime.session import load
from ..errors import DataError, UsageError
from ..frames.array_files import Allowance, read_npy, read_npz
from ..graph.arrays import Array

Outputs = dict[str, dict[str, Array]]


def run_files(
    bundle: Path, inputs: Sequence[str], models: Sequence[str] | None, threads: int | None
) -> Outputs:
    """`{model: {output: array}}` of all models, or of `models`, on one frame from files.

    `inputs` are '[NAME=]FILE' with a .npy, or a .npz keyed by input name; NAME is an input or a
    model. A frame without the batch axis gets one. Raises DataError, UsageError, ModelError.
    """
    opened = load(bundle)
    names = {entry.name for entry in opened.manifest.models}
    specs = {s.name: s for entry in opened.manifest.models for s in entry.inputs}
    feeds: dict[str, Any] = {}
    alone: Array | None = None
    for text in inputs:
        name, equals, file = text.partition("=")
        if not equals or (name not in names and name not in specs and Path(text).exists()):
            name, file = "", text
        given = _read(Path(file))
        if isinstance(given, Mapping):
            feed = {key: _framed(array, specs.get(key)) for key, array in given.items()}
            clash = feeds.keys() & ({name} if name else feed.keys())
            feeds |= {name: feed} if name else feed
        elif name:
            clash = feeds.keys() & {name}
            feeds[name] = _framed(given, specs.get(name) or _only_input(opened.manifest, name))
        elif alone is None and len(inputs) == 1:
            spec = _only_input(opened.manifest, models[0] if models else None)
            alone, clash = _framed(given, spec), set[str]()
        else:
            raise UsageError(
                f"--input {file} does not say which input it is", f"--input NAME={file}"
            )
        if clash:
            raise UsageError(f"input '{min(clash)}' is given twice", "leave one out")
    with opened.session(threads=threads) as session:
        return session.run(feeds if alone is None else alone, models or None)


def write_outputs(path: Path, outputs: Mapping[str, Mapping[str, Array]]) -> None:
    """Write all outputs to an .npz, keyed 'model/output', whole or not at all.

    Raises DataError for text outputs, UsageError if the disk is full.
    """
    for model, named in outputs.items():
        for name, array in named.items():
            if array.dtype.hasobject:
                raise DataError(
                    f"output '{name}' of model '{model}' is text, which an .npz can't hold safely",
                    "leave -o out: the values are printed with --format json",
                )
    every = {f"{model}/{name}": a for model, named in outputs.items() for name, a in named.items()}
    with replacing_file(path) as partial:
        write_arrays(partial, every)


def _read(path: Path) -> Array | dict[str, Array]:
    allowance = Allowance()
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path, allowance).array
    if suffix == ".npz":
        return {key: stored.array for key, stored in read_npz(path, allowance).items()}
    raise DataError(f"{path} is no frame", "give a .npy, or a .npz keyed by input name")


def _only_input(manifest: Manifest, model: str | None) -> TensorSpec | None:
    entries = [e for e in manifest.models if model is None or e.name == model]
    return entries[0].inputs[0] if entries and entries[0].inputs else None


def _framed(array: Array, spec: TensorSpec | None) -> Array:
    short = spec is not None and spec.shape is not None and array.ndim + 1 == len(spec.shape)
    return array[None] if short else array
