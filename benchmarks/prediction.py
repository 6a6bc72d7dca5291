"""How well the planner's look predicts, before any full refit, what a swap costs in accuracy.

The look is called the probe here: it is held against predictors that were proposed elsewhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zoo import Zoo

from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.shareable import donor_values, receiver_cuts
from repsimc.compiler.actions.site import Site
from repsimc.compiler.case import case_of, read_models
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import fit_feeds
from repsimc.compiler.execution.samples import Samples, sample_values
from repsimc.compiler.fitting.affine_ranking import AffineRanking
from repsimc.compiler.fitting.cka import debiased_cka
from repsimc.compiler.fitting.effort import LOOK, SEARCH
from repsimc.compiler.frames.calibration import Frames
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.cuts import cuts
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.damage import unexplained
from repsimc.compiler.planning.sensitivity import Sensitivity
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress

# These models want raw pixels, 0 to 255; the others whitened ones.
RAW = {"cifar10_mlperftiny_resnet8"}
# Similarities are taken over rows of so many frames.
_RANKING_FRAMES = 512
_CKA_ROWS = 1024
_BATCH = 100


@dataclass(frozen=True)
class Pair:
    """A donor and a receiver of the zoo, the receiver's task, and how many sites to measure."""

    donor: str
    receiver: str
    family: str
    task: str
    sites: int
    kind: str

    def __str__(self) -> str:
        return f"{_short(self.donor)} -> {_short(self.receiver)}"


COMMON, INDEPENDENT = "common ancestor", "independent"
PAIRS = (
    Pair("cifar10_resnet20", "sib_full_bright4", "cifar10", "bright4", 30, COMMON),
    Pair("cifar10_resnet20", "sib_full_animal2", "cifar10", "animal2", 30, COMMON),
    Pair("cifar10_resnet20", "sib_full_habitat4", "cifar10", "habitat4", 30, COMMON),
    Pair("cifar10_resnet20", "sib_frozen_bright4", "cifar10", "bright4", 14, COMMON),
    Pair("cifar10_resnet20", "sib_frozen_habitat4", "cifar10", "habitat4", 14, COMMON),
    Pair("fashion_vit6_class10", "fashion_vit6_full_group4", "fashion", "group4", 36, COMMON),
    Pair("fashion_vit6_class10", "fashion_vit6_frozen_group4", "fashion", "group4", 14, COMMON),
    Pair("cifar10_resnet20", "cifar10_resnet32", "cifar10", "class10", 24, INDEPENDENT),
    Pair("cifar10_resnet32", "cifar10_resnet20", "cifar10", "class10", 22, INDEPENDENT),
    Pair("cifar10_resnet20", "cifar10_resnet44", "cifar10", "class10", 20, INDEPENDENT),
    Pair("cifar10_resnet44", "cifar10_resnet20", "cifar10", "class10", 22, INDEPENDENT),
    Pair("cifar10_resnet32", "cifar10_resnet44", "cifar10", "class10", 18, INDEPENDENT),
    Pair("cifar10_resnet44", "cifar10_resnet32", "cifar10", "class10", 20, INDEPENDENT),
    Pair("cifar10_resnet20", "cifar10_mlperftiny_resnet8", "cifar10", "class10", 14, INDEPENDENT),
    Pair("cifar10_mlperftiny_resnet8", "cifar10_resnet20", "cifar10", "class10", 16, INDEPENDENT),
)


@dataclass(frozen=True)
class Trial:
    """A site: what was predicted of it, and the accuracy (points) that its swap then cost.

    `predicted` is the share of the receiver's variance that the look says is lost, `damage` the
    loss that a refit measures on held-out frames; both without labels.
    `scores` are other predictors by name. Seconds are of the probe and of the measurement.
    """

    pair: Pair
    cut: str
    predicted: float
    damage: float
    lost: float
    probe_seconds: float
    measure_seconds: float
    scores: Mapping[str, float]


