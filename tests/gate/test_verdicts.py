"""What is told of a figure beside what it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repsimc.compiler.gate.baseline import ExactFigure, Shares
from repsimc.compiler.gate.verdicts import (
    IMPROVED,
    NOT_COMPARABLE,
    REGRESSED,
    SAME,
    TOO_FEW,
    TOO_NOISY,
    Verdict,
    judge_exact,
    judge_latency,
    judge_memory,
)


def exact(value: float, more: bool = False, slack: float = 0.0) -> ExactFigure:
    return ExactFigure("f", value, "B", more, slack)


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (exact(10), exact(10), SAME),
        (exact(10), exact(11), REGRESSED),
        (exact(10), exact(9), IMPROVED),
        (exact(0.9, True), exact(0.8, True), REGRESSED),
        (exact(0.8, True), exact(0.9, True), IMPROVED),
        (exact(0.5, slack=0.1), exact(0.55, slack=0.1), SAME),
        (exact(0.5, slack=0.1), exact(0.65, slack=0.1), REGRESSED),
        (exact(0.5), exact(math.nan), REGRESSED),
        (exact(math.nan), exact(0.5), IMPROVED),
        (exact(math.nan), exact(math.nan), SAME),
        (exact(0.5), exact(math.inf), REGRESSED),
        (None, exact(1), NOT_COMPARABLE),
        (exact(1), None, NOT_COMPARABLE),
    ],
)
def test_exact(before: ExactFigure | None, now: ExactFigure | None, verdict: str) -> None:
    assert judge_exact(before, now).verdict == verdict


MIB = 1 << 20


@pytest.mark.parametrize(
    ("before", "now", "comparable", "verdict"),
    [
        ([100, 100, 101], [100, 101, 101], True, SAME),
        ([100, 100, 101], [110, 111, 111], True, REGRESSED),
        ([110, 111, 111], [100, 100, 101], True, IMPROVED),
        ([100, 100, 101], [101, 102, 102], True, SAME),  # within two per cent
        ([90, 100, 120], [110, 125, 130], True, SAME),  # within what both scatter over
        ([100, 100, 101], [110, 111, 111], False, NOT_COMPARABLE),
        ([], [110, 111, 111], True, NOT_COMPARABLE),
        ([100], [], True, NOT_COMPARABLE),
    ],
)
def test_memory(before: list[int], now: list[int], comparable: bool, verdict: str) -> None:
    sized = ([MIB * value for value in each] for each in (before, now))
    assert judge_memory(*sized, comparable).verdict == verdict


def shares(
    factor: float, seed: int, spread: float = 0.01, n: int = 10, quiet: bool = True
) -> Shares:
    random = np.random.default_rng(seed)
    clock, used = (tuple((factor * random.lognormal(0, spread, n)).tolist()) for _ in range(2))
    return Shares(clock, used, quiet)


def latency(before: Shares | None, now: Shares, most: float = 0.05, same: bool = True) -> Verdict:
    return judge_latency(before, now, most, "fixed network", same)


@pytest.mark.parametrize("seed", range(10))
def test_latency(seed: int) -> None:
    before = shares(1, seed + 100)
    assert latency(before, shares(1, seed)).verdict == SAME
    assert latency(before, shares(1.1, seed)).verdict == REGRESSED
    assert latency(before, shares(0.9, seed)).verdict == IMPROVED
    assert latency(before, shares(1.1, seed), most=0.2).verdict == SAME
    # What a busy machine shows is no regression, however much slower it looks.
    assert latency(before, shares(1.5, seed, quiet=False)).verdict == TOO_NOISY
    assert latency(shares(1, seed, quiet=False), shares(1.5, seed)).verdict == TOO_NOISY
    assert latency(before, shares(1, seed, spread=0.3)).verdict in (TOO_NOISY, SAME)
    assert latency(before, shares(1, seed, n=5)).verdict == TOO_FEW
    assert latency(None, shares(1, seed)).verdict == NOT_COMPARABLE


def test_noise_as_large_as_the_limit_is_told() -> None:
    words = {latency(shares(1, s, 0.2), shares(1, s + 50, 0.2)).verdict for s in range(20)}
    assert TOO_NOISY in words and REGRESSED not in words


def test_slower_by_the_clock_alone_is_no_regression() -> None:
    now = shares(1.1, 1)
    waited = Shares(now.clock, shares(1.0, 2).processor, True)
    assert latency(shares(1, 3), waited).verdict == TOO_NOISY


def test_another_processor_has_more_room() -> None:
    before = shares(1, 1)
    found = latency(before, shares(1.15, 2), same=False)
    assert found.verdict == SAME and "another processor" in found.why
    assert latency(before, shares(1.4, 2), same=False).verdict == REGRESSED
