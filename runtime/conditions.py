"""What the machine did besides while something was measured, as far as the system tells."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .json_values import JsonValue

_PROCESSORS = Path("/sys/devices/system/cpu")
_SCHEDULE = Path("/proc/self/schedstat")
# Of the time measured; a thread alone on its core waits for less than a hundredth of it.
_QUIET = 0.1


@dataclass(frozen=True)
class Conditions(JsonValue):
    """The machine beside a measurement; None is what can't be read here.

    `load` is the mean number of programs that wanted to run in the last minute, before and after.
    `waited` is the share of the time in which the measured thread could run and no core was free.
    `frequencies_hz` are the lowest and the highest of all cores at the end, `governor` who chooses.
    """

    cores: int
    load: tuple[float, float] | None
    waited: float | None
    frequencies_hz: tuple[int, int] | None
    governor: str | None

    @staticmethod
    def of(told: dict[str, Any]) -> Conditions:
        """The conditions that a measured process told as JSON."""
        load, frequencies = told["load"], told["frequencies_hz"]
        return Conditions(
            told["cores"],
            None if load is None else (load[0], load[1]),
            told["waited"],
            None if frequencies is None else (frequencies[0], frequencies[1]),
            told["governor"],
        )

    @property
    def quiet(self) -> bool:
        """Whether the thread ran when it wanted to; True too where nothing tells."""
        return self.waited is None or self.waited <= _QUIET

    def __str__(self) -> str:
        parts = [f"{self.cores} cores"]
        if self.load is not None:
            parts.append(f"load {self.load[0]:.1f} before and {self.load[1]:.1f} after")
        if self.waited is not None:
            parts.append(f"waited for a core {100 * self.waited:.0f} % of the time")
        if self.frequencies_hz is not None:
            low, high = (f"{hz / 1e9:.2f}" for hz in self.frequencies_hz)
            parts.append(f"{low if low == high else f'{low} to {high}'} GHz")
        if self.governor is not None:
            parts.append(f"governor {self.governor}")
        return ", ".join(parts)


@dataclass
class Watch:
    """Looks at the machine when it is made, and again when it is asked what it `saw`."""

    _load: float | None = field(default_factory=lambda: _load())
    _waited: float | None = field(default_factory=lambda: _waited_seconds())
    _start: float = field(default_factory=time.perf_counter)

    def saw(self) -> Conditions:
        """The conditions from then to now."""
        before, after = self._load, _load()
        share = None
        if self._waited is not None and (waited := _waited_seconds()) is not None:
            share = (waited - self._waited) / max(time.perf_counter() - self._start, 1e-9)
        found = [hz for path in _of_every_core("scaling_cur_freq") if (hz := _number(path))]
        governors = {_text(path) for path in _of_every_core("scaling_governor")} - {None}
        return Conditions(
            os.cpu_count() or 1,
            None if before is None or after is None else (before, after),
            share,
            (int(min(found) * 1000), int(max(found) * 1000)) if found else None,
            ", ".join(sorted(str(each) for each in governors)) or None,
        )


def _load() -> float | None:
    with contextlib.suppress(OSError, AttributeError):  # Windows has none
        return os.getloadavg()[0]
    return None


def _waited_seconds() -> float | None:
    """How long this process's first thread has waited for a core since it began (Linux)."""
    parts = (_text(_SCHEDULE) or "").split()
    return int(parts[1]) / 1e9 if len(parts) > 1 and parts[1].isdigit() else None


def _of_every_core(name: str) -> list[Path]:
    return sorted(_PROCESSORS.glob(f"cpu[0-9]*/cpufreq/{name}"))


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text is not None and text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
