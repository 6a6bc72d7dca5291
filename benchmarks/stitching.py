"""Independently trained networks: how much of one's depth can be replaced, and at what accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from measuring import Round

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.share_prefix import MAX_DONORS, SharePrefixAction
from repsimc.compiler.actions.shareable import donor_values
from repsimc.compiler.case import case_of, read_models
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import fit_feeds
from repsimc.compiler.execution.samples import Samples, sample_values
from repsimc.compiler.fitting.affine_ranking import AffineRanking
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.adapters import Link
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.progress import NoProgress
from repsimc.passes.share_prefix import SharePrefix

DONOR, RECEIVER, TASK = "cifar10_resnet20", "cifar10_resnet44", "class10"
RANDOM_SITES = 3
_RANKING_FRAMES = 512
_BATCH = 250


@dataclass(frozen=True)
class Point:
    """The receiver's accuracy (0..1) with its first `blocks` blocks replaced, by method.

    `random` holds one accuracy per random site at the same cut, fitted and refitted alike.
    """

    blocks: int
    depth: float
    raw: float
    adapter: float
    refit: float
    random: tuple[float, ...]

    @property
    def random_mean(self) -> float:
        """The mean accuracy over the random sites."""
        return statistics.fmean(self.random)


class Stitching:
    """The donor and the receiver in one program, and rewrites of it by hand.

    Nothing is searched or planned here: the passes are used directly, so that the methods differ
    in one thing at a time.
    """

    def __init__(self, round_: Round) -> None:
        frames = round_.zoo.frames("cifar10", "calib2000", round_.frames("cifar10"))
        models = tuple((name, round_.zoo.model(name)) for name in (DONOR, RECEIVER))
        options = CompileOptions(models=models, calibration=frames)
        case = case_of(read_models(options, NoProgress()), options, NoProgress())
        assert case.frames is not None
        self._frames = case.frames
        self.program = case.program
        self._reference = Reference(
            self.program, fit_feeds(self.program, self._frames, RECEIVER, None)
        )
        self._bills = Bills(self.program)
        self._judged = round_.zoo.frames("cifar10", "dev4000", round_.judged)
        self._labels = round_.zoo.labels("cifar10", "dev4000", round_.judged)[TASK]
        self.cuts = block_ends(self.program, RECEIVER)
        self._donors = donor_values(self.program, DONOR)
        self._samples = self._sample()

    def point(self, blocks: int, random_sites: int = RANDOM_SITES) -> Point:
        """Accuracies with the first `blocks` blocks replaced."""
        best = self.chosen(blocks)
        program = self.program.copy()
        SharePrefix(best.links, best.kernel, self._reference).run(program)
        return Point(
            blocks=blocks,
            depth=blocks / len(self.cuts),
            raw=self.accuracy(self._carried_out(self._raw(blocks), refit=False)),
            adapter=self.accuracy(program),
            refit=self.accuracy(self._carried_out(best)),
            random=tuple(
                self.accuracy(self._carried_out(self._random(blocks, best, seed)))
                for seed in range(random_sites)
            ),
        )

    def chosen(self, blocks: int) -> SharePrefixAction:
        """The best donors for the end of that block, by held-out R2, and a 3x3 adapter."""
        sets = self._ranking(self._donors).best(self._target(blocks), MAX_DONORS)
        return self._action(blocks, sets[-1][1], 3)

    def accuracy(self, program: Program) -> float:
        """Top-1 accuracy of the receiver on labelled frames."""
        [output] = program.models[RECEIVER].outputs.values()
        segment = Executable(program, None, [output])
        right = 0
        for first in range(0, len(self._judged), _BATCH):
            [scores] = segment({segment.inputs[0]: self._judged[first : first + _BATCH]})
            right += int(np.sum(scores.argmax(-1) == self._labels[first : first + _BATCH]))
        return right / len(self._judged)

    def _carried_out(self, action: SharePrefixAction, refit: bool = True) -> Program:
        program = self.program.copy()
        for step in passes_of([action], lambda _: self._reference)[: 2 if refit else 1]:
            step.run(program)
        return program

    def _raw(self, blocks: int) -> SharePrefixAction:
        """The most similar donor value of the same shape, as it is."""
        cut = self.cuts[blocks - 1]
        alike = [name for name in self._donors if self._shape(name) == self._shape(cut)]
        [(_, donors)] = self._ranking(alike).best(self._target(blocks), 1)
        return self._action(blocks, donors, 0)

    def _random(self, blocks: int, best: SharePrefixAction, seed: int) -> SharePrefixAction:
        """As many donors as `best` has, of one size, drawn at random; the same cut and adapter."""
        random = np.random.default_rng([seed, blocks])
        count = len(best.links[0].donor_values)
        target = self._target(blocks)
        able = [name for name in self._donors if self._samples.comparable(name, target)]
        first = str(random.choice(able))
        others = [n for n in able if n != first and self._samples.same_size(n, first)]
        more = random.permutation(others)[: count - 1]
        return self._action(blocks, (first, *(str(name) for name in more)), best.kernel)

    def _action(self, blocks: int, donors: Sequence[str], kernel: int) -> SharePrefixAction:
        link = Link(self.cuts[blocks - 1], tuple(donors))
        return SharePrefixAction(DONOR, RECEIVER, (link,), kernel)

    def _target(self, blocks: int) -> str:
        return self._bills.replaced(self.cuts[blocks - 1], 1)

    def _ranking(self, donors: Sequence[str]) -> AffineRanking:
        return AffineRanking(self._samples, [n for n in donors if n in self._samples.rows])

    def _sample(self) -> Samples:
        targets = [self._target(block + 1) for block in range(len(self.cuts))]
        feeds = fit_feeds(self.program, self._frames, RECEIVER, _RANKING_FRAMES)
        return sample_values(self.program, [*self._donors, *targets], feeds)

    def _shape(self, name: str) -> tuple[int | str | None, ...]:
        return tuple((self.program.values()[name].shape or ())[1:])


def block_ends(program: Program, model: str) -> list[str]:
    """The value after each residual block, in order: the ReLU that reads a residual sum."""
    ends: list[str] = []
    for node in program.nodes_of(model):
        if node.op == "Add" and len(node.outputs[0].outputs) == 1:
            [reader] = node.outputs[0].outputs
            if reader.op == "Relu":
                ends.append(reader.outputs[0].name)
    return ends
