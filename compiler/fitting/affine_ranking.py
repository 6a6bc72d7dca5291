"""Which donors give a value by an affine map, on rows that the map was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..execution.samples import Samples
from ..graph.arrays import Float32, Float64

# Share of the rows that the affine maps are fitted on; the rest judge them.
_FIT_SHARE = 0.75
# Bytes that Gram blocks between values may take from one receiver to the next.
_BLOCKS_NBYTES = 256 << 20


# A first look: rows, and channels of receivers and of donors that are mixed down to so many.
_LOOK_ROWS, _LOOK_RECEIVER, _LOOK_DONOR = 1024, 16, 64


def first_look(
    samples: Samples, donors: Sequence[str], receivers: Sequence[str], ridge: float = 1e-3
) -> Float64:
    """About the held-out R2 of every donor alone for every receiver [donors, receivers].

    On few rows and sketched channels: good enough to leave most pairs out. NaN where no adapter can
    stand between, or the receiver does not vary. One solve and two products for each donor.
    """
    found = np.full((len(donors), len(receivers)), np.nan)
    reach = _Reach(samples)
    for count in sorted({len(samples.rows[name]) for name in receivers}):
        mine = [i for i, name in enumerate(receivers) if len(samples.rows[name]) == count]
        step = -(-count // _LOOK_ROWS)
        cut = int(-(-count // step) * _FIT_SHARE)
        sketched = [_look_rows(samples.rows[receivers[i]], step, cut, _LOOK_RECEIVER) for i in mine]
        wanted = np.concatenate(sketched, axis=1)
        starts = np.cumsum([0, *(part.shape[1] for part in sketched[:-1])])
        judged = wanted[cut:]
        spread = np.square(judged - judged.mean(axis=0)).sum(axis=0, dtype=np.float64)
        total = np.add.reduceat(spread, starts)
        for place, donor in enumerate(donors):
            comparable = np.array([reach.comparable(donor, receivers[i]) for i in mine])
            if not comparable.any():
                continue
            x = _look_rows(samples.rows[donor], step, cut, _LOOK_DONOR)
            gram = (x[:cut].T @ x[:cut]).astype(np.float64)
            gram[np.diag_indices(len(gram))] += ridge * float(np.trace(gram)) / len(gram) + 1e-9
            factor = scipy.linalg.cho_factor(gram, lower=True)
            aims = (x[:cut].T @ wanted[:cut]).astype(np.float64)
            weight = scipy.linalg.cho_solve(factor, aims)
            lost = judged - x[cut:] @ weight.astype(np.float32)
            error = np.add.reduceat(np.square(lost).sum(axis=0, dtype=np.float64), starts)
            varies = comparable & (total > 0)
            r2 = np.maximum(0.0, 1.0 - error / np.where(varies, total, 1.0))
            found[place, mine] = np.where(varies, r2, np.nan)
    return found


def _look_rows(rows: Float32, step: int, cut: int, width: int) -> Float32:
    """Some of the rows about the mean of the first `cut`, of at most `width` channels."""
    some = rows[::step]
    some = some - some[:cut].mean(axis=0)
    channels = some.shape[1]
    if channels <= width:
        return some
    mixer = np.random.default_rng(channels).standard_normal((channels, width), dtype=np.float32)
    return some @ (mixer / np.float32(np.sqrt(width)))


class _Reach:
    """Which values an adapter can stand between, worked out once for sizes that are alike."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._known: dict[tuple[object, ...], bool] = {}

    def comparable(self, donor: str, receiver: str) -> bool:
        """As the samples say."""
        key = (*self._key(donor), *self._key(receiver))
        if key not in self._known:
            self._known[key] = self._samples.comparable(donor, receiver)
        return self._known[key]

    def _key(self, name: str) -> tuple[object, ...]:
        samples = self._samples
        return len(samples.rows[name]), samples.spatial[name], samples.every.get(name)


def _split(rows: Float32) -> int:
    """How many of a value's rows fit; values of one place a frame have fewer than maps."""
    return int(len(rows) * _FIT_SHARE)


