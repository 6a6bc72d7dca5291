"""The model files as they were given, run by ONNX Runtime: what everything is compared with."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort

from ...runtime.narrow_types import readable, run_session
from ...runtime.ort import keep_products_float
from ..errors import ModelError
from ..graph.arrays import Array
from ..graph.program import Model
from ..isolation import steps
from ..isolation.allowance import ModelAllowance, ParseLimits
from .executable import first_line


class Originals(Protocol):
    """The models before anything was done to them."""

    def run(self, model: str, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs of a model by its own names, for arrays by the names of its inputs."""
        ...


# Files whose sessions stay open: beyond, one that is asked for takes the others' place.
KEPT_NBYTES = 1 << 30


class GivenModels:
    """The users' files, opened where they lie, with ONNX Runtime's default settings.

    What was imported from them is a reading of ours, and may be wrong; the files are what users
    run today. A file is opened when it is first asked for, and stays open while all that are take
    less than KEPT_NBYTES.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._sessions: dict[str, ort.InferenceSession] = {}

    def run(
        self, model: str, feeds: Mapping[str, Array], seconds: float | None = None
    ) -> dict[str, Any]:
        """All outputs of a model by its own names, for arrays by the names of its inputs.

        What is no tensor comes as ONNX Runtime gives it. A run that takes longer than `seconds` is
        stopped. Raises ModelError if the file cannot be opened, or not be run on these arrays.
        """
        session = self.open(model)
        names = list(self._models[model].outputs)
        known = {value.name for value in session.get_inputs()}
        known |= {value.name for value in session.get_overridable_initializers()}
        given = {name: array for name, array in feeds.items() if name in known}
        options = ort.RunOptions()
        options.log_severity_level = 4

        def stop() -> None:
            options.terminate = True

        timer = None if seconds is None else threading.Timer(seconds, stop)
        try:
            if timer is not None:
                timer.start()
            made = run_session(session, list(dict.fromkeys(names)), given, options)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise ModelError(
                f"ONNX Runtime cannot run model '{model}' ({self._models[model].source.path}) on "
                f"these inputs: {first_line(error)}",
                "check that the frames have the shape and value range the model expects",
            ) from error
        finally:
            if timer is not None:
                timer.cancel()
        return dict(zip(dict.fromkeys(names), map(readable, made), strict=True))

    def allowance(
        self, model: str, feeds: Mapping[str, Array], limits: ParseLimits | None = None
    ) -> ModelAllowance:
        """What a file may take of made-up inputs, by its bytes and theirs."""
        source = self._models[model].source
        where = f"model '{model}' ({source.path}) on made-up inputs"
        return ModelAllowance(where, source.nbytes, limits, sum(a.nbytes for a in feeds.values()))

    def try_out(self, model: str, feeds: Mapping[str, Array], allowance: ModelAllowance) -> str:
        """Why ONNX Runtime refuses these inputs, run in the child process; '' if it does not.

        Files of more than 1 GiB are not tried. Raises ModelError if the run takes more than the
        allowance, or ends the process.
        """
        source = self._models[model].source
        if source.nbytes >= KEPT_NBYTES:
            return ""
        content = source.path if _printable(source.path) else source.path.read_bytes()
        try:
            steps.run_session(content, feeds, None, allowance)
        except steps.Refused as error:
            return first_line(error)
        return ""

    def open(self, model: str) -> ort.InferenceSession:
        """The session of a model's file. Raises ModelError if ONNX Runtime does not open it."""
        if model not in self._sessions:
            self._make_room(model)
            options = ort.SessionOptions()
            keep_products_float(options)
            options.log_severity_level = 4
            # Not a matter of results: threads must not spin on cores that the next step wants.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            path = self._models[model].source.path
            try:
                self._sessions[model] = ort.InferenceSession(
                    str(path) if _printable(path) else path.read_bytes(),
                    options,
                    providers=["CPUExecutionProvider"],
                )
            except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
                raise ModelError(
                    f"ONNX Runtime, with its default settings, cannot open model '{model}' "
                    f"({path}): {first_line(error)}",
                    "a bundle is held against its files as ONNX Runtime runs them: change the "
                    "model so that ONNX Runtime opens it",
                ) from error
        return self._sessions[model]

    def _make_room(self, model: str) -> None:
        nbytes = sum(self._models[name].source.nbytes for name in (*self._sessions, model))
        if nbytes > KEPT_NBYTES:
            self._sessions.clear()


def _printable(path: Path) -> bool:
    """Whether ONNX Runtime opens a file of that name; without Unicode it takes only the content."""
    return os.fsdecode(path).isprintable()
