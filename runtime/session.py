"""Opens a bundle and runs its models in ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import BackendError, DataError, ModelError, UsageError
from .feeds import Array, Inputs, arrange, choose_models
from .manifest import MANIFEST, MAX_NBYTES, FileEntry, Manifest
from .wire import GraphFile, Part, external_files

if TYPE_CHECKING:
    import onnxruntime

Outputs = dict[str, dict[str, Array]]  # {model: {output: array}}

BACKENDS = ("onnxruntime",)
_DAMAGED = "the bundle is damaged: copy it again, or compile it again"


def load(path: str | Path) -> Bundle:
    """The bundle in that folder; nothing but its manifest is read yet.

    Raises ModelError if there is no bundle, or one whose manifest is not valid.
    """
    folder = Path(path)
    return Bundle(folder, read_manifest(folder))


class Bundle:
    """A compiled bundle: what is in it (`path`, `manifest`), and the door to running it.

    `load("bundle/").run(frame)` opens a session with default settings at the first call.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._session: Session | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the bundle's models."""
        return tuple(entry.name for entry in self.manifest.models)

    def session(
        self,
        backend: str = "onnxruntime",
        threads: int | None = None,
        verify_hashes: bool = True,
    ) -> Session:
        """A new session on this bundle: see `Session`."""
        return Session(self, backend, threads, verify_hashes)

    def run(self, inputs: Inputs, models: Iterable[str] | str | None = None) -> Outputs:
        """The outputs of all models, or those named, on one frame: see `Session.run`."""
        if self._session is None:
            self._session = self.session()
        return self._session.run(inputs, models)

    def __repr__(self) -> str:
        return f"Bundle('{self.path}', models: {', '.join(self.models)})"


class Session:
    """A bundle in memory, ready to run; `threads` limits ONNX Runtime's threads (None: all cores).

    As long as all models are asked for, the merged graph runs as one. The first call that asks
    for some of the models closes it and opens the graph in parts, cut where models branch off:
    from then on every call computes only what it needs, and memory still holds a value's and a
    weight's maker once (a weight that several parts read, once per part). `warm` does so ahead.

    The hashes of all files are checked first; `verify_hashes=False` skips that where start-up
    time matters and the files are trusted. Calls from several threads are allowed.
    Raises ModelError for a bundle that cannot be used, BackendError (exit code 6) if ONNX
    Runtime is missing or refuses the graph.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        backend: str = "onnxruntime",
        threads: int | None = None,
        verify_hashes: bool = True,
    ) -> None:
        if backend not in BACKENDS:
            raise UsageError(f"there is no backend '{backend}'", f"there is: {BACKENDS[0]}")
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads cannot run anything", "give 1 or more")
        opened = bundle if isinstance(bundle, Bundle) else load(bundle)
        self.path = opened.path
        self.manifest = opened.manifest
        self._threads = threads
        self._lock = threading.Lock()
        self._closed = False
        self._parts: list[tuple[Part, onnxruntime.InferenceSession]] | None = None
        self._whole: onnxruntime.InferenceSession | None = None
        if verify_hashes:
            check_files(self.path, self.manifest)
        self._check_external_files()
        self._whole = self._open(str(inside(self.path, self.manifest.graph)))
        self._check_interface(self._whole)

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
        if len(chosen) == len(self.manifest.models):
            found = self._run_all(feeds)
        else:
            found = self._run_some(chosen, feeds, inputs)
        return {
            name: {spec.name: found[spec.value] for spec in self.manifest.model(name).outputs}
            for name in chosen
        }

    def warm(self, models: Iterable[str] | str) -> None:
        """Opens the graph in parts now, if these are not all models, and not in the first run."""
        if len(choose_models(self.manifest, models)) < len(self.manifest.models):
            self._open_parts()

    def close(self) -> None:
        """Frees the memory of the session; a later `run` is an error."""
        with self._lock:
            self._closed = True
            self._whole = None
            self._parts = None
        release_memory()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- running -------------------------------------------------------------------------

    def _run_all(self, feeds: dict[str, Array]) -> dict[str, Any]:
        with self._lock:
            whole, parts, closed = self._whole, self._parts, self._closed
        if closed:
            raise UsageError("this session is closed", "open another one")
        if parts:
            return self._run_parts(parts, feeds)
        assert whole is not None
        names = list(dict.fromkeys(s.value for e in self.manifest.models for s in e.outputs))
        return dict(zip(names, _execute(whole, names, feeds)))

    def _run_some(
        self, chosen: tuple[str, ...], feeds: dict[str, Array], inputs: Inputs
    ) -> dict[str, Any]:
        if parts := self._open_parts():
            asked = set(chosen)
            return self._run_parts([p for p in parts if p[0].models & asked], feeds)
        # The graph cannot be cut: everything runs, so every input is needed.
        return self._run_all(arrange(self.manifest, self.models, inputs))

    def _run_parts(
        self,
        parts: list[tuple[Part, onnxruntime.InferenceSession]],
        feeds: dict[str, Array],
    ) -> dict[str, Any]:
        values: dict[str, Any] = dict(feeds)
        for part, session in parts:
            made = _execute(session, part.outputs, {name: values[name] for name in part.inputs})
            values.update(zip(part.outputs, made))
        return values

    # -- opening -------------------------------------------------------------------------

    def _open_parts(self) -> list[tuple[Part, onnxruntime.InferenceSession]]:
        """The graph in parts, opened at the first call; empty if it cannot be cut."""
        with self._lock:
            if self._closed:
                raise UsageError("this session is closed", "open another one")
            if self._parts is None:
                wanted = {e.name: [s.value for s in e.outputs] for e in self.manifest.models}
                cut = GraphFile(self._graph_content()).parts(wanted)
                if cut is None:
                    self._parts = []
                else:
                    self._whole = None  # before the parts come: never hold the weights twice
                    release_memory()
                    self._parts = [(part, self._open(part.content)) for part in cut]
            return self._parts

    def _open(self, model: str | bytes) -> onnxruntime.InferenceSession:
        ort = import_onnxruntime()
        options = session_options(self._threads)
        if isinstance(model, bytes):
            folder = inside(self.path, self.manifest.graph).parent
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
            # Parts run one after another: threads of one must not spin while the next runs.
            options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot open {self.manifest.graph} of "
                f"{self.path}: {error}"
            ) from error

    def _graph_content(self) -> bytes:
        return inside(self.path, self.manifest.graph).read_bytes()

    def _check_external_files(self) -> None:
        """Weights come from the bundle's own files: the graph could name any file."""
        for name in external_files(self._graph_content()):
            if name not in self.manifest.files:
                raise ModelError(
                    f"{self.manifest.graph} keeps weights in '{name}', which is no file of the "
                    "bundle",
                    _DAMAGED,
                )

    def _check_interface(self, session: onnxruntime.InferenceSession) -> None:
        inputs = {value.name for value in session.get_inputs()}
        outputs = {value.name for value in session.get_outputs()}
        told = {spec.value for entry in self.manifest.models for spec in entry.inputs}
        promised = {spec.value for entry in self.manifest.models for spec in entry.outputs}
        if wrong := (inputs ^ told) | (promised - outputs):
            raise ModelError(
                f"{MANIFEST} and {self.manifest.graph} disagree about {', '.join(sorted(wrong))}",
                _DAMAGED,
            )


