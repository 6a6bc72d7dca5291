"""Frames batch by batch as the program's inputs want them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repsimc.compiler.execution import feeds as module
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import (
    fit_feeds,
    held_out_feeds,
    input_specs,
    run_groups,
    run_on,
)
from repsimc.compiler.frames.calibration import Frames, InputSpec, load_frames
from repsimc.compiler.graph.program import Program
from tests.nets.networks import Array
from tests.programs import joined

NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[{n}, 3] x, float[{n}, 2] w) => (float[{n}, 5] y) {{ y = Concat<axis=1> (x, w) }}"""


def floats(width: int, count: int = 100, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


X, W = floats(3), floats(2, seed=1)


def program(**batches: int | str) -> Program:
    tied = [[(name, "x") for name in batches]] if len(set(batches.values())) == 1 else []
    return joined(tied, **{name: NET.format(n=n) for name, n in batches.items()})


def frames(given: dict[str, Array] | None = None, **batches: int | str) -> Frames:
    specs: dict[str, list[InputSpec]] = {
        name: [
            InputSpec("x", np.dtype(np.float32), (n, 3)),
            InputSpec("w", np.dtype(np.float32), (n, 2)),
        ]
        for name, n in batches.items()
    }
    return load_frames(given or {"x": X, "w": W}, specs)


def gathered(batches: list[dict[str, Array]], name: str) -> Array:
    return np.concatenate([batch[name] for batch in batches])


def test_batches_hold_the_rows_of_each_part_in_order() -> None:
    both = frames(a="N", b="N")
    made = program(a="N", b="N")
    for feeds, rows in (
        (fit_feeds(made, both, "b"), both.fit_rows("b")),
        (held_out_feeds(made, both, "b"), both.held_out_rows("b")),
    ):
        assert feeds.count == len(rows)
        batches = list(feeds.batches(["x", "a/w", "b/w"]))
        np.testing.assert_array_equal(gathered(batches, "x"), X[rows])
        np.testing.assert_array_equal(gathered(batches, "b/w"), W[rows])
        assert all(set(batch) == {"x", "a/w", "b/w"} for batch in batches)


def test_only_what_is_asked_for_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    both = frames(a="N", b="N")
    asked: list[str] = []
    feed = Frames.feed
    monkeypatch.setattr(
        Frames, "feed", lambda self, name, rows: asked.append(name) or feed(self, name, rows)
    )
    (batch, *_) = fit_feeds(program(a="N", b="N"), both, "a").batches(["b/w"])
    assert set(batch) == {"b/w"} and set(asked) == {"b"}


def test_a_limit_takes_the_first_rows() -> None:
    one = frames(a="N")
    limited = fit_feeds(program(a="N"), one, "a", 20)
    np.testing.assert_array_equal(limited.rows, one.fit_rows("a")[:20])
    assert fit_feeds(program(a="N"), one, "a", 1000).count == len(one.fit_rows("a"))


@pytest.mark.parametrize(("limit", "count"), [(20, 16), (8, 8), (3, 8), (1000, 72)])
def test_a_limit_keeps_whole_batches_of_a_fixed_size(limit: int, count: int) -> None:
    fixed = frames(a=8)
    feeds = fit_feeds(program(a=8), fixed, "a", limit)
    assert (feeds.batch, feeds.count) == (8, count)
    assert {len(batch["x"]) for batch in feeds.batches(["x"])} == {8}


def test_batches_shrink_with_the_size_of_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    both = frames(a="N", b="N")
    made = program(a="N", b="N")
    frame_nbytes = 4 * (3 + 2 + 2)  # what is tied counts once
    monkeypatch.setattr(module, "BATCH_NBYTES", 10 * frame_nbytes)
    assert fit_feeds(made, both, "a").batch == 10
    monkeypatch.setattr(module, "BATCH_NBYTES", 1)
    assert fit_feeds(made, both, "a").batch == 1
    monkeypatch.setattr(module, "BATCH_NBYTES", 1 << 30)
    assert fit_feeds(made, both, "a").batch == module.BATCH


@pytest.mark.parametrize(
    ("batches", "groups"),
    [
        ({"a": "N", "b": "N"}, (("a", "b"),)),
        ({"a": 4, "b": 4, "c": "N"}, (("a", "b", "c"),)),
        ({"a": "N", "b": 4, "c": 2, "d": 4}, (("a", "b", "d"), ("c",))),
        ({"a": 1, "b": 2, "c": 3}, (("a",), ("b",), ("c",))),
    ],
)
def test_models_run_together_in_one_batch_size(batches: Any, groups: Any) -> None:
    found = frames(**batches)
    assert run_groups(found) == groups
    made = program(**batches)
    for group in groups:
        sizes = [n for name in group if isinstance(n := batches[name], int)]
        for name in group:
            feeds = fit_feeds(made, found, name)
            assert feeds.models == group
            assert not sizes or feeds.batch == sizes[0]


def test_streams_stay_apart() -> None:
    given = {"a/x": X, "a/w": W, "b/x": floats(3, 60), "b/w": floats(2, 60)}
    found = frames(given, a="N", b="N")
    assert run_groups(found) == (("a",), ("b",))
    made = joined(a=NET.format(n="N"), b=NET.format(n="N"))
    (batch, *_) = held_out_feeds(made, found, "b").batches(["b/x"])
    assert set(batch) == {"b/x"}
    assert held_out_feeds(made, found, "b").count == 15


def test_frames_of_one_size_run_together() -> None:
    net = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, T] x) => (float[N, T] y) { y = Relu (x) }"""
    pieces = [floats(3, 30), floats(5, 40, 1), floats(3, 30, 2)]
    specs = {"a": [InputSpec("x", np.dtype(np.float32), ("N", "T"))]}
    found = load_frames(pieces, specs)
    feeds = fit_feeds(joined([], a=net), found, "a")
    assert feeds.mixed and feeds.count == 75
    batches = list(feeds.batches(["a/x"]))
    assert [len(batch["a/x"]) for batch in batches] == list(feeds.counts)
    assert len({batch["a/x"].shape[1] for batch in batches}) == 2 == len(batches)
    for rows, batch in zip(np.split(feeds.ordered, np.cumsum(feeds.counts)[:-1]), batches):
        for row, frame in zip(rows, batch["a/x"]):
            piece = 0 if row < 30 else 1 if row < 70 else 2
            np.testing.assert_array_equal(frame, pieces[piece][row - (0, 30, 70)[piece]])


def test_states_are_counted_on_their_own_axis() -> None:
    net = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 3] x, float[2, batch, 3] h, int64 k)
      => (float[batch, 3] y, float[2, batch, 3] hn)
    { a = Cast<to=1> (k) b = Mul (x, a) hn = Add (b, h) y = Relu (b) }"""
    made = joined([], a=net)
    specs = input_specs(made)
    assert [(spec.frame_axis, spec.state) for spec in specs] == [
        (0, False),
        (1, True),
        (None, False),
    ]
    found = load_frames({"x": X, "k": np.repeat([2, 3], 50)}, {"a": specs})
    feeds = held_out_feeds(made, found, "a")
    names = ["a/x", "a/h", "a/k"]
    for count, batch in zip(feeds.counts, feeds.batches(names)):
        assert [batch[name].shape for name in names] == [(count, 3), (2, count, 3), ()]
    assert feeds.mixed
    segment = Executable(made, None, ["a/hn"])
    spans = [(span, arrays["a/hn"].shape) for span, arrays in run_on(feeds, segment)]
    assert [(2, span.stop - span.start, 3) for span, _ in spans] == [shape for _, shape in spans]
    assert spans[-1][0].stop == 25