class Trials:
    """Every legal site of one donor layer and one receiver layer between two models."""

    def __init__(self, zoo: Zoo, pair: Pair, judged: int, frames: int = 2000) -> None:
        self.pair = pair
        names = (pair.donor, pair.receiver)
        given = {name: _images(zoo, pair, name, "calib2000", frames) for name in names}
        options = CompileOptions(
            models=tuple((name, zoo.model(name)) for name in names),
            calibration=given if RAW & set(names) else given[pair.donor],
            same_frames=True,
        )
        case = case_of(read_models(options, NoProgress()), options, NoProgress())
        assert case.frames is not None
        self._frames: Frames = case.frames
        self.program = case.program
        self.bench = Workbench(case, NoProgress())
        self._sensitivity = Sensitivity(self.bench)
        self._judged = {
            value: _images(zoo, pair, name, "dev4000", judged)
            for name in names
            for value in self.program.models[name].inputs.values()
        }
        self._labels = zoo.labels(pair.family, "dev4000", judged)[pair.task]
        [self._output] = self.program.models[pair.receiver].outputs.values()
        self._accuracy = self._right(self.program, None)
        self._held: tuple[str, NDArray[np.float32]] | None = None

    def sites(self) -> list[Site]:
        """Sites drawn by seed, `pair.sites` of them, donors in order (see `_right`)."""
        bills = self.bench.bills
        donors = self._values(self.pair.donor)
        targets = self._targets()
        feeds = fit_feeds(self.program, self._frames, self.pair.receiver, _RANKING_FRAMES)
        samples = sample_values(self.program, [*donors, *targets], feeds)
        base = bills.bill(())
        assert base is not None
        found: list[Site] = []
        for donor in donors:
            for target, (value, depth) in targets.items():
                if not samples.comparable(donor, target):
                    continue
                links = (Link(value, (donor,)),)
                action = SharePrefixAction(self.pair.donor, self.pair.receiver, links, 1)
                bill = bills.bill((action,))
                if bill is None:
                    continue
                r2, cka = _similarities(samples, donor, target)
                evidence = {"depth": depth, "r2": r2, "cka": cka}
                found.append(Site(action, base - bill, 1 - r2, evidence))
        if len(found) > self.pair.sites:
            drawn = np.random.default_rng(0).choice(len(found), self.pair.sites, replace=False)
            found = [found[index] for index in sorted(drawn)]
        return found

    def trial(self, site: Site, number: int) -> Trial:
        """Predict, measure, and judge by labels."""
        action = site.action
        assert isinstance(action, SharePrefixAction)
        [link] = action.links
        [donor] = link.donor_values
        affected = self.bench.bills.affected(action)
        start = time.perf_counter()
        errors = self._sensitivity.look(action)
        assert errors is not None  # an adapter is always on the bill
        predicted = max(errors.values())
        probed = time.perf_counter()
        swapped = self.bench.measure((action,), SEARCH, affected)
        measured = time.perf_counter()
        accuracy = self._right(swapped.program, donor)
        shape = self.program.values()[link.receiver_value].shape or ()
        return Trial(
            self.pair,
            link.receiver_value,
            predicted,
            swapped.loss,
            100 * (self._accuracy - accuracy),
            probed - start,
            measured - probed,
            {
                "affine R2": site.evidence["r2"],
                "CKA": site.evidence["cka"],
                "layer bytes": site.saved.weights_nbytes,
                "MACs": site.saved.macs,
                "representation size": float(
                    np.prod([size for size in shape[1:] if isinstance(size, int)])
                ),
                "relative depth": site.evidence["depth"],
                "random": float(np.random.default_rng(number).random()),
            },
        )

    def by_frames(self, site: Site, counts: Sequence[int]) -> list[float]:
        """The probe's score of a site when it is judged on so many frames."""
        program = self.bench.tried((site.action,), LOOK, None)
        scores: list[float] = []
        for count in counts:
            effort = replace(LOOK, judged=count)
            judged = self.bench.compare(program, effort, [self.pair.receiver])
            scores.append(max(map(unexplained, judged)))
        return scores

    def _values(self, model: str) -> list[str]:
        """The single values that all of a model's data flows through: its layers."""
        known = set(donor_values(self.program, model))
        names = [cut.values[0] for cut in cuts(self.program, model, max_width=1)]
        bills = self.bench.bills
        # A ReLU's input and output are one layer.
        return list({bills.replaced(n, 1): n for n in names if n in known}.values())

    def _targets(self) -> dict[str, tuple[str, float]]:
        """The receiver's own cuts: the value an adapter replaces, the cut's value and depth."""
        shared = {t.name for n in self.program.nodes_of(self.pair.donor) for t in n.outputs}
        bills = self.bench.bills
        return {
            bills.replaced(cut.values[0], 1): (cut.values[0], cut.depth)
            for cut in receiver_cuts(self.program, self.pair.receiver)
            if len(cut.values) == 1 and cut.values[0] not in shared
        }

    def _right(self, program: Program, donor: str | None) -> float:
        """The receiver's accuracy; what lies before the donor's value is computed once."""
        feeds = self._judged
        if donor is not None:
            if self._held is None or self._held[0] != donor:
                self._held = (donor, _outputs(self.program, None, donor, self._judged))
            feeds = {donor: self._held[1]}
        scores = _outputs(program, [donor] if donor else None, self._output, feeds)
        return float(np.mean(scores.argmax(-1) == self._labels))


def _outputs(
    program: Program,
    inputs: Sequence[str] | None,
    output: str,
    feeds: Mapping[str, NDArray[np.float32]],
) -> NDArray[np.float32]:
    segment = Executable(program, inputs, [output])
    count = len(next(iter(feeds.values())))
    parts = [
        segment({name: feeds[name][k : k + _BATCH] for name in segment.inputs})[0]
        for k in range(0, count, _BATCH)
    ]
    return np.concatenate(parts)


def _images(zoo: Zoo, pair: Pair, model: str, part: str, count: int) -> NDArray[np.float32]:
    if model not in RAW:
        return zoo.frames(pair.family, part, count)
    images = zoo.images(pair.family, part)[:count].astype(np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _similarities(samples: Samples, donor: str, target: str) -> tuple[float, float]:
    [(r2, _)] = AffineRanking(samples, [donor]).best(target, 1)
    rows = [samples.rows[name][:_CKA_ROWS] for name in (donor, target)]
    return r2, debiased_cka(*rows)


def _short(name: str) -> str:
    return name.removeprefix("cifar10_").removeprefix("fashion_").removeprefix("mlperftiny_")


def collect(zoo: Zoo, pairs: Sequence[Pair], judged: int) -> list[Trial]:
    """The trials of all sites of all pairs, each judged on `judged` labelled frames."""
    found: list[Trial] = []
    for pair in pairs:
        trials = Trials(zoo, pair, judged)
        found += [trials.trial(site, number) for number, site in enumerate(trials.sites())]
    return found


def write_trials(trials: Sequence[Trial], path: Path) -> None:
    """The trials as a JSON list."""
    rows = [asdict(trial) for trial in trials]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read_trials(path: Path) -> list[Trial]:
    """The trials that `write_trials` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Trial(**{**row, "pair": Pair(**row["pair"])}) for row in rows]
