"""A finished bundle, opened and run as its users will, beside the files it was made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.manifest import Manifest
from ...runtime.session import Session, load
from ..errors import BackendError, DataError, ModelError
from ..execution.agreement import Probe, judged
from ..execution.executable import Executable
from ..execution.given import Originals
from ..graph.program import Program


@dataclass(frozen=True)
class Rehearsal:
    """What a bundle of `program` is tried on: inputs with what the files (`given`) make of them.

    Models that are `moved` by inexact rewrites are held against the program, whose outputs were
    measured; all others against the files.
    """

    program: Program
    probes: Sequence[Probe]
    given: Originals
    moved: Collection[str]

    def check(self, folder: Path) -> None:
        """Nothing, if the bundle there opens, whole and each model alone, and computes that.

        Raises ModelError.
        """
        bundle = load(folder)
        try:
            with bundle.session(verify_hashes=False) as session:
                probes = [self._expected(probe) for probe in self.probes]
                for probe in probes:
                    self._run(session, bundle.manifest, probe, bundle.models)
                for name in bundle.models:
                    session.warm(name)
                    for probe in probes:
                        self._run(session, bundle.manifest, probe, (name,))
        except (BackendError, DataError) as error:
            raise ModelError(
                f"the bundle does not run: {error.message}",
                "this is a fault of repsimc, not of your model: please report it with the files; "
                "nothing was written",
            ) from error

    def _expected(self, probe: Probe) -> Probe:
        """The probe, with what the program makes of it for models that are no longer the files'."""
        expected = dict(probe.expected)
        for name in [name for name in expected if name in self.moved]:
            outputs = self.program.models[name].outputs
            segment = Executable(self.program, None, list(dict.fromkeys(outputs.values())))
            if set(segment.inputs) <= set(probe.feeds):
                made = segment({value: probe.feeds[value] for value in segment.inputs})
                found = dict(zip(segment.outputs, made))
                expected[name] = {own: found[value] for own, value in outputs.items()}
            else:
                del expected[name]
        return replace(probe, expected=expected)

    def _run(
        self, session: Session, manifest: Manifest, probe: Probe, models: Sequence[str]
    ) -> None:
        entries = {entry.name: entry for entry in manifest.models}
        read = {*models, *(other for name in models for other, _ in entries[name].needs)}
        inputs = {name: self.program.models[name].inputs for name in sorted(read)}
        compared = [name for name in models if name in probe.expected]
        wanted = {value for own in inputs.values() for value in own.values()}
        if not compared or not wanted <= set(probe.feeds):
            return
        feeds = {
            name: {own: probe.feeds[value] for own, value in values.items()}
            for name, values in inputs.items()
        }
        found: dict[str, dict[str, Any]] = dict(session.run(feeds, models))
        for name in compared:
            for own in probe.expected[name]:
                value, given = found[name][own], None if name in self.moved else self.given
                if wrong := judged(self.program, probe, (name, own), value, given):
                    how = "all models" if len(models) > 1 else f"'{name}' alone"
                    raise ModelError(
                        f"the bundle does not compute what it was made of: running {how}, {wrong}",
                        "this is a fault of repsimc, not of your model: please report it with the "
                        "files; nothing was written",
                    )