def _execute(
    session: onnxruntime.InferenceSession, outputs: Iterable[str], feeds: dict[str, Any]
) -> list[Any]:
    known = {value.name for value in session.get_inputs()}
    try:
        return session.run(list(outputs), {k: v for k, v in feeds.items() if k in known})
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise DataError(f"ONNX Runtime could not run this frame: {error}") from error


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """The settings of every ONNX Runtime session that repsimc opens to run or to measure.

    Memory patterns are off: with them the arena keeps the blocks of the first run and one more
    block of the planned peak. Measured (1.31, x86, ResNet-50 size, batch 1): 13.7 MiB kept
    against 6.6, at the same latency; a transformer of 0.19 ms becomes 0.02 ms slower.
    """
    options = import_onnxruntime().SessionOptions()
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what fails is raised, and reported once
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises BackendError (exit code 6) if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported: {error}", "pip install onnxruntime"
        ) from error
    return onnxruntime


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`, checked. Raises ModelError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(
            f"{folder} is not a bundle: there is no {MANIFEST}",
            "give the folder that `repsimc compile -o` wrote",
        )
    with path.open("rb") as file:
        content = file.read(MAX_NBYTES + 1)
    if len(content) > MAX_NBYTES:
        raise ModelError(f"{path} is larger than {MAX_NBYTES} bytes", _DAMAGED)
    try:
        return Manifest.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not text", _DAMAGED) from error


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the bundle. Raises ModelError if it leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"file '{name}' of bundle {folder} leads out of its folder", _DAMAGED)
    if not path.is_file():
        raise ModelError(f"file '{name}' of bundle {folder} is missing", _DAMAGED)
    return path


def check_files(folder: Path, manifest: Manifest) -> None:
    """Nothing, if every file has the size and sha256 in the manifest. Raises ModelError."""
    for name, entry in sorted(manifest.files.items()):
        path = inside(folder, name)
        if path.stat().st_size != entry.nbytes:
            raise ModelError(
                f"file '{name}' of bundle {folder} has {path.stat().st_size} bytes, "
                f"not {entry.nbytes}",
                _DAMAGED,
            )
        if file_entry(path).sha256 != entry.sha256:
            raise ModelError(
                f"file '{name}' of bundle {folder} is not the one that was compiled: "
                "its sha256 differs",
                _DAMAGED,
            )


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


def release_memory() -> None:
    """Gives memory that is free back to the system, where it can be asked to (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
