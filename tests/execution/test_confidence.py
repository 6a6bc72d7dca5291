"""Bounds against exact tails, published quantiles, and how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repsimc.compiler.execution.confidence import (
    agreement_bound,
    beta_cdf,
    t_quantile,
    trials_needed,
    variance_bound,
)


def tail(p: float, least: int, count: int) -> float:
    """P(X >= least) of a binomial."""
    return sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(least, count + 1))


@pytest.mark.parametrize(("hits", "count"), [(1, 7), (5, 10), (18, 20), (295, 300)])
def test_the_bound_is_where_the_exact_tail_is_five_percent(hits: int, count: int) -> None:
    bound = agreement_bound(hits / count, count, 0.95)
    assert tail(bound, hits, count) == pytest.approx(0.05, abs=1e-9)


def test_without_a_miss() -> None:
    assert agreement_bound(1, 80, 0.95) == pytest.approx(0.05 ** (1 / 80))
    assert agreement_bound(1, 225, 0.95) == pytest.approx(0.98677, abs=1e-5)
    assert agreement_bound(1, 298, 0.95) < 0.99 <= agreement_bound(1, 299, 0.95)
    assert trials_needed(0.99, 0.95) == 299
    assert (trials_needed(0.5, 0.75), trials_needed(0, 0.95), trials_needed(1, 0.95)) == (
        2,
        0,
        None,
    )


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (1.0, 0)])
def test_nothing_proves_nothing(share: float, count: int) -> None:
    assert agreement_bound(share, count, 0.95) == 0


def test_beta_is_the_binomial_tail() -> None:
    for p, least, count in ((0.3, 2, 7), (0.9, 18, 20), (0.5, 1, 1)):
        assert beta_cdf(p, least, count - least + 1) == pytest.approx(tail(p, least, count))
    assert (beta_cdf(-1, 2, 2), beta_cdf(2, 2, 2)) == (0, 1)


def test_quantiles_of_student_are_those_of_the_tables() -> None:
    found = [t_quantile(p, n) for p, n in ((0.95, 10), (0.975, 1), (0.99, 4), (0.95, 100_000))]
    assert found == pytest.approx([1.812461, 12.7062, 3.746947, 1.644869], rel=1e-4)


def test_a_bound_of_explained_variance_holds_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        totals = random.gamma(4, 5, 60)
        errors = random.gamma(2, 0.5, 60)  # of a true share of 1 / 20
        held += variance_bound(errors, totals, 0.9) <= 0.95
    assert 0.86 <= held / 400 <= 0.95


def test_one_group_proves_no_explained_variance() -> None:
    one = np.ones(1)
    assert variance_bound(0.1 * one, one, 0.95) == 0
    assert variance_bound(3 * one, one, 0.95) == -2
    assert variance_bound(np.zeros(0), np.zeros(0), 0.95) == 0
