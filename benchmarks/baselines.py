"""Other ways to make the hidden layers of one network narrower, within the same limits.

All layers keep the same share of their units: by the size of their weights and nothing else; with
the reader compensated in closed form, as GRAIL (arXiv 2602.23795) does, on the uncentred Gram of
the uncompressed network; with our refit. And random shares with our refit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import shallow
from measuring import Round
from numpy.typing import NDArray
from records import Record, figure
from shallow import Shallow

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import StreamFeeds, fit_feeds
from repsimc.compiler.fitting.hidden_layers import layer_behind
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.pooling import Pool
from repsimc.compiler.fitting.regression import Affine
from repsimc.compiler.graph.program import Program
from repsimc.compiler.planning.limits import Limits
from repsimc.compiler.planning.plan import Plan, PlannedAction
from repsimc.compiler.structure.cost import program_cost
from repsimc.compiler.units import parse_budget, parse_macs

Array = NDArray[np.float64]
# By how much of its mean the diagonal of a Gram is raised, as GRAIL does.
GRAIL_RIDGE = 1e-3
# Shares of a layer's units that random choice leaves.
_SHARES = (0.75, 0.5, 0.25)
_HALVINGS = 12
RANDOM_SEEDS = 2

Widths = Mapping[str, int]
"""Units that are left, by the value that the operator behind the layer reads."""


def baseline_records(
    name: str, case: shallow.Case, wishes: Mapping[str, Any], round_: Round, frames: int | None
) -> list[Record]:
    """Points that the network loses by each other way, within the limits of the wishes."""
    net = Shallow(case, round_, frames)
    program, bills = net.exact, net.bench.bills
    limits = limits_of(wishes, net.original)
    layers = hidden_layers(program)
    assert net.bench.case.frames is not None
    feeds = fit_feeds(program, net.bench.case.frames, "net", None)
    even = even_widths(bills, layers, limits)

    def refitted(widths: Widths) -> Program:
        return net.refitted(plan_of_widths(widths))

    ways: list[tuple[str, Widths | None, Callable[[Widths], Program]]] = [
        ("smallest weights out", even, lambda widths: narrowed(program, widths)),
        ("GRAIL", even, lambda widths: compensated(program, widths, feeds)),
        ("even widths, our refit", even, refitted),
    ]
    for seed in range(0 if round_.quick else RANDOM_SEEDS):
        drawn = random_widths(bills, layers, limits, seed)
        ways.append((f"random widths, our refit, seed {seed}", drawn, refitted))
    whole = program_cost(net.original)
    found: list[Record] = []
    for way, widths, make in ways:
        title = f"{name}/points lost by {way}"
        if widths is None:
            found.append(figure(title, None, "points", None, "hidden layers cannot save so much"))
            continue
        made = make(widths)
        cost = program_cost(made)
        extra = (
            f"{len(widths)} layers, weights {100 * cost.weights_nbytes / whole.weights_nbytes:.1f} "
            f"%, MACs {100 * cost.macs / whole.macs:.1f} %"
        )
        found.append(figure(title, net.lost(made), "points", None, extra))
    return found


def limits_of(wishes: Mapping[str, Any], original: Program) -> Limits:
    """The limits that a case's `budget` and `max_macs` set, as shares of the original."""
    whole = program_cost(original)
    budget, macs = wishes.get("budget"), wishes.get("max_macs")
    return Limits(
        None if budget is None else parse_budget(budget).limit(whole.weights_nbytes),
        None if macs is None else parse_macs(macs).limit(whole.macs),
    )


def hidden_layers(program: Program) -> dict[str, int]:
    """The units of every hidden layer, by the value that the operator behind it reads."""
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        reader = linear_operator(node)
        layer = "" if reader is None else layer_behind(program, reader.source.name)
        if reader is not None and not isinstance(layer, str):
            found[reader.source.name] = layer.width
    return found


# -- widths ----------------------------------------------------------------------------------------


def plan_of_widths(widths: Widths) -> Plan:
    """A plan that leaves so many units and does nothing else."""
    return Plan({"net": ""}, tuple(PlannedAction(one) for one in actions_of(widths)), 0)


def actions_of(widths: Widths) -> list[NarrowLayerAction]:
    """The widths as actions."""
    return [NarrowLayerAction("net", value, units) for value, units in sorted(widths.items())]


