"""The graph of a bundle in ONNX Runtime: whole, or in parts that run one after another."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BackendError, DataError, ModelError, UsageError
from .feeds import Array
from .files import DAMAGED, OpenedFiles, check_external_files, inside
from .manifest import MANIFEST, TRUNK_HEADS, Manifest
from .memory import release_memory
from .narrow_types import readable, run_session
from .wire import GraphFile, GraphPart

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeExecution:
    """The merged graph, opened whole, or in parts where the layout is 'trunk-heads'.

    A whole graph is cut when some of the models are asked for alone: from then on it stays in
    parts, so that weights are never held twice. The files are hashed first unless `verify_hashes`
    is False; what is read later has to be the same. Raises ModelError, BackendError.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        layout: str,
        threads: int | None,
        verify_hashes: bool = True,
    ) -> None:
        self.path = path
        self._files = OpenedFiles(path, manifest, verify_hashes)
        self.manifest = manifest
        self._threads = threads
        self._lock = threading.Lock()
        self._closed = False
        self._parts: list[tuple[GraphPart, onnxruntime.InferenceSession]] | None = None
        self._whole: onnxruntime.InferenceSession | None = None
        check_external_files(path, manifest, manifest.graph)
        if layout != TRUNK_HEADS or not self._open_parts():
            self._open_whole()

    def run(self, models: tuple[str, ...], feeds: dict[str, Array]) -> dict[str, Any] | None:
        """The values that these models need, by name; None where all inputs must be given.

        That is so where the graph cannot be cut, and not all models were asked for.
        """
        if len(models) == len(self.manifest.models):
            return self._run_all(feeds)
        if parts := self._open_parts():
            asked = set(models)
            return self._run_parts([p for p in parts if p[0].models & asked], feeds)
        return None

    def warm(self, models: tuple[str, ...]) -> None:
        """Opens the graph in parts now, if these are not all models."""
        if len(models) < len(self.manifest.models):
            self._open_parts()

    def close(self) -> None:
        """Frees the memory of the graph."""
        with self._lock:
            self._closed = True
            self._whole = None
            self._parts = None
        release_memory()

    def _run_all(self, feeds: dict[str, Array]) -> dict[str, Any]:
        with self._lock:
            whole, parts, closed = self._whole, self._parts, self._closed
        if closed:
            raise UsageError("this session is closed", "open another one")
        if parts:
            return self._run_parts(parts, feeds)
        names = list(dict.fromkeys(s.value for e in self.manifest.models for s in e.outputs))
        made = _execute(whole or self._open_whole(), names, feeds)
        return {name: readable(value) for name, value in zip(names, made)}

    def _run_parts(
        self,
        parts: list[tuple[GraphPart, onnxruntime.InferenceSession]],
        feeds: dict[str, Array],
    ) -> dict[str, Any]:
        values: dict[str, Any] = dict(feeds)
        for part, session in parts:
            made = _execute(session, part.outputs, _of(values, part))
            values.update(zip(part.outputs, made))
        return {name: readable(value) for name, value in values.items()}

    def _open_parts(self) -> list[tuple[GraphPart, onnxruntime.InferenceSession]]:
        """The graph in parts, opened at the first call; empty if it cannot be cut."""
        with self._lock:
            if self._closed:
                raise UsageError("this session is closed", "open another one")
            if self._parts is None:
                wanted = {e.name: [s.value for s in e.outputs] for e in self.manifest.models}
                self._files.require_same()
                graph = GraphFile(inside(self.path, self.manifest.graph).read_bytes())
                self._files.require_same()  # not replaced between that look and the reading
                self._check_interface({*graph.inputs, *graph.optional}, set(graph.outputs))
                cut = graph.parts(wanted, shapes=False)
                if cut is None:
                    self._parts = []
                else:
                    self._whole = None  # before the parts come: never hold the weights twice
                    release_memory()
                    opened = self._opened(cut)
                    self._files.require_same()  # weights beside the graph were read just now
                    self._parts = opened
            return self._parts

    def _opened(self, cut: list[GraphPart]) -> list[tuple[GraphPart, onnxruntime.InferenceSession]]:
        """The parts and their sessions; none if ONNX Runtime takes one only within the whole."""
        try:
            return [(part, self._open(part.content)) for part in cut]
        except BackendError:
            return []

    def _open_whole(self) -> onnxruntime.InferenceSession:
        """The graph as one, opened again where it was closed for parts that then did not open."""
        with self._lock:
            if self._whole is None:
                self._files.require_same()
                whole = self._open(str(inside(self.path, self.manifest.graph)))
                self._files.require_same()
                self._check_interface(
                    fed(whole),
                    {value.name for value in whole.get_outputs()},
                )
                self._whole = whole
            return self._whole

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

    def _check_interface(self, inputs: set[str], outputs: set[str]) -> None:
        entries = self.manifest.models
        told = {s.value for entry in entries for s in (*entry.inputs, *entry.optional)}
        promised = {spec.value for entry in self.manifest.models for spec in entry.outputs}
        if wrong := (inputs ^ told) | (promised - outputs):
            raise ModelError(
                f"{MANIFEST} and {self.manifest.graph} disagree about {', '.join(sorted(wrong))}",
                DAMAGED,
            )


def _execute(
    session: onnxruntime.InferenceSession, outputs: Iterable[str], feeds: dict[str, Any]
) -> list[Any]:
    known = fed(session)
    try:
        return run_session(session, list(outputs), {k: v for k, v in feeds.items() if k in known})
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise DataError(f"ONNX Runtime could not run this frame: {error}") from error


def fed(session: onnxruntime.InferenceSession) -> set[str]:
    """The names of the inputs of a session, those that have a default too."""
    values = (*session.get_inputs(), *session.get_overridable_initializers())
    return {value.name for value in values}


def _of(values: dict[str, Any], part: GraphPart) -> dict[str, Any]:
    """What a part is fed: its inputs, and those that have a default where they are given."""
    found = {name: values[name] for name in part.inputs}
    return found | {name: values[name] for name in part.optional if name in values}


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """The settings of every ONNX Runtime session that repsimc opens to run or to measure.

    Memory patterns are off: with them the arena keeps the blocks of the first run and one more
    block of the planned peak. Measured (1.31, x86, ResNet-50 size, batch 1): 13.7 MiB kept
    against 6.6, at the same latency; a transformer of 0.19 ms becomes 0.02 ms slower.
    """
    options = import_onnxruntime().SessionOptions()
    keep_products_float(options)
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what fails is raised, and reported once
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def keep_products_float(options: onnxruntime.SessionOptions) -> None:
    """Weights of few bits are multiplied in float32, as the graph says.

    By itself ONNX Runtime (1.31) makes one kernel of DequantizeLinear and MatMul, which rounds the
    other operand to 8 bits, too: measured, outputs move by up to 0.9 % of the largest. No option is
    needed for the weights to stay in their few bits: it folds no DequantizeLinear, and makes the
    floats of a layer when the layer runs. Measured, eight layers of 9 MiB in float32: 20 to 23 MiB
    once opened and 41 after a run, with two copies of a layer that the arena keeps; in float32 76
    for convolutions, 148 for MatMul.
    """
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises BackendError (exit code 6) if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported: {error}", "pip install 'repsimc[onnxruntime]'"
        ) from error
    # On Windows ONNX Runtime's events do not ask the environment (see repsimc/__init__.py).
    vars(onnxruntime).get("disable_telemetry_events", lambda: None)()
    return onnxruntime
