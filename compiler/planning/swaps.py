"""Swaps between models: their sites, and what each was found to do, measured once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..actions.action import Action
from ..actions.bill import LEAST_SHARE
from ..actions.kinds import Kind, sharing
from ..actions.site import Site, Sites
from ..fitting.effort import GLANCE, SEARCH
from ..progress import Progress
from .trial import Trial
from .workbench import Workbench

# What predicts a measurement: a swap fitted at a glance, and judged on fit frames that this fit did
# not see. benchmarks/similarity.py says how well, docs/similarity.md shows.
PROBE = replace(GLANCE, judged=512, held_out=False)
_TOO_LITTLE = f"nothing that it could share is {100 * LEAST_SHARE:g} % of all weights or MACs"


class Swaps:
    """The sites at which models could take from each other, and what was measured of them.

    By action: a trial rests on nothing else.
    """

    def __init__(self, bench: Workbench, kinds: Sequence[Kind], progress: Progress) -> None:
        self._bench = bench
        self._kinds = sharing(kinds)
        self._progress = progress
        self._sites: Sites | None = None
        self._trials: dict[Action, Trial] = {}
        self._probes: dict[Action, float] = {}

    @property
    def sites(self) -> Sites:
        """The sites of the program, found once."""
        if self._sites is None:
            self._sites = self._found()
        return self._sites

    def _found(self) -> Sites:
        evidence, found = self._bench.evidence, Sites()
        whole = self._bench.bills.bill(())
        assert whole is not None
        self._progress.stage("ranking sites by similarity", len(evidence.groups))
        for group in evidence.groups:
            for kind in self._kinds:
                sites = kind.sites(evidence, group)
                kept = [site for site in sites.found if site.saved.matters(whole)]
                found.found += kept
                found.spare += [site for site in sites.spare if site.saved.matters(whole)]
                found.refused |= sites.refused
                left = {site.receiver for site in sites.found} - {site.receiver for site in kept}
                found.refused |= dict.fromkeys(sorted(left), _TOO_LITTLE)
            self._progress.advance()
        self._progress.stage(f"measuring swaps ({len(found.found)} sites)", None)
        return found

    def ladders(self) -> dict[str, list[Site]]:
        """The sites by receiver, for one search: it puts what it finds in their places."""
        ladders: dict[str, list[Site]] = {}
        for site in self.sites.found:
            ladders.setdefault(site.receiver, []).append(site)
        order = list(self._bench.program.models)
        return {name: ladders[name] for name in sorted(ladders, key=order.index)}

    def measured(self, site: Site) -> Trial:
        """What a swap of the site does to the outputs it reaches."""
        if site.action not in self._trials:
            affected = self._bench.bills.affected(site.action)
            trial = self._bench.measure((site.action,), SEARCH, affected)
            self._trials[site.action] = trial.remembered()
        return self._trials[site.action]

    def predicted(self, site: Site) -> float:
        """The damage that a swap of the site will be measured to do, at a fraction of the cost.

        An overestimate: few frames repair less. It ranks sites of any models, see the benchmark.
        """
        if site.action not in self._probes:
            affected = self._bench.bills.affected(site.action)
            self._probes[site.action] = self._bench.measure((site.action,), PROBE, affected).loss
        return self._probes[site.action]

    def explanation(self) -> str:
        """What stands against saving more, a line per model; empty before any search."""
        if self._sites is None:
            return ""
        tried: dict[str, list[Trial]] = {}
        for action, trial in self._trials.items():
            tried.setdefault(action.models[-1], []).append(trial)
        return "\n".join(f"  {name}: {why}" for name, why in self.left_alone((), tried).items())

    def left_alone(
        self, actions: Sequence[Action], tried: Mapping[str, Sequence[Trial]]
    ) -> dict[str, str]:
        """Why each model that no action touches was left as it is, by the swaps that were tried."""
        busy = {name for action in actions for name in action.models}
        reasons: dict[str, str] = {}
        for name in self._bench.program.models:
            known = tried.get(name, ())
            failed = [trial.least for trial in known if not trial.met]
            if name in busy:
                continue
            if name in self.sites.refused:
                reasons[name] = self.sites.refused[name]
            elif failed:
                reasons[name] = (
                    f"{len(failed)} of {len(known)} measured swaps missed the fidelity floor "
                    f"(the best of those kept {max(failed):.4f})"
                )
        return reasons
