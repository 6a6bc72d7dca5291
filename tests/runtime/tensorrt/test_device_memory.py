"""Parsers of what tegrastats, nvmap and nvidia-smi print: synthetic/ is made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.runtime.tensorrt import device_memory
from repsimc.runtime.tensorrt.device_memory import (
    gpu_memory,
    parse_nvidia_smi,
    parse_nvmap,
    parse_tegrastats,
    read_memory,
)

SYNTHETIC = Path(__file__).parent / "synthetic"
MIB = 2**20


def text(name: str) -> str:
    return (SYNTHETIC / name).read_text()


def test_tegrastats_tells_ram_whatever_else_it_prints() -> None:
    found = parse_tegrastats(text("tegrastats.txt") + "no memory in this line\n")
    assert [nbytes // MIB for nbytes in found] == [4011, 4300, 2100]


def test_nvmap_adds_up_what_a_process_holds() -> None:
    assert parse_nvmap(text("nvmap.txt")) == {1402: 20 * MIB, 2718: 641 * MIB}
    assert parse_nvmap("") == {}


def test_nvidia_smi_lines() -> None:
    assert parse_nvidia_smi("2718, 512 MiB\n99, [N/A]\n2718, 1 MiB\n") == {2718: 513 * MIB}


def test_the_source_is_nvmap_where_it_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device_memory, "_NVMAP", SYNTHETIC / "nvmap.txt")
    assert gpu_memory(2718) == (641 * MIB, "nvmap")
    (tmp_path / "meminfo").write_text("MemAvailable:    100 kB\nNvMapMemUsed:    7 kB\n")
    monkeypatch.setattr(device_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device_memory.shutil, "which", lambda _: None)
    assert gpu_memory(1) == (7 * 1024, "NvMapMemUsed of all processes")
    (tmp_path / "meminfo").write_text("MemAvailable:    100 kB\n")
    assert gpu_memory(1) == (None, "nobody tells")


def test_memory_of_this_process_is_read() -> None:
    found = read_memory(5)
    assert found.cuda_free_nbytes == 5
    assert found.to_json()["source"] == found.source
