"""What a bundle is made of, as values and tables; a device needs no more than NumPy for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.files import inside
from ...runtime.json_reader import read_json
from ...runtime.json_values import JsonValue
from ...runtime.manifest import Manifest, TensorSpec
from ..errors import ModelError
from ..units import format_bytes, format_sizes
from .report import Report
from .table import Grid, figures, sharing_text, words

SCHEMA = "repsimc.inspection/1"
_REPORT_MAX_NBYTES = 16 * 2**20


@dataclass(frozen=True)
class TensorLine(JsonValue):
    """An input or output as the user named it."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        shape = "[...]" if self.shape is None else shape_text(self.shape)
        return f"{self.name} {self.dtype} {shape}"


def read_report(bundle: Path, manifest: Manifest) -> Report:
    """The report of a bundle. Raises ModelError for one that is missing, damaged or too large."""
    path = inside(bundle, manifest.report)
    if path.stat().st_size > _REPORT_MAX_NBYTES:
        raise ModelError(f"{path} is too large for a report", "compile the bundle again")
    return Report.from_json(read_json(path.read_bytes(), str(path), "compile it again"))


def bundle_json(manifest: Manifest, report: Report) -> dict[str, Any]:
    """A bundle's manifest and report as JSON types."""
    return {"schema": SCHEMA, "manifest": manifest.to_json(), "report": report.to_json()}


def bundle_grids(bundle: Path, manifest: Manifest, report: Report) -> tuple[Grid, ...]:
    """Two tables: each model's interface, source and sharing; and the bundle's files."""
    reports = {model.name: model for model in report.models}
    rows: list[tuple[str, ...]] = []
    for entry in manifest.models:
        inputs = (_input_text(spec, manifest) for spec in entry.inputs)
        outputs = (TensorLine(spec.name, spec.dtype, spec.shape) for spec in entry.outputs)
        found = reports.get(entry.name)
        shared = "\n".join(
            f"{sharing_text(sharing)}: {', '.join(sharing.donor_values)} -> "
            f"{', '.join(sharing.receiver_values)}"
            for sharing in (found.sharing if found else ())
        )
        rows.append(
            (
                entry.name,
                entry.source.file,
                "\n".join(inputs),
                "\n".join(str(line) for line in outputs),
                shared or "-",
            )
        )
    models = Grid(
        f"bundle {bundle} by repsimc {manifest.repsimc}",
        words("model", "source", "inputs", "outputs", "shared with, to depth: donor -> own value"),
        tuple(rows),
    )
    files = Grid(
        "files",
        words("file") + figures("size") + words("sha256"),
        tuple(
            (name, format_bytes(entry.nbytes), entry.sha256[:16])
            for name, entry in sorted(manifest.files.items())
        ),
    )
    return models, files


def _input_text(spec: TensorSpec, manifest: Manifest) -> str:
    line = str(TensorLine(spec.name, spec.dtype, spec.shape))
    sizes = manifest.sizes.get(spec.value)
    return line if sizes is None else f"{line}, compiled for {format_sizes(sizes)}"


def shape_text(shape: tuple[int | str | None, ...]) -> str:
    """The sizes as people write them: [N, 3, ?]."""
    return f"[{', '.join('?' if extent is None else str(extent) for extent in shape)}]"
