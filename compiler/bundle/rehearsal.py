"""A finished bundle, opened and run as its users will, beside the files it was made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.manifest import Manifest
from ...runtime.session import Session, load
from ..errors import BackendError, DataError, ModelError
from ..execution.agreement import Exactness, Probe
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
        exact = Exactness(self.program, self.given), Exactness(self.program)
        try:
            with bundle.session(verify_hashes=False) as session:
                probes = [self._expected(probe) for probe in self.probes]
                for models in (bundle.models, *((name,) for name in bundle.models)):
                    session.warm(models)
                    for probe in probes:
                        found = self._run(session, bundle.manifest, probe, models)
                        self._judge(probe, found, exact, models)
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
    ) -> dict[str, dict[str, Any]]:
        """What the bundle makes of the probe; nothing where that has not all inputs."""
        entries = {entry.name: entry for entry in manifest.models}
        read = {*models, *(other for name in models for other, _ in entries[name].needs)}
        inputs = {name: self.program.models[name].inputs for name in sorted(read)}
        wanted = {value for own in inputs.values() for value in own.values()}
        if not wanted <= set(probe.feeds) or not set(models) & set(probe.expected):
            return {}
        feeds = {
            name: {own: probe.feeds[value] for own, value in values.items()}
            for name, values in inputs.items()
        }
        return dict(session.run(feeds, models))

    def _judge(
        self,
        probe: Probe,
        found: dict[str, dict[str, Any]],
        exact: tuple[Exactness, Exactness],
        models: Sequence[str],
    ) -> None:
        for name in [name for name in found if name in probe.expected]:
            for own in probe.expected[name]:
                judge = exact[name in self.moved]
                if wrong := judge.judged(probe, (name, own), found[name][own]):
                    how = "all models" if len(models) > 1 else f"'{name}' alone"
                    raise ModelError(
                        f"the bundle does not compute what it was made of: running {how}, {wrong}",
                        "this is a fault of repsimc, not of your model: please report it with the "
                        "files; nothing was written",
                    )
