"""Whether a bundle is already what a compilation would make, and what that would say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...runtime.files import check_files, inside, read_manifest
from ...runtime.json_reader import Reader, read_json
from ...runtime.manifest import MANIFEST, Manifest
from ...runtime.placing import unwritten
from ..errors import ModelError
from .compile_inputs import CompileInputs, remember_models

_HINT = "compile it again with --force"


def bundle_from(folder: Path, inputs: CompileInputs) -> Manifest | None:
    """The manifest of the bundle in `folder`, if it was made from the same; None of any other."""
    if not inputs.digest:
        return None
    try:
        manifest = read_manifest(folder)
    except (ModelError, OSError):
        return None
    return manifest if manifest.made_from == inputs.digest else None


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """True if every file of the bundle is there, with the content that its manifest says.

    A file that is not newer than the manifest is as it was when the manifest was written or last
    confirmed, so its size will do: hashing gigabytes again would be most of the work.
    """
    try:
        confirmed = (folder / MANIFEST).stat().st_mtime_ns
        newer: list[str] = []
        for name, entry in manifest.files.items():
            found = inside(folder, name).stat()
            if found.st_size != entry.nbytes:
                return False
            if found.st_mtime_ns > confirmed:
                newer.append(name)
        check_files(folder, manifest, newer)
    except (ModelError, OSError):
        return False
    return True


def confirm(folder: Path, manifest: Manifest, inputs: CompileInputs) -> dict[str, Any]:
    """Say by the manifest's time that the bundle is up to date; its report and plan as JSON.

    Raises UsageError where the time cannot be set, ModelError for a report that is no JSON.
    """
    try:
        os.utime(folder / MANIFEST)
    except OSError as error:
        raise unwritten(folder, error) from error
    remember_models(inputs)
    report, plan = (
        Reader(name, _HINT, read_json(inside(folder, name).read_bytes(), name, _HINT))
        for name in (manifest.report, manifest.plan)
    )
    return report.entries(Reader.anything) | {"plan": plan.value, "bundle": str(folder)}
