"""What every kind of action is and does, as text: entry, price, passes, graph in, graph out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.kinds import KINDS, action_from_json
from repsimc.compiler.actions.plan_reader import PlanReader
from repsimc.compiler.fitting.reference import Reference
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.structure.cost import program_cost
from repsimc.passes.pipeline import CLEANING, run_passes
from tests.nets.by_kind import EXAMPLES
from tests.nets.evidence import GivenEvidence
from tests.passes.checking import numbered

GOLDEN = Path(__file__).parents[1] / "golden" / "actions"


def amounts(bill: Bill) -> str:
    return f"{bill.weights_nbytes} bytes of weights, {bill.macs} MACs"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_action_from_its_entry_to_the_graph(
    kind: str, golden: Callable[[str, str], None]
) -> None:
    example = EXAMPLES[kind]
    program, action = example.program(), example.action
    assert action.kind == kind
    action.check(program)
    frames = example.frames(program)
    bills = GivenEvidence(program, frames).bills
    bill, whole = bills.bill([action]), bills.bill([])
    assert bill is not None and whole is not None
    reference = Reference(program.copy(), frames)
    steps = passes_of([action], lambda one: reference)
    before = text(program)
    run_passes(program, steps)
    run_passes(program, CLEANING)
    verify(program)
    cost = program_cost(program)
    old, new = numbered(before, text(program))
    stem = kind.replace("-", "_")
    golden(
        f"actions/{stem}.txt",
        f"{json.dumps(action.to_json(), indent=2)}\n\n{action}\n\n"
        f"before {amounts(whole)}\nbilled {amounts(bill)}\n"
        f"after  {amounts(Bill(cost.weights_nbytes, cost.macs))}\n"
        f"passes {', '.join(step.name for step in steps)}\n\n"
        f"{old}\n-- {kind} --\n\n{new}",
    )


def test_every_kind_has_its_golden_text_and_every_golden_text_a_kind() -> None:
    names = {kind.name for kind in KINDS}
    assert set(EXAMPLES) == names
    assert {path.stem.replace("_", "-") for path in GOLDEN.glob("*.txt")} == names


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_golden_entry_is_read_again(kind: str) -> None:
    stem = kind.replace("-", "_")
    content = (GOLDEN / f"{stem}.txt").read_text(encoding="utf-8")
    entry = json.loads(content.partition("\n\n")[0])
    assert action_from_json(PlanReader("plan", "", entry)) == EXAMPLES[kind].action
