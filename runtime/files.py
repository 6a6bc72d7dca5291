"""The files of a bundle: found, kept inside its folder, checked by size and sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .errors import ModelError
from .manifest import MANIFEST, MAX_NBYTES, FileEntry, Manifest
from .wire import external_files

DAMAGED = "the bundle is damaged: copy it again, or compile it again"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`, checked. Raises ModelError."""
    path = folder / MANIFEST
    if not is_utf8(folder):
        raise ModelError(
            f"{folder} has a name that is not UTF-8, and ONNX Runtime opens no file there",
            "move the bundle, or name it from within: cd there, then give '.'",
        )
    if not path.is_file():
        raise ModelError(
            f"{folder} is not a bundle: there is no {MANIFEST}",
            "give the folder that `repsimc compile -o` wrote",
        )
    with path.open("rb") as file:
        content = file.read(MAX_NBYTES + 1)
    if len(content) > MAX_NBYTES:
        raise ModelError(f"{path} is larger than {MAX_NBYTES} bytes", DAMAGED)
    try:
        return Manifest.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not text", DAMAGED) from error


def is_utf8(path: Path) -> bool:
    """True if the path is text; ONNX Runtime's Python interface takes no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the bundle. Raises ModelError if it leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"file '{name}' of bundle {folder} leads out of its folder", DAMAGED)
    if not path.is_file():
        raise ModelError(f"file '{name}' of bundle {folder} is missing", DAMAGED)
    return path


def check_files(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Nothing, if every file has the size and sha256 in the manifest. Raises ModelError.

    With `names` only those files are looked at.
    """
    wanted = set(manifest.files if names is None else names)
    for name, entry in sorted(manifest.files.items()):
        if name not in wanted:
            continue
        path = inside(folder, name)
        if path.stat().st_size != entry.nbytes:
            raise ModelError(
                f"file '{name}' of bundle {folder} has {path.stat().st_size} bytes, "
                f"not {entry.nbytes}",
                DAMAGED,
            )
        if file_entry(path).sha256 != entry.sha256:
            raise ModelError(
                f"file '{name}' of bundle {folder} is not the one that was compiled: "
                "its sha256 differs",
                DAMAGED,
            )


class OpenedFiles:
    """The files of a bundle as a session found them: what it reads later must be the same.

    Another bundle may take the folder's place while a session is open (that is how bundles are
    replaced). What the session holds in memory goes on as it was; what it has to read anew would
    be the other bundle's. `hashed` says that the files are held against the manifest now.
    """

    def __init__(self, folder: Path, manifest: Manifest, hashed: bool) -> None:
        self._folder = folder
        self._manifest = manifest
        self._stamps = self._now()  # before the hashing: a later change shows in them
        if hashed:
            check_files(folder, manifest)

    def require_same(self) -> None:
        """Nothing, if the files are those that were opened, or equal. Raises ModelError."""
        now = self._now()
        if now == self._stamps:
            return
        try:
            check_files(self._folder, self._manifest)
        except ModelError as error:
            raise ModelError(
                f"{self._folder} was changed or replaced since this session was opened, and its "
                f"graph has to be read again: {error.message}",
                "open the bundle again with repsimc.load",
            ) from error
        self._stamps = now

    def _now(self) -> dict[str, tuple[int, ...] | None]:
        return {name: _stamp(self._folder / name) for name in sorted(self._manifest.files)}


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another in its place, or from itself with other content."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def file_entry(*paths: Path) -> FileEntry:
    """Size and sha256 of the files' content, one after another."""
    found = hashlib.sha256()
    nbytes = 0
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
                nbytes += len(chunk)
    return FileEntry(found.hexdigest(), nbytes)


def check_external_files(folder: Path, manifest: Manifest, graph: str) -> list[str]:
    """The files that hold weights of that graph, all of them files of the bundle.

    A graph could name any file. Raises ModelError.
    """
    found = external_files(inside(folder, graph).read_bytes())
    for name in found:
        if name not in manifest.files:
            raise ModelError(
                f"{graph} keeps weights in '{name}', which is no file of the bundle", DAMAGED
            )
    return found
