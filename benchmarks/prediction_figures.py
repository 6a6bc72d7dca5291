"""What trials of sites say of predictors: correlations, intervals, regret, and a scatter plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prediction import COMMON, INDEPENDENT, Trial
from records import Record, figure

from repsimc.compiler.reports.table import Column, Grid

_BARS = {COMMON: ">= 0.97", INDEPENDENT: ">= 0.95"}
_FEWEST = {COMMON: 150, INDEPENDENT: 150}


def correlation(scores: Sequence[float], lost: Sequence[float]) -> float:
    """Pearson's r; 0 where a side does not vary."""
    x, y = np.asarray(scores, np.float64), np.asarray(lost, np.float64)
    if len(x) < 3 or not x.std() > 0 or not y.std() > 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def interval(scores: Sequence[float], lost: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of abs. r, by 2 000 bootstrap draws of sites."""
    random = np.random.default_rng(0)
    x, y = np.asarray(scores, np.float64), np.asarray(lost, np.float64)
    drawn = [
        abs(correlation(x[rows], y[rows]))
        for rows in (random.integers(0, len(x), len(x)) for _ in range(2000))
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def predictors(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Scores by predictor: the probe first, then what was there before it, the measurement last."""
    names = list(trials[0].scores)
    return {
        "probe": [trial.predicted for trial in trials],
        **{name: [trial.scores[name] for trial in trials] for name in names},
        "measured swap": [trial.damage for trial in trials],
    }


def within_pairs(trials: Sequence[Trial]) -> dict[str, float]:
    """The probe's r by pair of models."""
    found: dict[str, float] = {}
    for pair in dict.fromkeys(trial.pair for trial in trials):
        mine = [trial for trial in trials if trial.pair == pair]
        found[str(pair)] = correlation([t.predicted for t in mine], [t.lost for t in mine])
    return found


def regrets(trials: Sequence[Trial], by: str = "probe") -> dict[str, float]:
    """Points lost against the best donor by exhaustive measurement, mean over cuts, by pair.

    At one cut every donor saves the same bytes but for the adapter, so that a plan takes the one of
    which least damage is predicted.
    """
    found: dict[str, list[float]] = {}
    for pair, cut in dict.fromkeys((trial.pair, trial.cut) for trial in trials):
        mine = [t for t in trials if (t.pair, t.cut) == (pair, cut)]
        if len(mine) < 2:
            continue
        if by == "probe":
            picked = min(mine, key=lambda t: t.predicted)
        else:
            picked = max(mine, key=lambda t: t.scores[by])
        found.setdefault(str(pair), []).append(picked.lost - min(t.lost for t in mine))
    return {pair: float(np.mean(values)) for pair, values in found.items()}


def prediction_records(trials: Sequence[Trial]) -> list[Record]:
    """The figures that were asked for, by kind of pairs."""
    found: list[Record] = []
    for kind in (COMMON, INDEPENDENT):
        mine = [trial for trial in trials if trial.pair.kind == kind]
        if not mine:
            continue
        lost = [trial.lost for trial in mine]
        scores = predictors(mine)
        low, high = interval(scores["probe"], lost)
        within = within_pairs(mine)
        extra = f"95 % {low:.3f} to {high:.3f}, {len(mine)} sites of {len(within)} pairs"
        name = f"prediction, {kind}"
        r = abs(correlation(scores["probe"], lost))
        found.append(figure(f"{name}/r of the probe", r, "", _BARS[kind], extra))
        extra = ", ".join(f"{pair} {value:.3f}" for pair, value in within.items())
        found.append(
            figure(f"{name}/mean r within a pair", float(np.mean(list(within.values()))), "",
                   None, extra)
        )  # fmt: skip
        for score in list(scores)[1:]:
            r = abs(correlation(scores[score], lost))
            found.append(figure(f"{name}/r of {score}", r, ""))
        for by in ("probe", "affine R2", "CKA"):
            lost_by = regrets(mine, by)
            bar = "<= 0.3" if by == "probe" else None
            extra = ", ".join(f"{pair} {value:.2f}" for pair, value in lost_by.items())
            mean = float(np.mean(list(lost_by.values()))) if lost_by else None
            found.append(figure(f"{name}/regret by {by}", mean, "points", bar, extra))
        cost = sum(t.probe_seconds for t in mine) / sum(t.measure_seconds for t in mine)
        found.append(figure(f"{name}/time of a probe by a measured swap", cost, "ratio"))
    return found


def prediction_grid(trials: Sequence[Trial]) -> Grid:
    """abs. r with the loss of accuracy, a row per predictor, a column per kind of pairs."""
    kinds = [kind for kind in (COMMON, INDEPENDENT) if any(t.pair.kind == kind for t in trials)]
    columns: list[dict[str, str]] = []
    for kind in kinds:
        mine = [trial for trial in trials if trial.pair.kind == kind]
        lost = [trial.lost for trial in mine]
        cells: dict[str, str] = {}
        for name, scores in predictors(mine).items():
            low, high = interval(scores, lost)
            cells[name] = f"{abs(correlation(scores, lost)):.3f} ({low:.2f} to {high:.2f})"
        columns.append(cells)
    heads = [f"{kind}, {sum(t.pair.kind == kind for t in trials)} sites" for kind in kinds]
    return Grid(
        "abs. Pearson r with the loss of labelled accuracy, and its 95 % interval",
        (Column("predictor"), *(Column(head, True) for head in heads)),
        tuple((name, *(cells[name] for cells in columns)) for name in columns[0]),
    )


def frames_records(scores: Sequence[Sequence[float]], counts: Sequence[int]) -> list[Record]:
    """How far scores [sites][counts] on few frames are from those on the most."""
    table = 100 * np.asarray(scores)
    most = table[:, -1]
    found: list[Record] = []
    for index, count in enumerate(counts[:-1]):
        off = float(np.sqrt(np.mean((table[:, index] - most) ** 2)))
        r = correlation(list(table[:, index]), list(most))
        extra = f"r {r:.3f} with the scores on {counts[-1]} frames, {len(table)} sites"
        found.append(figure(f"frames/probe judged on {count}, off by", off, "%", None, extra))
    return found
