"""The order in which a model's regions go: by the damage of each alone per MAC that it saves.

Damages of regions add up nearly without bias (see sensitivity), so that looks at single ones order
all: on resnet44 that loses 0.9, 1.0 and 2.3 points with 5, 7 and 10 of 21 blocks out, where
measuring several removals before each step lost 0.8, 1.0 and 2.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..actions.action import Action
from ..actions.bill import Bills
from ..actions.kinds import Kind, regions
from ..actions.site import Site, values_made
from ..fitting.effort import Effort
from ..progress import Progress
from .damage import cost_of
from .sensitivity import Sensitivity
from .trial import Trial
from .workbench import Workbench


@dataclass(frozen=True)
class Removal:
    """A region, and what its going alone is predicted to cost (see damage.cost_of)."""

    site: Site
    cost: float


def region_sites(bench: Workbench, kinds: Sequence[Kind]) -> list[Site]:
    """The sites of the kinds that take regions out."""
    return [
        site
        for kind in regions(kinds)
        for group in bench.evidence.groups
        for site in kind.sites(bench.evidence, group).found
    ]


def regions_beside(sites: Sequence[Site], bills: Bills, held: Sequence[Action]) -> list[Site]:
    """The sites of regions that may go beside `held`, with what each saves there.

    None that has an end of a swap of `held` inside, or that saves too little to be worth it.
    """
    base = bills.bill(held)
    assert base is not None
    ends = bills.ends(held)
    found: list[Site] = []
    for site in sites:
        bill = bills.bill([*held, site.action])
        if bill is None or ends & values_made(bills.program, site.nodes):
            continue
        saved = base - bill
        if min(saved.weights_nbytes, saved.macs) >= 0 and saved.matters(base):
            found.append(replace(site, saved=saved))
    return found


def removal_order(bench: Workbench, sites: Sequence[Site], progress: Progress) -> list[Removal]:
    """Regions in the order in which they go, none in the place of another; each is looked at once.

    What cannot be carried out is left out.
    """
    sensitivity = Sensitivity(bench)
    progress.stage("looking at single regions", len(sites))
    found: list[Removal] = []
    for site in sites:
        errors = sensitivity.look(site.action)
        if errors is not None:
            found.append(Removal(site, cost_of(max(errors.values(), default=0.0))))
        progress.advance()
    found.sort(key=lambda one: (_price(one), str(one.site.action)))
    kept: list[Removal] = []
    for one in found:
        nodes = set(one.site.nodes)
        beside = [*(other.site.action for other in kept), one.site.action]
        apart = not any(nodes & set(other.site.nodes) for other in kept)
        if apart and bench.bills.bill(beside) is not None:
            kept.append(one)
    return kept


def _price(one: Removal) -> float:
    """The cost of a MAC; of regions without MACs, of a byte."""
    saved = one.site.saved
    return max(one.cost, 1e-9) / max(saved.macs or saved.weights_nbytes, 1)


class Trying:
    """Trials of what goes one by one, each fitted onward from the one before it.

    `trials` are those of the last and the last but one number of removals.
    """

    def __init__(self, bench: Workbench, effort: Effort) -> None:
        self._bench = bench
        self._effort = effort
        self.trials: dict[tuple[Action, ...], Trial] = {}

    def __call__(self, gone: tuple[Action, ...]) -> Trial:
        """The trial after `gone`."""
        onto = self.trials.get(gone[:-1])
        trial = self._bench.measure(gone, self._effort, onto=onto)
        kept = {key: known for key, known in self.trials.items() if len(key) >= len(gone) - 1}
        self.trials = {**kept, gone: trial}
        return trial
