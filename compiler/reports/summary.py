"""From programs, plan and comparisons to the report: what was saved, shared, and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from ..actions.action import Action, Stage
from ..actions.bill import LEAST_SHARE
from ..actions.store_in_few_bits import why_in_float
from ..execution.measured_sizes import told_sizes, unknown_sizes
from ..execution.outputs import OutputComparison
from ..frames.calibration import Frames
from ..frames.tying import Tying
from ..graph.export import held_nbytes
from ..graph.program import Program, constants_of, constants_of_bodies, model_of, own_name
from ..graph.weights import bits_of, held_key, nbytes_by_bits, nbytes_of
from ..options import ANY_TARGET
from ..planning.plan import Plan, PlannedAction
from ..structure.cost import model_cost, program_cost
from ..units import Budget
from .integer_work import computed_in_float, macs_in_eight_bits
from .report import (
    MEMORY,
    WEIGHTS,
    ActionReport,
    FloatWeight,
    ModelReport,
    OutputFidelity,
    Report,
    Sharing,
)


@dataclass(frozen=True)
class Compilation:
    """What a compilation came to: from `original` (as read) to `program` by the plan.

    `compared` are the outputs of the two beside each other, `unverified` models that could not be
    compared with their files, and why. `lost_by_rounding` is by node what storing its weight in few
    bits was predicted to lose; None where nobody asked for few bits. `lost_by_computing` is by
    value what rounding it for the kernels of `target` was seen to lose by itself.
    """

    original: Program
    program: Program
    plan: Plan
    compared: Sequence[OutputComparison]
    unverified: Mapping[str, str] = field(default_factory=dict[str, str])
    lost_by_rounding: Mapping[str, float] | None = None
    target: str = "any"
    lost_by_computing: Mapping[str, float] = field(default_factory=dict[str, float])


def report_of(
    compiled: Compilation,
    memory: Mapping[str, int],
    frames: Frames | None,
    tying: Tying,
    notes: tuple[str, ...],
    budget: Budget | None,
) -> Report:
    """The report of a compilation.

    `memory` is what `structure.cost.predicted_memory` says of the merged program beside the
    models apart.
    """
    original, program = compiled.original, compiled.program
    sharing = _exact_sharing(program)
    for planned in compiled.plan.actions:
        if planned.action.stage is Stage.SHARING:
            mine = sharing.setdefault(planned.action.models[-1], [])
            mine.append(_sharing_of(original, planned.action))
    parts = _divided_weights(program)
    models: list[ModelReport] = []
    macs_before = 0
    for name in program.models:
        before, after = model_cost(original, name), model_cost(program, name)
        macs_before += before.macs
        models.append(
            ModelReport(
                name,
                before.weights_nbytes,
                sum(nbytes for _, nbytes in parts[name]),
                before.macs,
                after.macs,
                before.activations_peak_nbytes,
                after.activations_peak_nbytes,
                tuple(sharing.get(name, ())),
                tuple(OutputFidelity.of(c) for c in compiled.compared if c.model == name),
                compiled.unverified.get(name, ""),
                nbytes_by_bits(parts[name]),
                _in_float(compiled, name),
                macs_in_eight_bits(program, name),
                ()
                if compiled.target == ANY_TARGET
                else computed_in_float(program, name, compiled.target, compiled.lost_by_computing),
            )
        )
    counts = [] if frames is None else [frames.fit_rows(s[0]) for s in frames.streams]
    held_out = [] if frames is None else [frames.held_out_rows(s[0]) for s in frames.streams]
    return Report(
        tuple(models),
        weights_before_nbytes=memory["apart_weights_nbytes"],
        weights_after_nbytes=memory["merged_weights_nbytes"],
        memory_before_nbytes=memory["apart_nbytes"],
        memory_after_nbytes=memory["merged_nbytes"],
        macs_before=macs_before,
        macs_after=program_cost(program).macs,
        budget_nbytes=None if budget is None else budget.limit(memory["apart_weights_nbytes"]),
        budget_counts=MEMORY if budget is None or budget.nbytes is not None else WEIGHTS,
        frames_fit=sum(len(rows) for rows in counts),
        frames_held_out=sum(len(rows) for rows in held_out),
        inputs_tied=bool(tying.ties),
        ties=tuple(map(str, tying.ties)),
        sizes={f"{m}.{own}": sizes for (m, own), sizes in told_sizes(original).items() if sizes},
        sizes_unknown=unknown_sizes(original),
        notes=notes,
        actions=tuple(map(_action_report, compiled.plan.actions)),
        predicted_loss=compiled.plan.predicted,
        weights_by_bits=nbytes_by_bits(pair for part in parts.values() for pair in part),
        target=compiled.target,
    )


def _action_report(planned: PlannedAction) -> ActionReport:
    return ActionReport(
        planned.action.kind,
        planned.action.place,
        planned.weights_saved_nbytes,
        planned.macs_saved,
        planned.predicted,
        planned.action.series,
    )


def _divided_weights(program: Program) -> dict[str, list[tuple[int, int]]]:
    """Per model (bits, bytes) of each unique weight, divided evenly among those that read it."""
    # One that the top level reads too is held there, whatever its size.
    above = {tensor.name for tensor in constants_of(program.graph.nodes)}
    readers: dict[str, list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name in program.models:
        for node in program.nodes_of(name):
            read = [(tensor, held_key(tensor)) for tensor in constants_of([node])]
            read += [
                (tensor, held_key(tensor, in_body=tensor.name not in above))
                for tensor in constants_of_bodies([node])
            ]
            for tensor, key in read:
                # Numbers that happen to be some weight's scales are held with them.
                bits = max(bits_of(tensor), sizes[key][0] if key in sizes else 0)
                sizes[key] = bits, nbytes_of(tensor)
                if name not in readers.setdefault(key, []):
                    readers[key].append(name)
    parts: dict[str, list[tuple[int, int]]] = {name: [] for name in program.models}
    for key, names in readers.items():
        bits, nbytes = sizes[key]
        each, rest = divmod(nbytes, len(names))
        for index, name in enumerate(names):
            parts[name].append((bits, each + (1 if index < rest else 0)))
    return parts


def _in_float(compiled: Compilation, model: str) -> tuple[FloatWeight, ...]:
    """Large weights of a model that stay in float, where few bits were asked for."""
    lost = compiled.lost_by_rounding
    if lost is None:
        return ()
    enough = LEAST_SHARE * held_nbytes(compiled.original.graph.nodes)
    known = compiled.original.nodes()
    inside = {t.name for t in constants_of_bodies(compiled.program.graph.nodes)}
    found: dict[str, FloatWeight] = {}
    for node in compiled.program.nodes_of(model):
        before = held_nbytes([known[node.name]]) if node.name in known else 0
        narrower = held_nbytes([node]) < before
        for key, (weight, why) in why_in_float(node, inside).items():
            nbytes, loss = nbytes_of(weight), None
            if not why and nbytes < enough and (narrower or node.name not in lost):
                why = "saves too little"
            elif not why:
                why = "not in the plan" if before else "made by another rewrite"
                loss = lost.get(node.name)
            found.setdefault(key, FloatWeight(own_name(node.name), nbytes, why, loss))
    return tuple(found.values())


def _exact_sharing(program: Program) -> dict[str, list[Sharing]]:
    """Per model the nodes it shares, unchanged, with the model whose names they carry."""
    found: dict[str, list[Sharing]] = {}
    for name in program.models:
        nodes = program.nodes_of(name)
        mine = {id(node) for node in nodes}
        shared: dict[str, list[gs.Node]] = {}
        for node in nodes:
            sources = program.note(node.name).sources
            owners = [model_of(source) for source in sources]
            if name in owners and owners[0] != name and len(owners) > 1:
                shared.setdefault(owners[0], []).append(node)
        for donor, members in shared.items():
            inside = {id(node) for node in members}
            border = [
                tensor.name
                for node in members
                for tensor in node.outputs
                if any(id(r) in mine and id(r) not in inside for r in tensor.outputs)
            ]
            ends = tuple(own_name(value) for value in dict.fromkeys(border))
            depth = len(members) / max(len(nodes), 1)
            found.setdefault(name, []).append(Sharing(donor, ends, ends, depth, True))
    return found


def _sharing_of(original: Program, action: Action) -> Sharing:
    effect = action.effect(original)
    assert not isinstance(effect, str)
    swaps = effect.swaps
    values = original.values()
    ends = [values[swap.value] for swap in swaps if swap.value in values]
    before = {node.name for node in original.needed_nodes(ends)}
    owner = model_of(swaps[0].value)
    nodes = original.nodes_of(owner if owner in original.models else action.models[-1])
    depth = len([node for node in nodes if node.name in before]) / max(len(nodes), 1)
    return Sharing(
        action.models[0],
        tuple(own_name(value) for swap in swaps for value in swap.sources),
        tuple(own_name(swap.value) for swap in swaps),
        depth,
        False,
    )
