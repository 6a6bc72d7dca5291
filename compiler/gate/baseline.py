"""What a bundle is held against: a JSON file that one run of the gate writes and others read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ...runtime.conditions import Conditions
from ...runtime.json_reader import Reader, Sha256, read_json
from ...runtime.json_values import JsonValue
from ...runtime.manifest import Manifest
from ...runtime.measured import YARDSTICK_VERSION
from ...runtime.placing import replacing_file
from ..errors import DataError, ModelError, UsageError

SCHEMA = "repsimc.baseline/1"
_MAX_NBYTES = 16 * 2**20
_MOST = 10_000  # values of one figure: a baseline is untrusted
_HINT = "write it again with --update"
# The yardsticks, by their key in a baseline: a fixed network, and the models apart.
FIXED, APART = "fixed network", "models apart"


def _positive(reader: Reader) -> float:
    if reader.number() <= 0:
        raise reader.wrong("a number above zero")
    return reader.number()


def _several(reader: Reader) -> tuple[float, ...]:
    found = tuple(reader.each(_positive))
    if len(found) > _MOST:
        raise reader.wrong(f"a list of at most {_MOST} numbers")
    return found


def _counts(reader: Reader) -> tuple[int, ...]:
    found = tuple(reader.each(Reader.integer))
    if len(found) > _MOST:
        raise reader.wrong(f"a list of at most {_MOST} numbers")
    return found


@dataclass(frozen=True)
class ExactFigure(JsonValue):
    """A figure that comes out the same each time, but for `slack`; NaN is one too."""

    name: str
    value: Annotated[float, Reader.real]
    unit: str
    more_is_better: bool = False
    slack: float = 0.0


@dataclass(frozen=True)
class Shares(JsonValue):
    """Latency by a yardstick's in the same session, a value per fresh process.

    `clock` and `processor` are of the two kinds of time; `quiet` says that a core was free when
    one was wanted.
    """

    clock: Annotated[tuple[float, ...], _several]
    processor: Annotated[tuple[float, ...], _several]
    quiet: bool


@dataclass(frozen=True)
class Machine(JsonValue):
    """Where a baseline was measured: the system, the processor's name, ONNX Runtime's version."""

    system: str
    processor: str
    onnxruntime: str


@dataclass(frozen=True)
class Baseline(JsonValue):
    """A bundle's figures in one run of the gate, and whose they are.

    `models` are the digests of the bundle's sources by model; `interface` its inputs and outputs.
    `latency` is by yardstick, `uss_nbytes` of every fresh process. `frame` is what was fed.
    """

    repsimc: str
    models: dict[str, Sha256]
    interface: tuple[str, ...]
    figures: tuple[ExactFigure, ...]
    uss_nbytes: Annotated[tuple[int, ...], _counts]
    latency: dict[str, Shares]
    threads: int
    frame: str
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        """The baseline as JSON values, with schema and the yardstick's version."""
        return {"schema": SCHEMA, "yardstick": YARDSTICK_VERSION, **super().to_json()}

    def figure(self, name: str) -> ExactFigure | None:
        """The figure of that name."""
        return next((one for one in self.figures if one.name == name), None)


def interface_of(manifest: Manifest) -> tuple[str, ...]:
    """What callers see of a bundle: 'a: x -> y' for every model, sorted."""
    return tuple(
        sorted(
            f"{entry.name}: {', '.join(sorted(spec.name for spec in entry.inputs))} -> "
            f"{', '.join(sorted(spec.name for spec in entry.outputs))}"
            for entry in manifest.models
        )
    )


def read_baseline(path: Path, manifest: Manifest) -> Baseline:
    """The baseline in that file, which is of a bundle with these models.

    Raises UsageError if there is none, DataError if it is damaged, of another version or of
    another bundle.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_NBYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(f"there is no baseline {path}", "write one with --update") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}", _HINT) from error
    if len(content) > _MAX_NBYTES:
        raise DataError(f"{path} is larger than {_MAX_NBYTES} bytes", _HINT)
    try:
        top = Reader(str(path), _HINT, read_json(content, str(path), _HINT))
        schema = top.get("schema", Reader.text)
        if schema != SCHEMA:
            raise DataError(f"{path} is '{schema}', and this version reads '{SCHEMA}'", _HINT)
        version = top.get("yardstick", Reader.count)
        if version != YARDSTICK_VERSION:
            raise DataError(
                f"{path} was measured beside version {version} of the yardstick, "
                f"and this one has version {YARDSTICK_VERSION}",
                _HINT,
            )
        found = top.record(Baseline)
    except ModelError as error:  # what the reader raises
        raise DataError(error.message, error.hint) from error
    _require_same(path, found, interface_of(manifest))
    return found


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write it: the whole file or nothing. Raises UsageError where that can't be."""
    text = json.dumps(baseline.to_json(), indent=1, ensure_ascii=True, allow_nan=False)
    with replacing_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def machine_here() -> Machine:
    """This machine, as far as figures depend on it."""
    import platform

    from ...runtime.ort import import_onnxruntime

    system = f"{platform.system()} {platform.machine()}"
    return Machine(system, _processor() or "unknown", str(import_onnxruntime().__version__))


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        import platform

        return platform.processor()
    fields: Mapping[str, str] = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    arm = [fields[key] for key in ("CPU implementer", "CPU part") if key in fields]
    return fields.get("model name") or " ".join(arm)


def shares_quiet(conditions: list[Conditions]) -> bool:
    """Whether most of the processes had a core whenever they wanted one."""
    return 2 * sum(one.quiet for one in conditions) > len(conditions)


def _require_same(path: Path, found: Baseline, interface: tuple[str, ...]) -> None:
    if found.interface != interface:
        only = sorted(set(found.interface) - set(interface))
        new = sorted(set(interface) - set(found.interface))
        differs = "; ".join([*(f"it has {one}" for one in only), *(f"not {one}" for one in new)])
        raise DataError(
            f"{path} is the baseline of another bundle: {differs}",
            "give the baseline of this one, or write it with --update",
        )