def even_widths(bills: Bills, layers: Widths, limits: Limits) -> dict[str, int] | None:
    """The largest share of the units of all layers that is within the limits; None without one."""
    best: dict[str, int] | None = None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        widths = {value: max(1, int(share * width)) for value, width in layers.items()}
        widths = {value: units for value, units in widths.items() if units < layers[value]}
        if within(bills, widths, limits):
            best, low = widths, share
        else:
            high = share
    return best


def random_widths(bills: Bills, layers: Widths, limits: Limits, seed: int) -> dict[str, int] | None:
    """Layers in random order narrowed to random shares until all is within the limits."""
    draws = [(value, share) for value in sorted(layers) for share in _SHARES]
    widths: dict[str, int] = {}
    order: list[int] = np.random.default_rng(seed).permutation(len(draws)).tolist()
    for value, share in (draws[index] for index in order):
        units = max(1, int(share * layers[value]))
        if units < widths.get(value, layers[value]):
            widths[value] = units
        if within(bills, widths, limits):
            return widths
    return None


def within(bills: Bills, widths: Widths, limits: Limits) -> bool:
    """Whether the program is within the limits once its layers are so narrow."""
    bill = bills.bill(actions_of(widths))
    return bill is not None and limits.excess(bill) <= 0


# -- without our refit -----------------------------------------------------------------------------


def largest_units(program: Program, widths: Widths) -> dict[str, NDArray[np.int64]]:
    """Of each layer the units whose weights have the largest norm, sorted."""
    kept: dict[str, NDArray[np.int64]] = {}
    for value, units in widths.items():
        layer = layer_behind(program, value)
        assert not isinstance(layer, str)
        norms = np.square(layer.maker.affine().weight[0]).sum(axis=0)
        kept[value] = np.sort(np.argsort(-norms, kind="stable")[:units])
    return kept


def narrowed(program: Program, widths: Widths, mixes: Mapping[str, Array] | None = None) -> Program:
    """A copy in which each layer keeps its largest units.

    `mixes` [kept, units] by value say how much of each unit every kept one stands for in what reads
    them (default: itself alone).
    """
    made = program.copy()
    for value, kept in largest_units(program, widths).items():
        layer = layer_behind(made, value)
        assert not isinstance(layer, str)
        before = layer.reader.affine()
        mix = np.eye(layer.width)[kept] if mixes is None else mixes[value]
        taps = layer.reader.fan_in // layer.width
        weight = before.weight[0].reshape(layer.width, taps, -1)
        weight = np.einsum("ku,uto->kto", mix, weight).reshape(len(kept) * taps, -1)
        reader = Pool(layer, ()).narrow(made, kept)
        reader.write(made, Affine(weight[None], before.bias))
    return made


def compensated(program: Program, widths: Widths, feeds: StreamFeeds) -> Program:
    """The largest units, and readers that make up for the others as GRAIL does.

    Of what a unit u gave, (G_kk + ridge)^-1 G_ku is taken from the kept ones: G is the uncentred
    Gram of the units as the uncompressed network has them, over all positions.
    """
    grams = gram_matrices(program, sorted(widths), feeds)
    mixes: dict[str, Array] = {}
    for value, kept in largest_units(program, widths).items():
        gram = grams[value]
        corner = gram[np.ix_(kept, kept)]
        ridge = GRAIL_RIDGE * np.trace(corner) / len(kept)
        # A layer that is never on has a Gram of zeros: any mix will do.
        corner = corner + max(ridge, np.finfo(np.float64).tiny) * np.eye(len(kept))
        mixes[value] = np.linalg.solve(corner, gram[kept])
    return narrowed(program, widths, mixes)


def gram_matrices(program: Program, values: Sequence[str], feeds: StreamFeeds) -> dict[str, Array]:
    """X'X [units, units] of the values, a row for each position of each frame."""
    part = Executable(program, None, values)
    grams: dict[str, Array] = {}
    for batch in feeds.batches(part.inputs):
        for value, array in zip(part.outputs, part(batch)):
            layer = layer_behind(program, value)
            assert not isinstance(layer, str)
            last = layer.reader.channels_last
            rows = (array if last else np.moveaxis(array, 1, -1)).reshape(-1, layer.width)
            gram = rows.T.astype(np.float64) @ rows.astype(np.float64)
            grams[value] = grams.get(value, 0.0) + gram
    return grams
