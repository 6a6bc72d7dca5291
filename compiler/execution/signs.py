"""Statistics of one layer: how its neurons switch, and how many dimensions its frames fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.arrays import Array, Float64

# The ratios of the largest share are left out of the fit, as its authors do: they are outliers.
_TWO_NN_KEPT = 0.9


@dataclass
class SignCounts:
    """How often each channel is positive, zero and negative, added up while rows stream by."""

    positive: Float64
    negative: Float64
    rows: int = 0

    @staticmethod
    def empty(channels: int) -> SignCounts:
        """Counts of no rows."""
        return SignCounts(np.zeros(channels), np.zeros(channels))

    def add(self, rows: Array) -> None:
        """Take in rows [n, channels]."""
        # Products with ones: counts along axis 0 take numpy five times as long. Whole numbers are
        # exact in float32 up to 2^24, more than a batch has.
        ones = np.ones(len(rows), np.float32)
        self.positive += ones @ (rows > 0).astype(np.float32)
        self.negative += ones @ (rows < 0).astype(np.float32)
        self.rows += len(rows)

    def entropy(self) -> float:
        """Mean over channels of the entropy of on (> 0) or off, in bits: 0 always one, 1 half.

        NEPENTHE (arXiv 2404.16890), equations 2 to 4. A layer near 0 is nearly linear.
        """
        return _entropy([self._share(self.positive), 1 - self._share(self.positive)])

    def sign_entropy(self) -> float:
        """The same over three states, positive, zero and negative, in bits: 0 to log2(3).

        As NEPENTHE, with zero as a state of its own; EASIER (arXiv 2404.18949) ranks layers so.
        """
        up, down = self._share(self.positive), self._share(self.negative)
        return _entropy([up, down, np.maximum(1 - up - down, 0)])

    def shares(self) -> tuple[float, float]:
        """Shares of the numbers that are positive, and negative."""
        return float(self._share(self.positive).mean()), float(self._share(self.negative).mean())

    def _share(self, counts: Float64) -> Float64:
        return counts / self.rows if self.rows else np.full_like(counts, np.nan)


def _entropy(states: list[Float64]) -> float:
    total = np.zeros_like(states[0])
    for share in states:
        total -= np.where(share > 0, share * np.log2(np.where(share > 0, share, 1.0)), 0.0)
    return float(total.mean()) if not any(np.isnan(s).any() for s in states) else float("nan")


def two_nn(x: Array) -> float:
    """The intrinsic dimension of rows x [n, c] from the ratio of two nearest neighbours' distances.

    Facco et al. 2017 (TwoNN): -log(1 - F(mu)) is a line through 0 in log(mu), mu = r2 / r1, with
    the dimension for slope; the largest tenth of the ratios is left out, and rows that have an
    equal. nan with fewer than 10 others.
    """
    rows = x.astype(np.float64)
    if len(rows) < 10 or not np.isfinite(rows).all():
        return float("nan")
    rows = rows - rows.mean(axis=0)
    power = np.square(rows).sum(axis=1)
    squared = power[:, None] + power[None, :] - 2 * rows @ rows.T
    np.fill_diagonal(squared, np.inf)
    first = squared.argmin(axis=1)
    index = np.arange(len(rows))
    shortest = squared[index, first]
    squared[index, first] = np.inf
    nearest = np.sqrt(np.maximum(np.stack([shortest, squared.min(axis=1)], axis=1), 0))
    # Below this the difference of squares above is rounding.
    known = nearest[nearest[:, 0] > 1e-7 * np.sqrt(power.max())]
    if len(known) < 10:
        return float("nan")
    ratios = np.sort(known[:, 1] / known[:, 0])
    kept = int(len(ratios) * _TWO_NN_KEPT)
    log_mu = np.log(ratios[:kept])
    empirical = -np.log(1 - np.arange(1, kept + 1) / len(ratios))
    denominator = float(log_mu @ log_mu)
    return float(log_mu @ empirical) / denominator if denominator > 0 else float("nan")