class AffineRanking:
    """Held-out R2 of affine maps from many donors (alone or several at once) to a receiver.

    R2 = 1 - SSE / SST on rows the map was not fitted on, all channels together; clipped at 0.
    Works on Gram blocks between pairs of values, computed once each, so that a map costs a solve
    of its channels and no pass over the rows.
    """

    def __init__(self, samples: Samples, donors: Sequence[str], ridge: float = 1e-3) -> None:
        self.samples = samples
        self.donors = tuple(donors)
        self._ridge = ridge
        self._centred: dict[str, Float32] = {}
        self._blocks: dict[tuple[str, str], tuple[Float64, Float64]] = {}
        self._factors: dict[str, tuple[Float64, bool]] = {}
        self._powers: dict[str, tuple[float, float]] = {}

    def best(
        self,
        receiver: str,
        count: int = 1,
        gain: float = 0.004,
        among: Sequence[str] | None = None,
    ) -> list[tuple[float, tuple[str, ...]]]:
        """The best single donor, then ever larger sets while each addition explains `gain` more.

        Greedy forward selection among the ten next best; sets have one spatial size, to be
        concatenated. Of the donors those in `among` are looked at (None: all). Returns (R2, donors)
        of growing size, empty when no donor is comparable.
        """
        looked_at = self.donors if among is None else among
        donors = [name for name in looked_at if self.samples.comparable(name, receiver)]
        scored = [(self._single(name, receiver), name) for name in donors]
        singles = sorted((pair for pair in scored if pair[0] == pair[0]), reverse=True)
        if not singles:
            return []
        found: list[tuple[float, tuple[str, ...]]] = [(singles[0][0], (singles[0][1],))]
        top = singles[0][1]
        pool = [name for _, name in singles[1:] if self.samples.same_size(name, top)][:10]
        chosen = _Joint.of(self, receiver, singles[0][1])
        while len(found) < count and pool:
            score = found[-1][0]
            value, name = max(chosen.scored(name) for name in pool)
            if not value > score + gain * (1 - score) + 1e-4:
                break
            chosen = chosen.with_one(name)
            found.append((value, chosen.names))
            pool.remove(name)
        self._forget(receiver)
        return found

    def _single(self, donor: str, receiver: str) -> float:
        weight = scipy.linalg.cho_solve(self.factor(donor), self.block(donor, receiver)[0])
        judged_gram, judged_cross = self.block(donor, donor)[1], self.block(donor, receiver)[1]
        return self.score(weight, judged_gram @ weight, judged_cross, receiver)

    def factor(self, donor: str) -> tuple[Float64, bool]:
        """The Cholesky factor of a donor's damped Gram matrix."""
        if donor not in self._factors:
            damped = self.damped(donor)
            self._factors[donor] = scipy.linalg.cho_factor(damped, lower=True)
        return self._factors[donor]

    def score(
        self, weight: Float64, judged_product: Float64, judged_cross: Float64, receiver: str
    ) -> float:
        """R2 of a map, by what the Gram matrix of the rows that judge makes of it."""
        power, total = self._power(receiver)
        if total <= 1e-12 * max(power, 1e-30):
            return float("nan")
        error = power - 2 * float(np.vdot(weight, judged_cross))
        return max(0.0, 1.0 - (error + float(np.vdot(weight, judged_product))) / total)

    def _power(self, receiver: str) -> tuple[float, float]:
        """The sum of squares of the rows that judge, and that around their own mean."""
        if receiver not in self._powers:
            rows = self._rows(receiver)
            judged = rows[_split(rows) :]
            power = float(np.square(judged, dtype=np.float64).sum())
            mean = judged.mean(axis=0, dtype=np.float64)
            self._powers[receiver] = power, power - len(judged) * float(mean @ mean)
        return self._powers[receiver]

    def damped(self, donor: str) -> Float64:
        """A donor's Gram matrix with its ridge, a share of its own mean diagonal."""
        gram = self.block(donor, donor)[0]
        size = len(gram)
        return gram + (self._ridge * float(np.trace(gram)) / size + 1e-9) * np.eye(size)

    def block(self, a: str, b: str) -> tuple[Float64, Float64]:
        """a^T b over the rows to fit and over those that judge (both centred on the former)."""
        if (a, b) not in self._blocks:
            if (b, a) in self._blocks:
                fit, judge = self._blocks[b, a]
                return fit.T, judge.T
            left, right = self._rows(a), self._rows(b)
            cut = _split(left)
            self._blocks[a, b] = (
                (left[:cut].T @ right[:cut]).astype(np.float64),
                (left[cut:].T @ right[cut:]).astype(np.float64),
            )
        return self._blocks[a, b]

    def _rows(self, name: str) -> Float32:
        if name not in self._centred:
            rows = self.samples.rows[name]
            self._centred[name] = rows - rows[: _split(rows)].mean(axis=0)
        return self._centred[name]

    def _forget(self, receiver: str) -> None:
        # Blocks between donors serve the next receivers too, as long as they are few and small;
        # the receiver's own would grow without bound.
        if receiver not in self.donors:
            self._centred.pop(receiver, None)
            for key in [key for key in self._blocks if receiver in key]:
                del self._blocks[key]
        held = sum(fit.nbytes + judge.nbytes for fit, judge in self._blocks.values())
        if held > _BLOCKS_NBYTES:
            for key in [key for key in self._blocks if key[0] != key[1]]:
                del self._blocks[key]


