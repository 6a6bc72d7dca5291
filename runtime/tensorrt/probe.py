"""Which GPU and which TensorRT are here: asked in a child process, since libraries may crash."""

from __future__ import annotations

import importlib.util
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendError
from ..json_values import JsonValue
from .api import TensorRT
from .child import run_child
from .cuda import Cuda, Gpu, open_library
from .device_memory import MEMINFO, meminfo_nbytes, text_of

_TEGRA = Path("/etc/nv_tegra_release")
_BOARD = Path("/proc/device-tree/model")
_UNSAFE = re.compile(r"[^a-z0-9.]+")


@dataclass(frozen=True)
class Device(JsonValue):
    """A GPU with a TensorRT that can use it.

    `available_nbytes` is what a build may take: on boards whose GPU shares the processor's memory
    what the system can free, else the GPU's free memory. `l4t` and `board` are '' off Jetson.
    """

    gpu: Gpu
    module: str
    version: str
    wants_types: bool
    has_flags: bool
    fast_fp16: bool
    fast_int8: bool
    available_nbytes: int
    l4t: str = ""
    board: str = ""

    @property
    def key(self) -> str:
        """What an engine must match to be loaded: a name for a folder.

        Boards of one architecture differ in multiprocessors, and a plan tuned for twelve is not
        one for eight.
        """
        name = _UNSAFE.sub("-", self.gpu.name.lower()).strip("-") or "gpu"
        major, minor = self.gpu.capability
        chip = f"{name}-sm{major}{minor}-{self.gpu.multiprocessors}mp"
        return f"{chip}-{self.module.replace('_', '-')}-{self.version}"

    def to_json(self) -> dict[str, Any]:
        """The device as JSON values."""
        return {**super().to_json(), "key": self.key}


def probe(module: str = "tensorrt") -> Device:
    """The device here. Raises BackendError (exit code 6) without a GPU or TensorRT."""
    open_library()  # without a driver there is nothing to ask a child for
    if importlib.util.find_spec(module) is None:
        raise BackendError(
            f"the Python module {module} is not installed",
            "JetPack brings tensorrt for its own Python: make the virtual environment with "
            "--system-site-packages",
        )
    found = run_child("probe", {"module": module})
    del found["key"]
    gpu: dict[str, Any] = found.pop("gpu")
    major, minor = gpu.pop("capability")
    return Device(gpu=Gpu(capability=(major, minor), **gpu), **found)


def probe_here(job: dict[str, Any]) -> dict[str, Any]:
    """What the child finds."""
    cuda = Cuda()
    gpu = cuda.gpu()
    found = TensorRT(job["module"], lambda severity, message: None)
    return Device(
        gpu=gpu,
        module=job["module"],
        version=found.version,
        wants_types=found.wants_types,
        has_flags=found.has_flags,
        fast_fp16=found.fast("fp16"),
        fast_int8=found.fast("int8"),
        available_nbytes=memory_available() if gpu.integrated else gpu.free_nbytes,
        l4t=l4t_release(),
        board=board_name(),
    ).to_json()


def memory_available() -> int:
    """Bytes the system can give without swapping (MemAvailable); 0 where nobody tells."""
    return meminfo_nbytes(text_of(MEMINFO), "MemAvailable") or 0


def l4t_release() -> str:
    """The release of Linux for Tegra, such as '36.4.3'; '' on other systems."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text_of(_TEGRA))
    return f"{match.group(1)}.{match.group(2)}" if match else ""


def board_name() -> str:
    """What the board calls itself, such as 'NVIDIA Jetson Orin Nano Developer Kit'; else ''."""
    return text_of(_BOARD).strip("\0 \n") if platform.machine() == "aarch64" else ""
