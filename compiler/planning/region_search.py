"""Which regions go next: greedily, by the error at the models' outputs after the refit.

Similarity of a region's two ends (block influence) only says which regions are worth a
measurement. What decides is the output error of the rewritten and refitted program, per
multiply-accumulate (or byte) saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..analysis.cost import node_macs
from ..graph.layout import Layout, layout_of
from ..graph.program import Program
from ..graph.regions import Region, Regions
from .links import fault_of
from .plan import Action, CollapseAction
from .skeleton import Bill, Skeleton

# Regions measured one by one at the start, those with the least influence first.
FIRST_LOOK = 24
# Regions measured again before each further step: errors add up nearly, so that the best of the
# last round mostly stays the best.
LOOKS = 3
# A region that saves less than this share of all multiply-accumulates and of all weight bytes is
# not worth a line in the plan.
_LEAST_SHARE = 0.002
# A map put in place of a region may cost this share of what the region did.
_MAP_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A region that could go: the action, the nodes that die with it, what it alone saves."""

    action: CollapseAction
    region: Region
    saved_nbytes: int
    saved_macs: int


@dataclass(frozen=True)
class Step:
    """One more region out: everything that is out now, the error then, and what it all costs."""

    chosen: Candidate
    actions: tuple[CollapseAction, ...]
    error: float
    bill: Bill


def find_candidates(
    program: Program,
    regions: Regions,
    skeleton: Skeleton,
    kernels: Sequence[int] = (0, 1, 3),
    held: Sequence[Action] = (),
) -> list[Candidate]:
    """The outermost regions of the program that can go, in order of their exits.

    A region of equal shape at both ends becomes nothing (kernel 0); one that changes the shape
    becomes one affine map, 3x3 for maps and 1x1 for tokens. `held` are actions that stay.
    """
    base = skeleton.bill(held)
    assert base is not None
    values = program.values()
    found: list[Candidate] = []
    for region in _outermost(regions.found):
        if region.same_shape:
            kernel = 0
        else:
            maps = layout_of(values[region.exit]) is Layout.CHANNELS_FIRST
            kernel = 3 if maps and len(values[region.exit].shape) == 4 else 1
        if kernel not in kernels or fault_of(program, region.exit, (region.entry,), kernel):
            continue
        action = CollapseAction(region.model, region.entry, region.exit, kernel)
        bill = skeleton.bill([*held, action])
        if bill is None:
            continue
        saved, macs = base.weights_nbytes - bill.weights_nbytes, base.macs - bill.macs
        if saved < 0 or macs < 0:
            continue
        if saved < _LEAST_SHARE * base.weights_nbytes and macs < _LEAST_SHARE * base.macs:
            continue
        if kernel:
            did = sum(node_macs(program.node(name)) for name in region.nodes)
            if skeleton.adapters_bill(action).macs > _MAP_SHARE * did:
                continue
        found.append(Candidate(action, region, saved, macs))
    return found


def _outermost(regions: Sequence[Region]) -> list[Region]:
    """Regions that go as one: residual blocks rather than their branches."""
    whole = [region for region in regions if region.whole]
    sets = [(frozenset(region.nodes), region) for region in whole]
    blocks = [nodes for nodes, region in sets if region.skipped]
    return [region for nodes, region in sets if not any(nodes < block for block in blocks)]


@dataclass
class Descent:
    """Regions out one by one, always the one whose going costs least error per saving.

    `measure(actions)` rewrites, refits and returns the error at the outputs (0: none).
    `worth(bill)` turns a cost into the amount that is to fall. `influence` is the order of the
    first look, least first. `held` are other actions of the plan, priced along.
    """

    candidates: Sequence[Candidate]
    bill: Callable[[Sequence[Action]], Bill | None]
    measure: Callable[[tuple[CollapseAction, ...]], float]
    worth: Callable[[Bill], float]
    influence: Mapping[str, float] = field(default_factory=dict[str, float])
    held: tuple[Action, ...] = ()

    def steps(self) -> Iterator[Step]:
        """Every step until nothing is left; measuring happens as the steps are asked for."""
        gone: tuple[CollapseAction, ...] = ()
        error = 0.0
        left = sorted(
            self.candidates, key=lambda c: (self.influence.get(c.action.exit, 0.0), str(c.action))
        )
        margins: dict[Candidate, float] = {}
        for candidate in left[:FIRST_LOOK]:
            margins[candidate] = self.measure((candidate.action,))
        first = True
        while True:
            rates = {c: self._rate(gone, c, m) for c, m in margins.items()}
            open_ = [c for c in margins if rates[c] is not None]
            if not open_:
                return
            looked: dict[Candidate, float] = {}
            if first:
                best = _cheapest(open_, rates)
                after = margins[best]
            else:
                for _ in range(LOOKS):
                    best = _cheapest(open_, rates)
                    if best in looked:
                        break
                    looked[best] = self.measure(_with(gone, best))
                    margins[best] = looked[best] - error
                    rates[best] = self._rate(gone, best, margins[best])
                best = _cheapest(list(looked), rates)
                after = looked[best]
            first = False
            gone, error = _with(gone, best), after
            price = self.bill([*self.held, *gone])
            assert price is not None
            yield Step(best, gone, error, price)
            del margins[best]
            taken = set(best.region.nodes)
            margins = {c: m for c, m in margins.items() if not taken & set(c.region.nodes)}

    def _rate(
        self, gone: tuple[CollapseAction, ...], one: Candidate, margin: float
    ) -> float | None:
        before = self.bill([*self.held, *gone])
        after = self.bill([*self.held, *_with(gone, one)])
        if before is None or after is None:
            return None
        saved = self.worth(before) - self.worth(after)
        return max(margin, 1e-9) / saved if saved > 0 else None


def _cheapest(
    candidates: Sequence[Candidate], rates: Mapping[Candidate, float | None]
) -> Candidate:
    return min(candidates, key=lambda one: (rates[one] or 0.0, str(one.action)))


def _with(gone: tuple[CollapseAction, ...], one: Candidate) -> tuple[CollapseAction, ...]:
    return (*gone, one.action)
