"""What is installed here, which device this is, and what would work: `repsimc doctor`."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ... import __version__
from ...runtime.errors import RepsimcError
from ...runtime.json_values import JsonValue
from ...runtime.tensorrt.gate import LABEL
from ...runtime.tensorrt.probe import Device, board_name, l4t_release, memory_available, probe
from ..reports.table import Grid, words
from ..units import format_bytes

SCHEMA = "repsimc.doctor/1"
# distribution -> the module that tells whether it is there
_LIBRARIES = {
    "numpy": "numpy",
    "onnx": "onnx",
    "onnx-graphsurgeon": "onnx_graphsurgeon",
    "onnxruntime": "onnxruntime",
    "networkx": "networkx",
    "scipy": "scipy",
    "pillow": "PIL",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "torch": "torch",
}
_COMPILE = ("onnx", "onnx-graphsurgeon", "onnxruntime", "networkx", "scipy", "pillow")


@dataclass(frozen=True)
class Ability:
    """Something a user may want here: whether it would work, and if not, why and what to do."""

    what: str
    works: bool
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Diagnosis(JsonValue):
    """The machine, what is installed (versions, None where missing), and what would work."""

    machine: dict[str, str]
    libraries: dict[str, str | None]
    device: Device | None
    abilities: tuple[Ability, ...]

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values, with schema version."""
        return {"schema": SCHEMA, **super().to_json()}


def diagnose() -> Diagnosis:
    """Look around. Nothing is loaded into this process that could end it."""
    libraries = {name: _installed(name, module) for name, module in _LIBRARIES.items()}
    device: Device | None = None
    trouble: RepsimcError | None = None
    try:
        device = probe()
    except RepsimcError as error:
        trouble = error
    missing = [name for name in _COMPILE if libraries[name] is None]
    tensorrt = "build, bench and run TensorRT engines"
    return Diagnosis(
        machine={
            "repsimc": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "board": board_name() or "-",
            "L4T": l4t_release() or "-",
            "memory available": format_bytes(memory_available()),
        },
        libraries=libraries,
        device=device,
        abilities=(
            _ability(
                "compile bundles",
                not missing,
                f"missing: {', '.join(missing)}",
                "pip install 'repsimc[compile]'",
            ),
            _ability(
                "run bundles with ONNX Runtime",
                libraries["onnxruntime"] is not None,
                "onnxruntime is not installed",
                "pip install 'repsimc[onnxruntime]'",
            ),
            Ability(tensorrt, True)
            if trouble is None
            else Ability(tensorrt, False, trouble.message, trouble.hint),
            _ability(
                LABEL,
                libraries["tensorrt-rtx"] is not None,
                "TensorRT-RTX is not installed",
                "pip install 'repsimc[rtx]' (x86-64)",
            ),
        ),
    )


def doctor_grid(found: Diagnosis) -> tuple[Grid, ...]:
    """The diagnosis as tables: machine, libraries, abilities."""
    two = words("", "")
    rows = [(name, value) for name, value in found.machine.items()]
    if found.device is not None:
        gpu = found.device.gpu
        major, minor = gpu.capability
        rows += [
            ("GPU", f"{gpu.name}, sm_{major}{minor}, {gpu.multiprocessors} multiprocessors"),
            ("driver", gpu.driver),
            ("device key", found.device.key),
        ]
    libraries = [(name, value or "-") for name, value in found.libraries.items()]
    abilities = [
        (item.what, "yes" if item.works else "no", item.reason, item.hint)
        for item in found.abilities
    ]
    return (
        Grid("this machine", two, tuple(rows)),
        Grid("installed", two, tuple(libraries)),
        Grid(
            "what would work",
            words("", "", "because", "what to do"),
            tuple(abilities),
        ),
    )


def _ability(what: str, works: bool, reason: str, hint: str) -> Ability:
    return Ability(what, True) if works else Ability(what, False, reason, hint)


def _installed(distribution: str, module: str) -> str | None:
    """The version that is installed, '?' for a module without one, None where it is missing."""
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "?"
