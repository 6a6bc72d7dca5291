"""Memory of a process and of the system on a board whose GPU shares it, and what tools print of it.

On Orin the driver accounts GPU memory in nvmap, on Thor and discrete GPUs in nvidia-smi. Pages
that the GPU holds are in no process's PSS, so both are read, and MemAvailable besides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..json_values import JsonValue

_NVMAP = Path("/sys/kernel/debug/nvmap/iovmm/clients")  # readable by root only
MEMINFO = Path("/proc/meminfo")
_SMAPS = Path("/proc/self/smaps_rollup")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Reading(JsonValue):
    """Bytes at one moment; None where the system does not tell.

    `available` is MemAvailable, `pss` the process's share of pages, `gpu` what the GPU driver
    counts for the process (`source` says who told), `cuda_free` what cudaMemGetInfo calls free.
    """

    available_nbytes: int | None
    pss_nbytes: int | None
    gpu_nbytes: int | None
    cuda_free_nbytes: int | None
    source: str


def read_memory(cuda_free_nbytes: int | None = None) -> Reading:
    """The memory of this process and system now."""
    gpu, source = gpu_memory(os.getpid())
    return Reading(
        available_nbytes=meminfo_nbytes(text_of(MEMINFO), "MemAvailable"),
        pss_nbytes=meminfo_nbytes(text_of(_SMAPS), "Pss"),
        gpu_nbytes=gpu,
        cuda_free_nbytes=cuda_free_nbytes,
        source=source,
    )


def gpu_memory(pid: int) -> tuple[int | None, str]:
    """(bytes that the GPU driver counts for a process, who told)."""
    clients = parse_nvmap(text_of(_NVMAP))
    if clients.get(pid):
        return clients[pid], "nvmap"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
        told = parse_nvidia_smi(_said(command))
        if pid in told:
            return told[pid], "nvidia-smi"
    # Of all processes: right only as a difference on a quiet board.
    used = meminfo_nbytes(text_of(MEMINFO), "NvMapMemUsed")
    return used, "NvMapMemUsed of all processes" if used is not None else "nobody tells"


def meminfo_nbytes(text: str, key: str) -> int | None:
    """A field of /proc/meminfo or smaps_rollup ('MemAvailable:   123 kB'), in bytes."""
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def parse_nvmap(text: str) -> dict[int, int]:
    """Bytes by process id in nvmap's list of clients: CLIENT PROCESS PID SIZE."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\S+)\s+(.+?)\s+(\d+)\s+(\d+)([KMG]?)\s*", line)
        if match and match.group(1) != "total":
            pid, size, unit = int(match.group(3)), int(match.group(4)), match.group(5)
            found[pid] = found.get(pid, 0) + size * _UNITS[unit]
    return found


def parse_nvidia_smi(text: str) -> dict[int, int]:
    """Bytes by process id in 'pid, used_memory' lines ('1234, 512 MiB')."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*MiB\s*", line)
        if match:
            pid = int(match.group(1))
            found[pid] = found.get(pid, 0) + int(match.group(2)) * 2**20
    return found


def parse_tegrastats(text: str) -> list[int]:
    """Bytes of RAM in use in every line of tegrastats that tells them.

    Its other fields change with every release.
    """
    return [int(used) * 2**20 for used in re.findall(r"\bRAM (\d+)/\d+MB", text)]


def text_of(path: Path) -> str:
    """What a file of the system says; '' where there is none that can be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
