"""A similarity analysis on disk: JSON, matrices, heatmaps, and copies of the models with notes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from ...runtime.wire import external_files
from ..errors import ModelError
from ..naming import sanitised
from ..output_folders import check_output_folder, clear_earlier, together
from .heatmap import heatmap_page, heatmap_png
from .measures import CATALOG
from .report import LayerReport, Match, SimilarityResult, arrays, number

RESULT = "similarity.json"
PAGE = "index.html"
MODELS = "models"
PREFIX = "repsimc."


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise UsageError where `write_similarity` would refuse to write."""
    check_output_folder(folder, RESULT, overwrite)


def write_similarity(
    result: SimilarityResult,
    folder: Path,
    models: Mapping[str, Path] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write similarity.json, a .npz and PNGs per pair, index.html, and models/NAME.onnx.

    `models` are the files to copy with notes, by name. Returns what was written, which is there
    whole or not at all. Raises UsageError where the folder holds something else, or an analysis
    without `overwrite`, or cannot be written.
    """
    check_folder(folder, overwrite)
    with together(folder, RESULT) as partial:
        written = _written(result, partial, models or {})
        # What an earlier analysis wrote goes when the new one is whole.
        clear_earlier(folder, RESULT)
    return [folder / path.relative_to(partial) for path in written]


def _written(result: SimilarityResult, folder: Path, models: Mapping[str, Path]) -> list[Path]:
    """The files of an analysis, written to an empty folder."""
    written: list[Path] = []
    for index, pair in enumerate(result.pairs):
        # Models given as arrays may be called anything; two names may become one file name.
        stem = f"{sanitised(pair.a)}__{sanitised(pair.b)}"
        if any(path.name == f"{stem}.npz" for path in written):
            stem += f"_{index}"
        written.append(folder / f"{stem}.npz")
        np.savez(written[-1], **cast("Any", arrays(result, pair)))
        for measure in pair.matrices:
            written.append(folder / f"{stem}.{measure}.png")
            written[-1].write_bytes(heatmap_png(result, pair, measure))
    written.append(folder / PAGE)
    written[-1].write_text(heatmap_page(result), encoding="utf-8")
    for name, path in models.items():
        written += _annotated(result, name, path, folder / MODELS)
    # Last: a folder with this file is a whole analysis.
    value = result.to_json()
    value["files"] = [path.relative_to(folder).as_posix() for path in written]
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    written.append(folder / RESULT)
    written[-1].write_text(text + "\n", encoding="utf-8")
    return written


def notes_of(result: SimilarityResult, model: str) -> dict[str, dict[str, str]]:
    """The metadata of each layer, by its name: what Netron shows beside the node."""
    matches = {match.layer: match for match in result.matches if match.model == model}
    return {
        report.layer.name: _notes(report, matches.get(report.layer.name))
        for report in result.models[model]
    }


def _notes(report: LayerReport, match: Match | None) -> dict[str, str]:
    known = report.statistics
    notes = {
        "activation_entropy": _shown(known.entropy),
        "sign_entropy": _shown(known.sign_entropy),
        "intrinsic_dimension": _shown(known.dimension),
    }
    if known.influence_of:
        notes["block_influence"] = f"{_shown(known.influence)} after {known.influence_of}"
    if match is not None and match.like_model:
        like = f"{match.like_model}/{match.like_layer}"
        notes["similarity"] = f"{match.measure} {_shown(match.value)} to {like}"
        notes["similarity_to"] = like
        notes["similarity_null"] = _shown(match.null)
        notes["similarity_spread"] = _shown(match.spread)
        notes["similarity_title"] = CATALOG[match.measure].title
        notes["affine_r2"] = _shown(match.r2)
    return {f"{PREFIX}{name}": text for name, text in notes.items()}


def _shown(value: float) -> str:
    known = number(value)
    return known if isinstance(known, str) else f"{known:.4f}"


def _annotated(result: SimilarityResult, name: str, path: Path, folder: Path) -> Iterator[Path]:
    """Write a copy of a model whose nodes carry notes, and of its external data beside it."""
    content = path.read_bytes()
    proto = onnx.ModelProto()
    proto.ParseFromString(content)
    notes = notes_of(result, name)
    for node in proto.graph.node:
        for output in node.output:
            for key, text in notes.get(output, {}).items():
                # A file that was annotated before keeps its other metadata.
                known = [entry for entry in node.metadata_props if entry.key == key]
                entry = known[0] if known else node.metadata_props.add()
                entry.key, entry.value = key, text
    places = external_files(content)
    # Two models may call their data files alike.
    folder = folder / name if places else folder
    for location in places:
        source, copy = (_inside(base, location, path) for base in (path.parent, folder))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        yield copy
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.onnx"
    target.write_bytes(proto.SerializeToString())
    yield target


def _inside(folder: Path, location: str, model: Path) -> Path:
    """A data file's place. Raises ModelError for one outside of the folder."""
    place = (folder / location).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ModelError(
            f"{model} has external data in '{location}', outside the model's folder",
            "keep data files beside the model",
        )
    return place
