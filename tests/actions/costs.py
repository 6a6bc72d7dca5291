"""What actions cost once they are really carried out, beside what they were billed."""

from __future__ import annotations

from collections.abc import Sequence

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.bill import Bill, Bills
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.program import Program
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.pipeline import CLEANING, run_passes
from tests.nets.foldable import (
    images,
)
from tests.nets.networks import (
    ArrayFrames,
)


def cost_after(program: Program, actions: Sequence[Action], frames: ArrayFrames) -> Bill:
    done = program.copy()
    reference = Reference(program.copy(), frames)
    run_passes(done, passes_of(actions, lambda action: reference))
    run_passes(done, CLEANING)
    cost = program_cost(done)
    return Bill(cost.weights_nbytes, cost.macs)


def assert_billed(skeleton: Bills, actions: Sequence[Action]) -> None:
    bill, found = skeleton.bill(actions), cost_after(skeleton.program, actions, images())
    assert bill is not None and bill.macs == found.macs
    # Biases that were all zero were one constant; refitted they are not.
    assert 0 <= found.weights_nbytes - bill.weights_nbytes <= 72
