"""Single networks made shallower: accuracy over regions out, by method, and what it takes."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort
from compiling import Models
from measuring import Round, plain_pass_seconds
from numpy.typing import NDArray
from records import Record, figure

from repsimc.compiler.actions import take_out_region
from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.site import Site
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.case import case_of
from repsimc.compiler.depth.curve import DepthResult, depth
from repsimc.compiler.driver import compile_models
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.fitting.effort import GLANCE
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.planning.plan import Plan, PlannedAction
from repsimc.compiler.planning.removals import regions_beside
from repsimc.compiler.planning.workbench import Workbench
from repsimc.compiler.progress import NoProgress
from repsimc.compiler.structure.cost import program_cost
from repsimc.compiler.units import parse_budget
from repsimc.passes.collapse import Collapse
from repsimc.passes.pipeline import CLEANING, run_passes

_BATCH = 100
LATENCY_RUNS = 60


@dataclass(frozen=True)
class Case:
    """A network, its task, and the points lost that are allowed with so many regions out."""

    name: str
    family: str
    task: str
    bars: dict[int, float]


class Shallow:
    """One network's curve and its picks, in this process, on so many frames (None: the round's)."""

    def __init__(self, case: Case, round_: Round, frames: int | None = None) -> None:
        self.case = case
        self.round = round_
        self.path = round_.zoo.model(case.name)
        count = round_.frames(case.family) if frames is None else frames
        self.options = CompileOptions(
            models=(("net", self.path),),
            calibration=round_.zoo.frames(case.family, "calib2000", count),
            min_fidelity=1e-6,
            output=None,
        )
        self.judged = round_.zoo.frames(case.family, "dev4000", round_.judged)
        self.truth = round_.zoo.labels(case.family, "dev4000", round_.judged)[case.task]
        apart = [read_model(self.path, "net")]
        self.bench = Workbench(case_of(apart, self.options, NoProgress()), NoProgress())
        self.original = self.bench.case.original
        self.exact = self.bench.program
        self.base = self.accuracy(self.original)

    def chosen(self, most: int) -> DepthResult:
        """The curve up to `most` regions, chosen as for a pick; the last point is compiled."""
        return depth(self.options, pick=most)

    def refitted(self, plan: Plan) -> Program:
        """The network after the plan's actions, fitted on all frames."""
        return compile_models(self.options, plan=plan).program

    def bare(self, plan: Plan) -> Program:
        """The same regions out, by identity and nothing else."""
        program = self.exact.copy()
        for planned in plan.actions:
            action = planned.action
            assert isinstance(action, CollapseAction)
            Collapse(action.entry, action.exit, action.kernel).run(program)
        run_passes(program, CLEANING)
        return program

    def random_plan(self, count: int, seed: int) -> Plan:
        """As many regions, drawn at random."""
        found = self.candidates()
        picked = np.random.default_rng(seed).choice(len(found), count, replace=False)
        actions = [PlannedAction(found[index].action) for index in sorted(picked)]
        return Plan({"net": ""}, tuple(actions), 0)

    def plans_by_criterion(self, count: int) -> dict[str, Plan]:
        """As many regions out by each criterion that looks at regions one at a time.

        Block influence: |exit - entry| / |entry| on the frames, least first. One look: the error
        at the outputs after the refit with that region alone out, per multiply-accumulate.
        """
        found = self.candidates()
        influence = self.bench.influence(found)
        alone: dict[Action, float] = {}
        for site in found:
            alone[site.action] = self.bench.measure((site.action,), GLANCE).error / site.saved.macs
        plans: dict[str, Plan] = {}
        for name, values in (("block influence", influence), ("one look", alone)):
            best = sorted((site.action for site in found), key=values.__getitem__)[:count]
            plans[name] = Plan({"net": ""}, tuple(PlannedAction(action) for action in best), 0)
        return plans

    def candidates(self) -> list[Site]:
        """The regions of equal shape at both ends that could go."""
        sites = take_out_region.find(self.bench.evidence, ("net",)).found
        return [
            site
            for site in regions_beside(sites, self.bench.bills, ())
            if isinstance(site.action, CollapseAction) and site.action.kernel == 0
        ]

    def accuracy(self, program: Program) -> float:
        """Percent right on the labelled frames."""
        outputs = [value.name for value in program.graph.outputs]
        segment = Executable(program, None, outputs)
        right = 0
        for start in range(0, len(self.judged), _BATCH):
            batch = self.judged[start : start + _BATCH]
            scores = segment({segment.inputs[0]: batch})[0]
            right += int((scores.argmax(axis=-1) == self.truth[start : start + _BATCH]).sum())
        return 100 * right / len(self.judged)

    def lost(self, program: Program) -> float:
        """Points of accuracy lost."""
        return self.base - self.accuracy(program)