@dataclass(frozen=True, eq=False)
class _Joint:
    """The map from several donors at once, extended by one at a time by block elimination.

    With S the donors that are there and c the next: Y = G_SS^-1 G_Sc, and the new donor's weights
    solve (G_cc - G_cS Y) W_c = H_c - G_cS W_S; the others' become W_S - Y W_c.
    """

    ranking: AffineRanking
    receiver: str
    names: tuple[str, ...]
    weight: Float64
    inverse: Float64  # of the damped Gram matrix of all donors
    judged_gram: Float64
    judged_cross: Float64

    @classmethod
    def of(cls, ranking: AffineRanking, receiver: str, name: str) -> _Joint:
        """The map from one donor."""
        cross, judged_cross = ranking.block(name, receiver)
        inverse = scipy.linalg.cho_solve(ranking.factor(name), np.eye(len(cross)))
        gram = ranking.block(name, name)[1]
        return cls(ranking, receiver, (name,), inverse @ cross, inverse, gram, judged_cross)

    def scored(self, name: str) -> tuple[float, str]:
        """R2 with one more donor."""
        fit, beside = self._beside(name)
        others, own, *_ = self._weights(name, fit)
        gram = self.ranking.block(name, name)[1]
        product = np.concatenate(
            [self.judged_gram @ others + beside @ own, beside.T @ others + gram @ own]
        )
        cross = np.concatenate([self.judged_cross, self.ranking.block(name, self.receiver)[1]])
        weight = np.concatenate([others, own])
        return self.ranking.score(weight, product, cross, self.receiver), name

    def with_one(self, name: str) -> _Joint:
        """The map from one more donor."""
        fit, beside = self._beside(name)
        others, own, spread, inverse = self._weights(name, fit)
        part = spread @ inverse
        gram = self.ranking.block(name, name)[1]
        cross = self.ranking.block(name, self.receiver)[1]
        return _Joint(
            self.ranking,
            self.receiver,
            (*self.names, name),
            np.concatenate([others, own]),
            np.block([[self.inverse + part @ spread.T, -part], [-part.T, inverse]]),
            np.block([[self.judged_gram, beside], [beside.T, gram]]),
            np.concatenate([self.judged_cross, cross]),
        )

    def _weights(self, name: str, beside: Float64) -> tuple[Float64, Float64, Float64, Float64]:
        """The others' weights, the new donor's own; Y and the inverse of what is left of G_cc.

        `beside` is G_Sc.
        """
        spread = self.inverse @ beside
        left = self.ranking.damped(name) - beside.T @ spread
        inverse = np.linalg.inv(left).astype(np.float64)
        cross = self.ranking.block(name, self.receiver)[0]
        own = inverse @ (cross - beside.T @ self.weight)
        return self.weight - spread @ own, own, spread, inverse

    def _beside(self, name: str) -> tuple[Float64, Float64]:
        """What the donors that are there have in common with one more: rows to fit, to judge."""
        blocks = [self.ranking.block(other, name) for other in self.names]
        fit, judge = (np.concatenate([block[i] for block in blocks]) for i in (0, 1))
        return fit, judge
