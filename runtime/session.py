"""Opens a bundle and runs its models."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from . import arguments
from .errors import UsageError
from .feeds import Array, Inputs, arrange, choose_models
from .files import read_manifest
from .manifest import LAYOUTS, Manifest

Outputs = dict[str, dict[str, Array]]  # {model: {output: array}}

BACKENDS = ("onnxruntime", "tensorrt")


def load(path: str | Path) -> Bundle:
    """The bundle in that folder; nothing but its manifest is read yet.

    Raises ModelError if there is no bundle, or one whose manifest is not valid.
    """
    folder = arguments.path("path", path)
    return Bundle(folder, read_manifest(folder))


class Bundle:
    """A compiled bundle: what is in it (`path`, `manifest`), and the door to running it.

    `load("bundle/").run(frame)` opens a session with default settings at the first call.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._session: Session | None = None
        self._lock = threading.Lock()

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the bundle's models."""
        return tuple(entry.name for entry in self.manifest.models)

    def session(
        self,
        backend: str = "onnxruntime",
        threads: int | None = None,
        verify_hashes: bool = True,
        layout: str | None = None,
        precision: str | None = None,
        plugins: Sequence[str | Path] = (),
    ) -> Session:
        """A new session on this bundle: see `SessionOptions` and `Session`."""
        options = SessionOptions(backend, threads, verify_hashes, layout, precision, plugins)
        return Session(self, options)

    def run(self, inputs: Inputs, models: Iterable[str] | str | None = None) -> Outputs:
        """The outputs of all models, or those named, on one frame: see `Session.run`."""
        with self._lock:  # of several threads' first calls one opens the session
            if self._session is None:
                self._session = self.session()
            session = self._session
        return session.run(inputs, models)

    def __repr__(self) -> str:
        return f"Bundle('{self.path}', models: {', '.join(self.models)})"


class Execution(Protocol):
    """A bundle's graph in some backend, ready to run."""

    def run(self, models: tuple[str, ...], feeds: dict[str, Array]) -> dict[str, Any] | None:
        """The values that these models need, by name; None where all inputs must be given."""
        ...

    def warm(self, models: tuple[str, ...]) -> None:
        """Prepares for running these models."""
        ...

    def close(self) -> None:
        """Frees the memory."""
        ...


@dataclass(frozen=True)
class SessionOptions:
    """How a bundle is opened, in `backend`: 'onnxruntime' or 'tensorrt'.

    `threads` limits those of ONNX Runtime (None: all cores). `layout` is the bundle's unless it
    is given, and so is TensorRT's `precision`; `plugins` are its libraries of custom operators.
    The hashes of all files are checked first; `verify_hashes=False` skips that where start-up
    time matters and the files are trusted. Raises UsageError for what there is none of.
    """

    backend: str = "onnxruntime"
    threads: int | None = None
    verify_hashes: bool = True
    layout: str | None = None
    precision: str | None = None
    plugins: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        for name in ("backend", "layout", "precision"):
            if getattr(self, name) is not None or name == "backend":
                arguments.text(name, getattr(self, name))
        if self.threads is not None:
            object.__setattr__(self, "threads", arguments.whole("threads", self.threads))
        arguments.flag("verify_hashes", self.verify_hashes)
        plugins = arguments.several("plugins", self.plugins, arguments.path)
        object.__setattr__(self, "plugins", plugins)
        for what, asked, known in (
            ("backend", self.backend, BACKENDS),
            ("layout", self.layout, (None, *LAYOUTS)),
        ):
            if asked not in known:
                there = ", ".join(name for name in known if name)
                raise UsageError(f"there is no {what} '{asked}'", f"there are {there}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything", "give 1 or more")


class Session:
    """A bundle in memory, ready to run: see `SessionOptions`, and `Bundle.session` to get one.

    ONNX Runtime: with the layout 'merged' the graph runs as one as long as all models are asked
    for. The first call that asks for some of them closes it and opens the graph in parts, cut
    where models branch off: from then on every call computes only what it needs, and memory still
    holds a value's and a weight's maker once (a weight that several parts read, once per part).
    `warm` does so ahead; with 'trunk-heads' it is so from the start.

    TensorRT: the engines that `repsimc build` made on this device, of that layout and precision.

    Calls from several threads are allowed. Raises ModelError for a bundle that cannot be used,
    BackendError (exit code 6) if the backend is missing or refuses the graph.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        self.path = bundle.path
        self.manifest = bundle.manifest
        self.layout = options.layout or self.manifest.layout
        self._closed = False
        if options.backend == "tensorrt":
            # Without a device this fails at once, and not after minutes of hashing.
            made = importlib.import_module(".tensorrt.execution", __package__)
            self._execution: Execution = made.TensorRTExecution(
                self.path,
                self.manifest,
                self.layout,
                options.precision,
                options.verify_hashes,
                options.plugins,
            )
            return
        if options.precision not in (None, "fp32"):
            raise UsageError(
                f"ONNX Runtime runs the bundle in fp32, not in {options.precision}",
                "leave precision out, or use backend='tensorrt'",
            )
        from .ort import OnnxRuntimeExecution

        self._execution = OnnxRuntimeExecution(
            self.path, self.manifest, self.layout, options.threads, options.verify_hashes
        )

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the bundle's models."""
        return tuple(entry.name for entry in self.manifest.models)

    def run(self, inputs: Inputs, models: Iterable[str] | str | None = None) -> Outputs:
        """`{model: {output: array}}` of all models, or of those named.

        `inputs` is one array, where one input feeds all that is asked for; `{input: array}`,
        `{model: array}` or `{model: {input: array}}` otherwise. Arrays have the dtype and shape
        in the manifest. Tied inputs take one array, or equal ones.
        Raises DataError for arrays that do not fit and UsageError for an unknown model.
        """
        chosen = choose_models(self.manifest, models)
        feeds = arrange(self.manifest, chosen, inputs)
        self._require_open()
        found = self._execution.run(chosen, feeds)
        if found is None:
            # The graph cannot be cut: everything runs, so every input is needed.
            found = self._execution.run(self.models, arrange(self.manifest, self.models, inputs))
            assert found is not None
        return {
            name: {spec.name: found[spec.value] for spec in self.manifest.model(name).outputs}
            for name in chosen
        }

    def warm(self, models: Iterable[str] | str) -> None:
        """Prepares now, and not in the first run, for calls that ask for these models."""
        chosen = choose_models(self.manifest, models)
        self._require_open()
        self._execution.warm(chosen)

    def close(self) -> None:
        """Frees the memory of the session; a later `run` is an error."""
        self._closed = True
        self._execution.close()

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("this session is closed", "open another one")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