def run_case(case: Case, round_: Round, seeds: int) -> list[Record]:
    """Points lost at each of the case's picks, beside identity and random choice."""
    net = Shallow(case, round_)
    picks = sorted(case.bars)
    result = net.chosen(max(picks))
    whole = result.curve.points[0]
    records: list[Record] = []
    for pick in picks:
        plan = result.plans[pick]
        done = result.compiled if pick == result.picked else None
        program = net.refitted(plan) if done is None else done.program
        point = result.curve.points[pick]
        identity = net.lost(net.bare(plan))
        drawn = [net.lost(net.refitted(net.random_plan(pick, seed))) for seed in range(seeds)]
        beside = f"; random choice, refitted: {', '.join(f'{x:.2f}' for x in drawn)}"
        records.append(
            figure(
                f"{case.name}/points lost with {pick} out",
                net.lost(program),
                "points",
                f"<= {case.bars[pick]}",
                f"of {net.base:.2f} %, MACs {100 * point.macs / whole.macs:.0f} %; identity: "
                f"{identity:.2f}" + (beside if drawn else ""),
            )
        )
        if pick == picks[-1] or pick == 7:
            records += latency_records(case.name, pick, net.exact, program, point.macs / whole.macs)
    return records


def criteria_records(case: Case, round_: Round, pick: int, seeds: int) -> list[Record]:
    """Points lost with as many regions out by each criterion, all refitted alike on all frames."""
    net = Shallow(case, round_)
    plans = net.plans_by_criterion(pick)
    plans["measured step by step"] = net.chosen(pick).plans[pick]
    plans |= {f"random, seed {seed}": net.random_plan(pick, seed) for seed in range(seeds)}
    return [
        figure(f"{case.name}/{pick} out by {name}", net.lost(net.refitted(plan)), "points")
        for name, plan in plans.items()
    ]


def bytes_record(case: Case, round_: Round, budget: str) -> Record:
    """Points lost under a budget of weight bytes, by all that `compile` may do to one model."""
    net = Shallow(case, round_)
    options = replace(net.options, budget=parse_budget(budget))
    begun = time.perf_counter()
    result = compile_models(options)
    seconds = time.perf_counter() - begun
    cost, whole = program_cost(result.program), program_cost(net.original)
    kinds = Counter(str(planned.action.to_json()["kind"]) for planned in result.plan.actions)
    plan = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return figure(
        f"{case.name}/points lost at {budget} of the weights",
        net.lost(result.program),
        "points",
        None,
        f"weights {100 * cost.weights_nbytes / whole.weights_nbytes:.1f} %, MACs "
        f"{100 * cost.macs / whole.macs:.0f} %; {plan}; {seconds:.0f} s",
    )


def latency_records(
    name: str, pick: int, before: Program, after: Program, macs: float
) -> list[Record]:
    """How far the latency ratio is from the ratio of the MACs, at batch 1 and 32."""
    found: list[Record] = []
    for batch in (1, 32):
        ratio = latency_ratio(before, after, batch)
        found.append(
            figure(
                f"{name}/latency with {pick} out by its MACs, batch {batch}",
                ratio / macs,
                "ratio",
                "<= 1.1",
                f"latency {ratio:.3f}, MACs {macs:.3f} of the unchanged",
            )
        )
    return found


def latency_ratio(before: Program, after: Program, batch: int) -> float:
    """Median seconds of `after` by those of `before`, in turns, one thread, each run warmed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        ort.InferenceSession(
            to_proto(program).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for program in (before, after)
    ]
    entry = sessions[0].get_inputs()[0]
    shape = [batch, *(size for size in entry.shape[1:])]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    seconds: list[list[float]] = [[], []]
    for _ in range(LATENCY_RUNS):
        for session, taken in zip(sessions, seconds):
            feed: dict[str, NDArray[np.float32]] = {session.get_inputs()[0].name: x}
            session.run(None, feed)
            begun = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - begun)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


def cost_record(case: Case, round_: Round, frames: int) -> Record:
    """Seconds of the full curve by those of one plain pass over the same frames."""
    net = Shallow(case, round_)
    x = round_.zoo.frames(case.family, "calib2000", frames)
    models: Models = [("net", net.path)]
    wall: list[float] = []
    busy: list[float] = []

    def plain_pass() -> None:
        begun = time.process_time()
        wall.append(plain_pass_seconds(models, x))
        busy.append(time.process_time() - begun)

    plain_pass()
    begun, busy_begun = time.perf_counter(), time.process_time()
    result = depth(replace(net.options, frames=frames))
    seconds, busy_seconds = time.perf_counter() - begun, time.process_time() - busy_begun
    plain_pass()
    one, busy_one = statistics.mean(wall), statistics.mean(busy)
    return figure(
        f"{case.name}/cost of the full curve by one plain pass",
        seconds / one,
        "ratio",
        "<= 60",
        f"{len(result.curve.points) - 1} regions, {seconds:.0f} s, one pass {one:.1f} s; in "
        f"processor seconds, which a busy machine distorts less, {busy_seconds / busy_one:.0f}",
    )
