"""Memory of a process and of the system on a board whose GPU shares it, and what tools print of it.

On Orin the driver accounts GPU memory in nvmap, on Thor and discrete GPUs in nvidia-smi. Pages
that the GPU holds are in no process's PSS, so both are read, and MemAvailable besides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NVMAP = Path("/sys/kernel/debug/nvmap/iovmm/clients")  # readable by root only
MEMINFO = Path("/proc/meminfo")
_SMAPS = Path("/proc/self/smaps_rollup")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Reading:
    """Bytes at one moment; None where the system does not tell.

    `available` is MemAvailable, `pss` the process's share of pages, `gpu` what the GPU driver
    counts for the process (`source` says who told), `cuda_free` what cudaMemGetInfo calls free.
    """

    available_nbytes: int | None
    pss_nbytes: int | None
    gpu_nbytes: int | None
    cuda_free_nbytes: int | None
    source: str

    def to_json(self) -> dict[str, Any]:
        """The reading as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Tegrastats:
    """Memory in one line of tegrastats, in bytes: its other fields change with every release."""

    ram_nbytes: int
    ram_total_nbytes: int
    swap_nbytes: int | None


@dataclass(frozen=True)
class TrtexecReport:
    """What trtexec printed: seconds and bytes, None where the version prints no such line.

    From 11 on trtexec measures with CUDA graphs and without copies unless told otherwise, so its
    latencies are no match for those of 8.6 and 10.3.
    """

    passed: bool
    throughput_qps: float | None
    latency_median_seconds: float | None
    latency_p99_seconds: float | None
    gpu_median_seconds: float | None
    engine_nbytes: int | None
    context_nbytes: int | None
    build_seconds: float | None


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


def parse_tegrastats(text: str) -> list[Tegrastats]:
    """The memory in every line of tegrastats that tells it."""
    found: list[Tegrastats] = []
    for line in text.splitlines():
        ram = re.search(r"\bRAM (\d+)/(\d+)MB", line)
        if ram:
            swap = re.search(r"\bSWAP (\d+)/\d+MB", line)
            found.append(
                Tegrastats(
                    int(ram.group(1)) * 2**20,
                    int(ram.group(2)) * 2**20,
                    int(swap.group(1)) * 2**20 if swap else None,
                )
            )
    return found


def parse_trtexec(lines: Iterable[str]) -> TrtexecReport:
    """What trtexec printed, by the lines that 8.6, 10.3 and 11.1 have in common or alone."""
    text = "\n".join(lines)

    def number(pattern: str, factor: float) -> float | None:
        match = re.search(pattern, text)
        return float(match.group(1)) * factor if match else None

    def nbytes(pattern: str) -> int | None:
        found = number(pattern, 2**20)
        return None if found is None else int(found)

    latency = r"(?<!H2D )(?<!D2H )\bLatency: min = .*?"
    return TrtexecReport(
        passed="&&&& PASSED" in text,
        throughput_qps=number(r"Throughput: ([\d.]+) qps", 1),
        latency_median_seconds=number(rf"{latency}median = ([\d.]+) ms", 1e-3),
        latency_p99_seconds=number(rf"{latency}percentile\(99%\) = ([\d.]+) ms", 1e-3),
        gpu_median_seconds=number(r"GPU Compute Time: min = .*?median = ([\d.]+) ms", 1e-3),
        engine_nbytes=nbytes(r"Created engine with size: ([\d.]+) MiB"),
        context_nbytes=nbytes(r"Created execution context with device memory size: ([\d.]+) MiB"),
        build_seconds=number(r"Engine built in ([\d.]+) sec", 1),
    )


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
