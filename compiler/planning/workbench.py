"""The workbench: tries rewrites on copies of the program, measures them, and carries plans out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from threadpoolctl import threadpool_limits

from ...passes.pipeline import CLEANING, passes_of, run_passes
from ..actions.bill import Skeleton
from ..actions.sites import Site, Sites, donor_values, find_sites, receiver_cuts
from ..errors import ModelError, UsageError
from ..execution.feeds import StreamFeeds, fit_feeds, held_out_feeds, judging_feeds, run_groups
from ..execution.outputs import OriginalOutputs, OutputComparison, measurement
from ..execution.samples import sample_values
from ..fitting.reference import SEARCH_ROWS_PER_UNKNOWN, FitSize, Reference
from ..frames.calibration import Frames
from ..graph.program import Program
from ..options import CompileOptions
from ..progress import Progress
from .plan import Action, Plan, PlannedAction
from .prefix_search import EFFORT, Choice, Measurement, Search

# What predicts a measurement: a swap fitted on few frames, its refit held strongly to the old
# weights, and judged on others. benchmarks/similarity.py says how well, docs/similarity.md shows.
PROBE_FRAMES, JUDGING_FRAMES = 128, 512
_PROBE_ROWS_PER_UNKNOWN, _PROBE_MIN_ROWS, _PROBE_RIDGE = 4, 512, 0.3
# A swap is judged in the search after a fit on this many frames; the chosen plan is then fitted
# on all of them, so what the search measured is a lower bound in practice.
SEARCH_FRAMES = 512
# What a fit on all frames wins back, at most: resnet20 for resnet44 agrees on 98.8 % after a fit on
# 512 frames, on 99.6 % after one on 1 500.
SLACK = 0.02
# Swaps measured per receiver when all are to hang on one trunk.
TRUNK_EFFORT = 2
# Frames for ranking sites: 512 x 8 positions are 4 096 rows.
RANKING_FRAMES = 512


# A rewritten program, the plan that led to it, and its outputs beside the originals'.
Planned = tuple[Program, Plan, list[OutputComparison]]


class Workbench:
    """Everything that needs both the program and frames: ranking, measuring, applying, comparing.

    `original` is the program as read, `program` the same after the exact passes. Without frames
    only exact rewrites can be carried out and nothing is compared.
    """

    def __init__(
        self,
        original: Program,
        program: Program,
        frames: Frames | None,
        options: CompileOptions,
        progress: Progress,
    ) -> None:
        self.program = program
        self.skeleton = Skeleton(program)
        self.free: Planned | None = None  # with the folds that cost nothing: in every plan
        self._frames = frames
        self._options = options
        self._progress = progress
        self._references: dict[tuple[str, int | None], Reference] = {}
        self._sites: Sites | None = None
        self._known: dict[Site, Measurement] = {}
        self._smallest: Planned | None = None
        self._outputs: OriginalOutputs | None = None
        self._judges: OriginalOutputs | None = None
        if frames is not None:
            held_out: dict[str, StreamFeeds] = {}
            judging: dict[str, StreamFeeds] = {}
            for group in run_groups(frames):
                feeds = held_out_feeds(original, frames, group[0])
                held_out |= dict.fromkeys(group, feeds)
                feeds = judging_feeds(original, frames, group[0], PROBE_FRAMES, JUDGING_FRAMES)
                judging |= dict.fromkeys(group, feeds)
            self._outputs = OriginalOutputs(original, held_out, options.floor, options.metric)
            self._judges = OriginalOutputs(original, judging, options.floor, options.metric)

    # -- carrying out ------------------------------------------------------------------------

    def compare(self, program: Program) -> list[OutputComparison]:
        """Every output beside the original's on held-out frames; empty without frames."""
        if self._outputs is None:
            return []
        self._progress.stage("comparing outputs on held-out frames", None)
        return self._outputs.compare(program, list(program.models))

    def apply(self, actions: Sequence[Action]) -> tuple[Program, list[OutputComparison]]:
        """The program after all `actions`, fitted on all fit frames, and its outputs compared."""
        program = self.program.copy()
        if actions:
            self._progress.stage("fitting adapters and refitting", 2 * len(actions))
            passes = passes_of(in_order(actions), lambda act: self._reference(act.receiver))
            run_passes(program, passes, lambda _step, _changes, _time: self._progress.advance())
            run_passes(program, CLEANING)
        return program, self.compare(program)

    def replay(self, plan: Plan) -> tuple[Program, list[OutputComparison]]:
        """Carry out a given plan. Raises UsageError when it needs frames and there are none."""
        actions = [planned.action for planned in plan.actions]
        if actions and self._frames is None:
            raise UsageError("the plan has actions that are fitted on frames", "give --calib PATH")
        groups = () if self._frames is None else run_groups(self._frames)
        for action in actions:
            if not any({action.donor, action.receiver} <= set(group) for group in groups):
                raise UsageError(
                    f"the plan lets {action.receiver} take from {action.donor}, which is not fed "
                    "the same frames",
                    "give one set of frames for both, or --same-frames if row k is the same frame",
                )
        if self.skeleton.bill(actions) is None:
            raise ModelError(
                "the plan's actions feed each other in a circle, or replace a value twice",
                "take one of them out",
            )
        return self.apply(actions)

    def plan_with(self, actions: Sequence[PlannedAction] = ()) -> Plan:
        """The plan of these actions for the workbench's models."""
        models = {name: model.source.sha256 for name, model in self.program.models.items()}
        return Plan(models, tuple(actions), self._options.seed)

    @property
    def folds(self) -> tuple[PlannedAction, ...]:
        """The folds that cost nothing: every plan has those that still save something."""
        return () if self.free is None else self.free[1].actions

    def least(self) -> Planned:
        """The program with no rewrite but those that cost nothing."""
        return self.free or (self.program, self.plan_with(), self.compare(self.program))

    # -- planning ----------------------------------------------------------------------------

    def plan(self, limit: int | None, excess: Callable[[Program], int]) -> Planned | None:
        """The least damage within `limit` weight bytes, or the fewest bytes when None.

        `excess` says by how many bytes a program is over the budget after all. None when nothing
        fits; never when `smallest` does.
        """
        if limit is None:
            return self.smallest()
        found = self._searched(limit, excess)
        if found is None and excess(self.smallest()[0]) <= 0:
            found = self.smallest()
        return found

    def smallest(self) -> Planned:
        """The fewest weight bytes within the floors; the same whatever was tried before."""
        if self._smallest is None:
            self._smallest = self._searched(None, lambda program: 0)
            assert self._smallest is not None
        return self._smallest

    def _searched(self, limit: int | None, excess: Callable[[Program], int]) -> Planned | None:
        """Backs off where a combination misses a floor that its actions kept one by one."""
        folds = [planned.action for planned in self.folds]
        search = self._search(self._ranked().ladders, self.measured, probe=self.predicted)
        allowed = limit
        while True:
            choice = search.smallest() if allowed is None else search.within(allowed)
            if choice is None:
                return None
            actions = self.skeleton.without_idle([*choice.actions, *folds])
            program, compared = self.apply(actions)
            missed = {output.model for output in compared if not output.met}
            if missed and choice.sites:
                search.reject(self._culprit(choice, missed, search))
                continue
            over = excess(program)
            if over > 0:
                assert allowed is not None
                allowed -= over
                continue
            return program, self._plan_of(choice, search, actions), compared

    def sketched(self, limit: int) -> tuple[PlannedAction, ...] | None:
        """The sharing within `limit` weight bytes by what its swaps do one by one.

        None where nothing fits. Not carried out: a plan to be continued, whose swaps may miss
        their floors by a little as long as they are fitted on few frames.
        """
        search = self._search(self._ranked().ladders, self._nearly, probe=self.predicted)
        choice = search.within(limit)
        return None if choice is None else self._sketch_of(choice, search)

    def on_trunk(self, donor: str) -> tuple[PlannedAction, ...]:
        """The sharing by which all others take as much from `donor` as their floors allow.

        By what the swaps do one by one, as `sketched`.
        """
        ladders = {
            receiver: [site for site in ladder if site.action.donor == donor]
            for receiver, ladder in self._ranked().ladders.items()
            if receiver != donor
        }
        search = self._search(ladders, self._nearly, effort=TRUNK_EFFORT)
        return self._sketch_of(search.smallest(), search)

    def instead_of(self, action: Action) -> list[PlannedAction]:
        """Other ways for the action's receiver to take from its donor, in order of their cuts."""
        sites = self._ranked()
        receiver = action.receiver
        known = [*sites.ladders.get(receiver, ()), *sites.others.get(receiver, ())]
        others = [s for s in known if s.action.donor == action.donor and s.action != action]
        others.sort(key=lambda site: (-site.depth, -site.r2, str(site.action)))
        return [PlannedAction(s.action, s.saved_nbytes, s.saved_macs, s.r2) for s in others]

    def explanation(self) -> str:
        """What stands against saving more, a line per model; empty before any search."""
        if self._sites is None:
            return ""
        return "\n".join(f"  {name}: {why}" for name, why in self._left_alone(()).items())

    def _search(
        self,
        ladders: dict[str, list[Site]],
        measure: Callable[[Site], Measurement],
        effort: int = EFFORT,
        probe: Callable[[Site], float] | None = None,
    ) -> Search:
        folds = [planned.action for planned in self.folds]
        return Search(
            ladders,
            lambda actions: self.skeleton.bill([*actions, *folds]),
            measure,
            effort,
            self._allowance(),
            probe,
        )

    def _nearly(self, site: Site) -> Measurement:
        """What a swap does; met where a fit on all frames may keep the floor."""
        known = self.measured(site)
        return replace(known, met=known.met or known.fidelity >= 1 - self._allowance() - SLACK)

    def _sketch_of(self, choice: Choice, search: Search) -> tuple[PlannedAction, ...]:
        folds = [planned.action for planned in self.folds]
        actions = self.skeleton.without_idle([*choice.actions, *folds])
        return self._plan_of(choice, search, actions).actions

    def _allowance(self) -> float:
        """The most loss that the floor of any output allows."""
        floors = [
            self._options.floor(name, output)
            for name, model in self.program.models.items()
            for output in model.outputs
        ]
        return max(1 - min(floors), 1e-3)

    def _ranked(self) -> Sites:
        """The sites of this program, found once."""
        if self._sites is None:
            self._sites = self._find_sites()
            rungs = sum(len(ladder) for ladder in self._sites.ladders.values())
            self._progress.stage(f"measuring swaps ({rungs} sites)", None)
        return self._sites

    def _find_sites(self) -> Sites:
        assert self._frames is not None
        frames = self._frames
        self._progress.stage("ranking sites by similarity", len(run_groups(frames)))
        found = Sites()
        for group in run_groups(frames):
            if len(group) < 2:
                found.reasons |= dict.fromkeys(group, "no other model sees the same frames")
                continue
            names: list[str] = []
            for model in group:
                names += donor_values(self.program, model)
                for cut in receiver_cuts(self.program, model):
                    names += cut.values
                    names += [self.skeleton.replaced(value, 1) for value in cut.values]
            feeds = fit_feeds(self.program, frames, group[0], RANKING_FRAMES)
            unique = list(dict.fromkeys(names))
            samples = sample_values(self.program, unique, feeds, self._options.seed)
            aligned = dict.fromkeys(group, group)
            # Thousands of solves of 16 to 256 unknowns: threads cost more than they bring.
            with threadpool_limits(1, user_api="blas"):
                sites = find_sites(self.program, samples, aligned, self.skeleton)
            found.ladders |= sites.ladders
            found.others |= sites.others
            found.reasons |= sites.reasons
            self._progress.advance()
        return found

    def measured(self, site: Site) -> Measurement:
        """What a swap does; measured once, whichever search asks."""
        if site not in self._known:
            self._known[site] = self.compared(self.swapped(site), site)
            self._progress.advance()
        return self._known[site]

    def swapped(self, site: Site) -> Program:
        """The program with this one site taken, fitted on the frames that the search looks at."""
        return self._rewritten(site, self._search_reference)

    def compared(self, program: Program, site: Site) -> Measurement:
        """What the site's swap did to the outputs it reaches, on held-out frames."""
        assert self._outputs is not None
        return measurement(self._outputs.compare(program, self.skeleton.affected(site.action)))

    def predicted(self, site: Site) -> float:
        """The damage that a swap of the site will be measured to do, at a fraction of the cost.

        An overestimate: few frames repair less. It ranks sites of any models, see the benchmark.
        """
        assert self._judges is not None
        affected = self.skeleton.affected(site.action)
        return measurement(self._judges.compare(self.probed(site), affected)).damage

    def probed(self, site: Site) -> Program:
        """The program with this one site taken, fitted on few frames."""
        return self._rewritten(site, self._probe_reference)

    def _rewritten(self, site: Site, reference: Callable[[str], Reference]) -> Program:
        program = self.program.copy()
        for step in passes_of([site.action], lambda act: reference(act.receiver)):
            step.run(program)
        return program

    def _reference(self, model: str) -> Reference:
        """All fit frames: what is kept is fitted on these."""
        return self._fitting(model, None, FitSize())

    def _search_reference(self, model: str) -> Reference:
        return self._fitting(model, SEARCH_FRAMES, FitSize(SEARCH_ROWS_PER_UNKNOWN))

    def _probe_reference(self, model: str) -> Reference:
        size = FitSize(_PROBE_ROWS_PER_UNKNOWN, _PROBE_MIN_ROWS, _PROBE_RIDGE)
        return self._fitting(model, PROBE_FRAMES, size)

    def _fitting(self, model: str, limit: int | None, size: FitSize) -> Reference:
        assert self._frames is not None
        group = next(group for group in run_groups(self._frames) if model in group)
        key = (group[0], limit)
        if key not in self._references:
            feeds = fit_feeds(self.program, self._frames, group[0], limit)
            self._references[key] = Reference(self.program, feeds, self._options.seed, size)
        return self._references[key]

    def _culprit(self, choice: Choice, missed: set[str], search: Search) -> Site:
        """The site to give up: of those that touch a missed output, the most damaging one."""
        touching = [
            site for site in choice.sites if missed & set(self.skeleton.affected(site.action))
        ]
        return max(
            touching or choice.sites,
            key=lambda site: (search.measured[site].damage, str(site.action)),
        )

    def _plan_of(self, choice: Choice, search: Search, actions: Sequence[Action]) -> Plan:
        known = {planned.action: planned for planned in self.folds}
        for site in choice.sites:
            fidelity = search.measured[site].fidelity
            known[site.action] = PlannedAction(
                site.action, site.saved_nbytes, site.saved_macs, site.r2, fidelity
            )
        planned = [known[action] for action in in_order(actions)]
        return replace(self.plan_with(planned), left_alone=self._left_alone(actions))

    def _left_alone(self, actions: Sequence[Action]) -> dict[str, str]:
        """Why each model that no action touches was left as it is."""
        sites = self._ranked()
        busy = {name for action in actions for name in (action.donor, action.receiver)}
        reasons: dict[str, str] = {}
        for name in self.program.models:
            if name in busy:
                continue
            if name in sites.reasons:
                reasons[name] = sites.reasons[name]
                continue
            tried = [
                self._known[site] for site in sites.ladders.get(name, ()) if site in self._known
            ]
            failed = [known for known in tried if not known.met]
            if failed:
                best = max(known.fidelity for known in failed)
                reasons[name] = (
                    f"{len(failed)} of {len(tried)} measured swaps missed the fidelity floor "
                    f"(the best of those kept {best:.4f})"
                )
        return reasons


def in_order(actions: Sequence[Action]) -> list[Action]:
    """Donors before their receivers, so that an adapter is fitted on what its donor has become."""
    by_receiver: dict[str, list[Action]] = {}
    for action in actions:
        by_receiver.setdefault(action.receiver, []).append(action)
    ordered: list[Action] = []
    done: set[str] = set()

    def visit(receiver: str) -> None:
        if receiver in done:
            return
        done.add(receiver)
        for action in by_receiver.get(receiver, ()):
            visit(action.donor)
        ordered.extend(by_receiver.get(receiver, ()))

    for receiver in sorted(by_receiver):
        visit(receiver)
    return ordered
