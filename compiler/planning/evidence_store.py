"""What compilations learned of models and frames, kept by content for those that resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ... import __version__
from ...runtime.json_reader import read_json
from ...runtime.placing import cache_folder
from ..actions.kinds import chosen
from ..case import Case
from ..errors import ModelError
from ..execution.content_cache import ContentCache, content_key
from .known import Known, known_from_json

# Raised whenever what an entry holds, or how it is measured, changes.
FORMAT = 1
SCHEMA = "repsimc.evidence/1"
# A compilation learns some hundred bytes of each site; the largest entry is of some ten thousand.
MAX_ENTRY_NBYTES = 64 << 20
MAX_NBYTES = 512 << 20
# The settings that decide what is learned; kinds of rewrites, models and frames beside them.
DECIDING = (
    *("seed", "frames", "held_out", "same_frames", "tie_inputs", "tie", "frame_axis", "size"),
    *("metrics", "confidence", "strict", "precision", "target"),
)


@dataclass(frozen=True)
class EvidenceKey:
    """All that decides what a compilation learns; as text the name of its entry.

    `models` are name and sha256 (of the file and its external data) of each, in order, `frames` is
    the fingerprint of the rows as the models take them, streams and split included. `kinds` are
    the rewrites that may be made, `settings` the values of DECIDING as JSON.
    """

    models: tuple[tuple[str, str], ...]
    frames: str
    kinds: tuple[str, ...]
    settings: str
    version: str = __version__

    @classmethod
    def of(cls, case: Case) -> EvidenceKey:
        """The key of a case with frames."""
        assert case.frames is not None
        options = case.options
        settings = {name: _plain(getattr(options, name)) for name in DECIDING}
        return cls(
            tuple((name, model.source.sha256) for name, model in case.original.models.items()),
            case.frames.fingerprint(),
            tuple(kind.name for kind in chosen(options.only, options.without)),
            json.dumps(settings, sort_keys=True),
        )

    def __str__(self) -> str:
        return content_key(what="evidence", format=FORMAT, **asdict(self))


def _plain(value: object) -> object:
    # JSON takes no other mapping.
    return dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else value


def _unheard(text: str) -> None:
    """Nothing."""


class EvidenceStore:
    """Entries in a folder (default: `evidence` beside what else repsimc keeps).

    An entry is two lines of JSON: what it is, with the sha256 of the second, and what was learned.
    One that cannot be read, or is not of the case, is as good as none. `tell` hears in a line what
    became of it.
    """

    def __init__(
        self, folder: Path | None = None, tell: Callable[[str], object] = _unheard
    ) -> None:
        self._cache = ContentCache(folder or cache_folder() / "evidence", ".jsonl", MAX_NBYTES)
        self._tell = tell

    @property
    def folder(self) -> Path:
        """Where the entries are."""
        return self._cache.folder

    def read(self, key: EvidenceKey, case: Case) -> Known | None:
        """What was learned of this case, whose key it is; None where nothing was, or is readable.

        Outputs come back under the case's floors.
        """
        path = self._cache.path(str(key))
        if not path.is_file():
            self._tell("no evidence was kept of these models and frames with these options")
            return None
        try:
            known = known_from_json(_content(path, key), "it", case)
        except (OSError, ModelError, RecursionError) as error:
            self._tell(f"the kept evidence cannot be used and is measured again: {error}")
            return None
        self._cache.touch(str(key))
        self._tell(
            f"evidence was kept of {len(known.candidates)} candidates and {len(known.trials)} "
            "measurements"
        )
        return known

    def write(self, key: EvidenceKey, known: Known) -> bool:
        """Keep what was learned, instead of what was kept under the key; False where it cannot."""
        content = json.dumps(known.to_json(), allow_nan=False, separators=(",", ":")).encode()
        if len(content) > MAX_ENTRY_NBYTES:
            self._tell(f"evidence is not kept: {len(content)} bytes are too many")
            return False
        try:
            self._cache.write(
                str(key), lambda file: file.writelines([_head(key, content), b"\n", content])
            )
        except OSError as error:
            where = error.filename or self.folder
            self._tell(f"evidence is not kept: {where} cannot be written: {error.strerror}")
            return False
        return True


def _head(key: EvidenceKey, content: bytes) -> bytes:
    """The first line of an entry."""
    sha256 = hashlib.sha256(content).hexdigest()
    return json.dumps({"schema": SCHEMA, "key": str(key), "sha256": sha256}).encode()


def _content(path: Path, key: EvidenceKey) -> Any:
    """What the second line of an entry says. Raises OSError, ModelError."""
    with path.open("rb") as file:
        head, _, content = file.read(MAX_ENTRY_NBYTES + 1024).partition(b"\n")
    if head != _head(key, content):
        raise ModelError("it is of another version, or was changed")
    return read_json(content, "it", "")
