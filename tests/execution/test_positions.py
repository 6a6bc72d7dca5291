"""Sums per position over frames of one size and of several."""

from __future__ import annotations

import numpy as np
import pytest

from repsimc.compiler.execution.fidelity import VARIANCE, FidelityMeter
from repsimc.compiler.execution.positions import PositionSums, frames_first
from tests.nets.networks import Array


def drawn(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).normal(3, 1, shape)


def test_sums_of_one_size_are_per_position() -> None:
    x, sums = drawn(7, 3, 4), PositionSums()
    sums.add(x[:5])
    sums.add(x[5:])
    assert sums.count == 7
    assert sums.power == pytest.approx(7 * np.square(x.mean(axis=0)).sum())


@pytest.mark.parametrize("turned", [False, True])
def test_axes_in_which_frames_differ_are_summed_over(turned: bool) -> None:
    parts = [drawn(2, 3, 4, 5), drawn(3, 3, 6, 5), drawn(1, 3, 4, 5)]
    sums = PositionSums()
    for part in parts[::-1] if turned else parts:
        sums.add(part)
    rows = np.concatenate([part.transpose(0, 2, 1, 3).reshape(-1, 3, 5) for part in parts])
    assert sums.count == len(rows)
    assert sums.power == pytest.approx(len(rows) * np.square(rows.mean(axis=0)).sum())


def test_frames_of_other_ranks_have_one_mean() -> None:
    parts, sums = [drawn(2, 3), drawn(2, 3, 4)], PositionSums()
    for part in parts:
        sums.add(part)
    every = np.concatenate([part.reshape(-1) for part in parts])
    assert sums.power == pytest.approx(every.size * every.mean() ** 2)


def test_explained_variance_of_frames_of_several_sizes() -> None:
    meter, pairs = FidelityMeter(VARIANCE), []
    for height in (4, 6, 4):
        x = drawn(3, 2, height, 5)
        pairs.append((x, x + 0.1 * drawn(3, 2, height, 5)))
        meter.update(*pairs[-1])
    rows = [
        np.concatenate([a.transpose(0, 2, 1, 3).reshape(-1, 2, 5) for a in some])
        for some in zip(*pairs)
    ]
    lost = np.square(rows[1] - rows[0]).sum() / np.square(rows[0] - rows[0].mean(axis=0)).sum()
    assert meter.value == pytest.approx(1 - lost)


def test_the_axis_of_frames_comes_first_where_it_can_be_told() -> None:
    state = drawn(2, 5, 8)
    assert [a.shape for a in frames_first(5, state, state)] == [(5, 2, 8)] * 2
    assert frames_first(2, state)[0] is state
    assert frames_first(8, drawn(5, 8, 8))[0].shape == (5, 8, 8)
    assert frames_first(1, np.float32(3) * np.ones(()))[0].shape == ()
