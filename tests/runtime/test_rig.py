"""Sides in a fresh process beside the yardstick."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repsimc.runtime.rig import rig
from tests.runtime.bundles import bundled, tied_pair


def test_the_yardstick_runs_in_turns_with_the_bundle(tmp_path: Path) -> None:
    with rig(bundled(tmp_path, tied_pair()), threads=1) as found:
        assert not found.has_apart and any("original of model" in note for note in found.notes)
        plain = found.timed(3, 0)
        beside = found.timed(4, 1, yardstick=True)
    assert [len(side.seconds) for side in plain.samples] == [3]
    assert [len(side.seconds) for side in beside.samples] == [4, 4]
    # Two operators on three floats beside two convolutions.
    assert beside.ratio(0, 1).value < 1
    assert beside.ratio(0, 1).value == pytest.approx(1 / beside.ratio(1, 0).value)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_memory_of_every_fresh_process(tmp_path: Path) -> None:
    with rig(bundled(tmp_path, tied_pair()), threads=1) as found:
        (usages,) = found.memories(2)
    assert len(usages) == 2 and all(one.uss_nbytes < 2**24 for one in usages)
