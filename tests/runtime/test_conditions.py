"""What the machine did besides: read where the system tells, None elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repsimc.runtime import conditions as module
from repsimc.runtime.conditions import Conditions, Watch


def system(folder: Path, schedule: str, frequencies: list[str]) -> None:
    (folder / "schedstat").write_text(schedule)
    for number, frequency in enumerate(frequencies):
        core = folder / f"cpu{number}" / "cpufreq"
        core.mkdir(parents=True, exist_ok=True)
        (core / "scaling_cur_freq").write_text(frequency)
        (core / "scaling_governor").write_text("powersave\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_SCHEDULE", tmp_path / "schedstat")
    monkeypatch.setattr(module, "_PROCESSORS", tmp_path)
    return tmp_path


def test_what_the_system_tells(folder: Path) -> None:
    system(folder, "100 0 3", ["1200000\n", "2400000\n"])
    watch = Watch()
    system(folder, "100 3600000000000 3", ["1200000\n", "2400000\n"])
    found = watch.saw()
    assert found.frequencies_hz == (1_200_000_000, 2_400_000_000)
    assert found.governor == "powersave"
    assert found.waited is not None and found.waited > 1 and not found.quiet
    assert "1.20 to 2.40 GHz, governor powersave" in str(found)


def test_a_system_that_tells_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "getloadavg", lambda: (_ for _ in ()).throw(OSError()))
    found = Watch().saw()
    assert (found.load, found.waited, found.frequencies_hz, found.governor) == (None,) * 4
    assert found.quiet and str(found) == f"{found.cores} cores"


def test_words() -> None:
    said = str(Conditions(2, (0.5, 8.1), 0.73, (2_000_000_000, 2_000_000_000), None))
    assert said == (
        "2 cores, load 0.5 before and 8.1 after, waited for a core 73 % of the time, 2.00 GHz"
    )


def test_what_a_process_tells_is_what_it_saw() -> None:
    for found in (
        Conditions(2, (0.5, 8.1), 0.73, (1, 2), "schedutil"),
        Conditions(2, None, None, None, None),
    ):
        assert Conditions.of(json.loads(json.dumps(found.to_json()))) == found
