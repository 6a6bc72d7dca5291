"""One pass for several measurements: each sees its own values on its own first frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from repsimc.compiler.execution.observing import observe
from tests.nets.networks import Array, ArrayFrames, Net
from tests.programs import program_of


class Watcher:
    """Keeps what it was shown, until it has seen `enough` frames."""

    def __init__(self, name: str, limit: int | None = None, enough: int = 10**6) -> None:
        self.limit = limit
        self.shown: list[Array] = []
        self.frames = 0
        self.finished = False
        self._name, self._enough = name, enough

    @property
    def values(self) -> Sequence[str]:
        return [self._name] if sum(map(len, self.shown)) < self._enough else []

    def begin(self, frames: int) -> None:
        self.frames = frames

    def take(self, batch: slice, arrays: Mapping[str, Array]) -> None:
        assert list(arrays) == [self._name] and len(arrays[self._name]) == batch.stop - batch.start
        self.shown.append(arrays[self._name])

    def finish(self) -> None:
        self.finished = True


def frames_of(limit: int | None) -> ArrayFrames:
    x = np.arange(60, dtype=np.float32).reshape(60, 1)
    return ArrayFrames({"a/x": x[:limit]}, batch=8)


def test_every_observer_sees_the_first_frames_that_it_asks_for() -> None:
    net = Net()
    net.node("Neg", net.node("Relu", "x", out="r"), out="y")
    program = program_of(net.model(x=("N", 1)))
    few, enough, all_of_them = Watcher("a/r", 13), Watcher("a/r", None, 20), Watcher("a/y")
    observe(program, frames_of, [few, enough, all_of_them])
    assert (few.frames, enough.frames, all_of_them.frames) == (13, 60, 60)
    wanted = np.arange(60, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(np.concatenate(few.shown), wanted[:13])
    np.testing.assert_array_equal(np.concatenate(enough.shown), wanted[:24])  # whole batches
    np.testing.assert_array_equal(np.concatenate(all_of_them.shown), -wanted)
    assert few.finished and enough.finished and all_of_them.finished


@pytest.mark.parametrize("count", [0, 1])
def test_a_pass_ends_when_all_have_seen_enough(count: int) -> None:
    net = Net()
    net.node("Relu", "x", out="y")
    program = program_of(net.model(x=("N", 1)))
    watchers = [Watcher("a/y", None, 8)][:count]
    observe(program, frames_of, watchers)
    assert [len(watcher.shown) for watcher in watchers] == [1] * count
